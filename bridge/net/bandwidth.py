"""What a sender is told that the path carries (REMB, draft-alvestrand-rmcat-remb-03 §2.2). Pure."""

from bridge.media.clock import NS_PER_S

# A libwebrtc sender that hears of no bandwidth stays near its 300 kb/s start. Twice what a 1080p avatar sends: the
# ceiling is not to bind, and what the path cannot carry shows as loss.
CEILING_BPS = 20_000_000
# Where libwebrtc begins by itself: less is no picture, and a sender at rest must not be throttled by its own silence.
FLOOR_BPS = 300_000
# Single losses are repaired; libwebrtc's own controller leaves the rate alone up to 2 % and reduces it from 10 % on.
TOLERATED_LOSS = 0.05
DECREASE = 0.85
# Per second; libwebrtc's own controller adds as much (draft-ietf-rmcat-gcc-02 §6).
INCREASE = 1.08


class BandwidthEstimate:
    """From what arrives, and how much of it does not. `begun_ns`: `time.monotonic_ns` at which counting begins."""

    def __init__(self, begun_ns: int) -> None:
        self.bps = CEILING_BPS
        self.received_bytes = 0
        self._before_ns = begun_ns

    def update(self, now_ns: int, share_lost: float) -> int:
        """Bits per second for the time to come, `share_lost` being that of the packets since the last call."""
        elapsed_s = max(0.001, (now_ns - self._before_ns) / NS_PER_S)
        received_bps = 8 * self.received_bytes / elapsed_s
        self._before_ns, self.received_bytes = now_ns, 0
        wanted_bps = DECREASE * received_bps if share_lost > TOLERATED_LOSS else self.bps * INCREASE**elapsed_s
        self.bps = round(min(max(wanted_bps, FLOOR_BPS), CEILING_BPS))
        return self.bps
