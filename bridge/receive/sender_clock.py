"""One tick count for all that a track's senders stamp."""

from bridge.media.rtp import RtpUnwrapper, SenderReport

# Timestamps of two senders must never meet: 2^40 ticks are 141 days at 90 kHz.
_SENDER_SPAN_TICKS = 2**40


class SenderClock:
    """Unwraps the RTP timestamps of a track and of its sender reports to one tick count.

    A new SSRC has another random origin (RFC 3550 §5.1): its ticks start in a span of their own, so that whoever
    compares them sees a leap that no clock makes.
    """

    def __init__(self) -> None:
        self._ssrc: int | None = None
        self._origin_ticks = 0
        self._unwrapper = RtpUnwrapper()

    def ticks(self, ssrc: int, rtp_timestamp: int) -> int:
        if ssrc != self._ssrc:
            if self._ssrc is not None:
                self._origin_ticks += _SENDER_SPAN_TICKS
            self._ssrc = ssrc
            self._unwrapper = RtpUnwrapper()
        return self._origin_ticks + self._unwrapper.unwrap(rtp_timestamp)

    def report_ticks(self, report: SenderReport) -> int | None:
        """The report's timestamp on the same count; None when it is of another sender or has no NTP time."""
        if report.ssrc != self._ssrc or report.ntp_q32 == 0:
            return None
        return self._origin_ticks + self._unwrapper.nearest(report.rtp_timestamp)
