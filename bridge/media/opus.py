"""Opus packets: how long one plays (RFC 6716 §3.1), and how late they decode."""

from bridge.media.clock import NS_PER_MS

# Frame durations in microseconds by configuration number: RFC 6716 table 2.
_SILK_US = (10_000, 20_000, 40_000, 60_000)
_HYBRID_US = (10_000, 20_000)
_CELT_US = (2_500, 5_000, 10_000, 20_000)
# RFC 6716 §3.2.5 rule R5: a packet holds at most 120 ms.
MAX_PACKET_NS = 120 * NS_PER_MS
# libopus' lookahead in "audio" and "voip" mode at 48 kHz: 312 samples, 6.5 ms, which WebRTC senders use.
PRE_SKIP_SAMPLES = 312
# One stereo CELT frame of 20 ms whose first bit is its silence flag (RFC 6716 §4.3, table 56); decodes to zeros.
SILENCE_20_MS = b"\xfc\xff\xfe"


def packet_duration_ns(packet: bytes) -> int:
    """Playing time of one Opus packet, 0 for an empty one or one that breaks the 120 ms rule."""
    if not packet:
        return 0
    configuration = packet[0] >> 3
    if configuration < 12:
        frame_us = _SILK_US[configuration & 3]
    elif configuration < 16:
        frame_us = _HYBRID_US[configuration & 1]
    else:
        frame_us = _CELT_US[configuration & 3]
    code = packet[0] & 3
    if code == 3:
        n_frames = packet[1] & 63 if len(packet) > 1 else 0
    else:
        n_frames = 1 if code == 0 else 2
    duration_ns = n_frames * frame_us * 1000
    return duration_ns if duration_ns <= MAX_PACKET_NS else 0
