"""When pictures were captured, on our clock: where glass-to-glass latency begins.

A sender tells it on its own NTP clock: picture by picture, or by sender reports alone, which tie RTP timestamps to that
clock (RFC 3550 §6.4.1). No clock is common to both ends. How far the sender's is from ours is taken from its reports:
each says when it left, and of the last eight the one that was quickest on its way has met the fewest queues (the clock
filter of RFC 5905 §10). Half of the round trip that ICE has measured is what it needed.

So every time here errs by half of the difference between the way here and the way there, which nobody can measure from
one end (10 ms, where one is 20 ms longer), by half of what all eight reports have waited, and by what the sender itself
believes falsely. Crystals that differ by 100 ppm add 1 ms where a report comes every second, 4 ms at every fifth.

A sender clock that is set by more than a second is noticed at its next report, and measured anew; less is a matter of
eight reports, and until then wrong by as much.
"""

from collections import deque
from statistics import median_low

from bridge.media.access_unit import CaptureTime, ReceivedUnit
from bridge.media.clock import NS_PER_S, VIDEO_CLOCK_HZ, ticks_to_ns

# RFC 5905 §10: eight stages. libwebrtc reports on pictures once a second and on sound every five seconds.
N_REPORTS = 8
# A first report that was held up behind a keyframe is not believed alone.
N_SURE_REPORTS = 3
# aiortc stamps a report with the time of its last packet, which scatters by 2 ms; the median of five is steadier.
N_TIES = 5
# No network queue is as long: a report that contradicts the others by more is of a clock that was set.
STEP_NS = NS_PER_S
# Reports that have not come for six of their longest intervals: 100 ppm are 3 ms by then.
MAX_REPORT_AGE_NS = 30 * NS_PER_S
# Senders tell the capture time once a second or more often, to save bandwidth; RTP timestamps tell the rest.
MAX_STAMP_AGE_NS = 5 * NS_PER_S
# Nobody speaks with an avatar that is further away; what says so is wrong.
MAX_TRAVEL_NS = 10 * NS_PER_S


class CaptureTimes:
    """Capture times of the pictures of one connection, whose tracks share their sender's NTP clock.

    round_trip_ns  to the sender and back; 0: not known, and then nothing is known.
    """

    def __init__(self, round_trip_ns: int) -> None:
        self._round_trip_ns = round_trip_ns
        # Arrival - NTP time of what the sender has stamped: reports; and the least of a report and the pictures up to
        # the next one, by what reports say about their timestamps.
        self._reported_ns: deque[int] = deque(maxlen=N_REPORTS)
        self._arrived_ns: deque[int] = deque(maxlen=N_REPORTS)
        self._last_report_ns = 0
        self._ties_ns: deque[int] = deque(maxlen=N_TIES)  # NTP time - time of the media's clock
        self._tied_media_ns = 0
        self._stamp: tuple[int, int] | None = None  # of the newest picture with one: media time and NTP time

    def on_sender_report(self, ntp_ns: int, arrival_ns: int, picture_ticks: int | None) -> None:
        """Take a report of any track; `picture_ticks`: the RTP time in it, None in one about sound."""
        behind_ns = arrival_ns - ntp_ns
        if self._reported_ns and abs(behind_ns - min(self._reported_ns)) > STEP_NS:
            for known in (self._reported_ns, self._arrived_ns, self._ties_ns):
                known.clear()
            self._stamp = None
        self._reported_ns.append(behind_ns)
        self._arrived_ns.append(behind_ns)
        self._last_report_ns = arrival_ns
        if picture_ticks is not None:
            self._tied_media_ns = ticks_to_ns(picture_ticks, VIDEO_CLOCK_HZ)
            tie_ns = ntp_ns - self._tied_media_ns
            if self._ties_ns and abs(tie_ns - self._ties_ns[-1]) > STEP_NS:
                self._ties_ns.clear()  # the media clock began anew
            self._ties_ns.append(tie_ns)

    def of(self, picture: ReceivedUnit) -> CaptureTime | None:
        """When it was captured; None: not known, or what is said of it cannot be true."""
        media_ns = ticks_to_ns(picture.rtp_ticks, VIDEO_CLOCK_HZ)
        if picture.captured_ntp_ns:
            self._stamp = media_ns, picture.captured_ntp_ns
        age_ns = picture.first_arrival_ns - self._last_report_ns
        if not self._round_trip_ns or len(self._reported_ns) < N_SURE_REPORTS or age_ns > MAX_REPORT_AGE_NS:
            return None
        stamp_media_ns, stamp_ns = self._stamp or (media_ns - MAX_STAMP_AGE_NS - 1, 0)
        if 0 <= media_ns - stamp_media_ns <= MAX_STAMP_AGE_NS:
            told = CaptureTime(self._ours(stamp_ns + media_ns - stamp_media_ns, self._reported_ns), "capture")
        elif self._ties_ns and abs(media_ns - self._tied_media_ns) <= MAX_REPORT_AGE_NS:
            ntp_ns = media_ns + median_low(self._ties_ns)
            # Senders that report what they sent some time ago seem to be further away than their pictures.
            self._arrived_ns[-1] = min(self._arrived_ns[-1], picture.first_arrival_ns - ntp_ns)
            told = CaptureTime(self._ours(ntp_ns, self._arrived_ns), "sender_report")
        else:
            return None
        return told if 0 <= picture.first_arrival_ns - told.at_ns <= MAX_TRAVEL_NS else None

    def _ours(self, ntp_ns: int, behind_ns: deque[int]) -> int:
        return ntp_ns + min(behind_ns) - self._round_trip_ns // 2
