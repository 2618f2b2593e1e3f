"""What has come of one SSRC, as a receiver tells its sender."""

from aiortc import rtp as wire

from bridge.media.clock import NS_PER_S, ns_to_ticks
from bridge.media.rtp import sequence_distance


class ReceptionStatistics:
    """What a receiver report says about one SSRC (RFC 3550 §6.4.1, §A.3, §A.8)."""

    def __init__(self, clock_rate_hz: int) -> None:
        self._clock_rate_hz = clock_rate_hz
        self._received = 0
        self._first = self._highest = -1  # extended by the number of wraps
        self._expected_before = self._received_before = 0
        self._jitter_ticks_q4 = 0
        self._last_transit_ticks = 0
        self._last_timestamp = -1
        self._report_ntp_q32 = 0
        self._report_arrival_ns = 0

    def on_packet(self, sequence_number: int, rtp_timestamp: int, arrival_ns: int) -> None:
        self._received += 1
        if self._highest < 0:
            self._first = self._highest = sequence_number
        else:
            step = sequence_distance(sequence_number, self._highest & 0xFFFF)
            if step <= 0:
                return
            self._highest += step
        if rtp_timestamp == self._last_timestamp:
            return  # packets of one picture leave together, the later ones say nothing about the path
        transit_ticks = ns_to_ticks(arrival_ns, self._clock_rate_hz) - rtp_timestamp
        if self._last_timestamp >= 0:
            # On the 2**32 circle, where timestamps wrap.
            change = abs((transit_ticks - self._last_transit_ticks + 2**31) % 2**32 - 2**31)
            self._jitter_ticks_q4 += change - (self._jitter_ticks_q4 + 8 >> 4)
        self._last_transit_ticks = transit_ticks
        self._last_timestamp = rtp_timestamp

    def on_sender_report(self, ntp_q32: int, arrival_ns: int) -> None:
        self._report_ntp_q32 = ntp_q32
        self._report_arrival_ns = arrival_ns

    def report(self, ssrc: int, now_ns: int) -> wire.RtcpReceiverInfo | None:
        """The report block since the one before; None while nothing has come."""
        if not self._received:
            return None
        expected = self._highest - self._first + 1
        expected_now = expected - self._expected_before
        lost_now = expected_now - (self._received - self._received_before)
        self._expected_before, self._received_before = expected, self._received
        delay_ns = now_ns - self._report_arrival_ns
        return wire.RtcpReceiverInfo(
            ssrc=ssrc,
            fraction_lost=min(255, (lost_now << 8) // expected_now) if lost_now > 0 else 0,
            packets_lost=wire.clamp_packets_lost(expected - self._received),
            highest_sequence=self._highest & 0xFFFFFFFF,
            jitter=min(self._jitter_ticks_q4 >> 4, 0xFFFFFFFF),
            lsr=self._report_ntp_q32 >> 16 & 0xFFFFFFFF,
            dlsr=min((delay_ns << 16) // NS_PER_S, 0xFFFFFFFF) if self._report_ntp_q32 else 0,
        )
