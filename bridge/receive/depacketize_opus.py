"""Opus in RTP (RFC 7587)."""

from collections.abc import Sequence

from bridge.media.access_unit import Codec, ReceivedUnit
from bridge.media.clock import OPUS_CLOCK_HZ, ns_to_ticks
from bridge.media.opus import packet_duration_ns
from bridge.media.rtp import RtpPacket
from bridge.receive.jitter import ReceiveStats
from bridge.receive.sender_clock import SenderClock


class OpusDepacketizer:
    """One packet is one unit (RFC 7587 §4.2).

    A unit that does not begin where the one before it ended is a discontinuity: packets were lost, or the sender was
    silent and sent nothing (DTX).
    """

    lacks_keyframe = False

    def __init__(self, clock: SenderClock, stats: ReceiveStats) -> None:
        self._clock = clock
        self._stats = stats
        self._expected_ticks: int | None = None

    def push(self, packet: RtpPacket) -> Sequence[ReceivedUnit]:
        payload = packet.payload
        if not payload:
            return ()
        duration_ns = packet_duration_ns(payload)
        if not duration_ns:
            self._stats.invalid += 1
            return ()
        ticks = self._clock.ticks(packet.ssrc, packet.rtp_timestamp)
        is_discontinuity = self._expected_ticks is not None and ticks != self._expected_ticks
        self._expected_ticks = ticks + ns_to_ticks(duration_ns, OPUS_CLOCK_HZ)
        arrival_ns = packet.arrival_ns
        return (
            ReceivedUnit(Codec.OPUS, payload, ticks, duration_ns, True, b"", arrival_ns, arrival_ns, is_discontinuity),
        )
