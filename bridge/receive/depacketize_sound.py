"""Opus (RFC 7587) and G.711 (RFC 3551 §4.5.14) in RTP."""

from collections.abc import Callable, Mapping, Sequence

from bridge.media import g711
from bridge.media.access_unit import Codec, ReceivedUnit
from bridge.media.clock import ns_to_ticks, ticks_to_ns
from bridge.media.opus import packet_duration_ns
from bridge.media.rtp import RtpPacket
from bridge.receive.jitter import MAX_STEP, ReceiveStats
from bridge.receive.sender_clock import SenderClock

# How long a packet plays, 0 for one that breaks its format.
_DURATION_NS: Mapping[Codec, Callable[[bytes], int]] = {
    Codec.OPUS: packet_duration_ns,
    Codec.PCMU: g711.duration_ns,
    Codec.PCMA: g711.duration_ns,
}


class SoundDepacketizer:
    """One packet is one unit.

    A unit is a discontinuity when sound is missing before it and so are packets, or one there was broken. Where no
    packet is missing the sender was silent and sent nothing (DTX), and a lost packet is believed to have held no more
    than those beside it. Sound of another sender, or of one that began anew, follows no loss.
    """

    lacks_keyframe = False

    def __init__(self, codec: Codec, clock: SenderClock, stats: ReceiveStats) -> None:
        self._codec = codec
        self._clock = clock
        self._stats = stats
        self._ssrc: int | None = None
        self._expected = 0  # the next packet's sequence number
        self._n_missing = 0  # packets since the last unit, lost or broken
        self._ends_ticks = 0
        self._duration_ns = 0

    def push(self, packet: RtpPacket) -> Sequence[ReceivedUnit]:
        payload = packet.payload
        n_missing = (packet.sequence_number - self._expected) & 0xFFFF
        if packet.ssrc != self._ssrc or n_missing > MAX_STEP:
            self._ssrc, self._n_missing, self._duration_ns = packet.ssrc, 0, 0
        else:
            self._n_missing += n_missing
        self._expected = (packet.sequence_number + 1) & 0xFFFF
        if not payload:
            return ()
        duration_ns = _DURATION_NS[self._codec](payload)
        if not duration_ns:
            self._stats.invalid += 1
            self._n_missing += 1
            return ()
        ticks = self._clock.ticks(packet.ssrc, packet.rtp_timestamp)
        lost_ns = self._lost_ns(ticks, duration_ns)
        self._n_missing, self._duration_ns = 0, duration_ns
        self._ends_ticks = ticks + ns_to_ticks(duration_ns, self._codec.rtp_clock_hz)
        arrival_ns = packet.arrival_ns
        return (
            ReceivedUnit(
                self._codec, payload, ticks, duration_ns, True, b"", arrival_ns, arrival_ns, lost_ns > 0, lost_ns
            ),
        )

    def starts_keyframe(self, payload: bytes) -> bool:
        return False

    def _lost_ns(self, ticks: int, duration_ns: int) -> int:
        if not self._n_missing or not self._duration_ns:
            return 0
        gap_ns = ticks_to_ns(max(0, ticks - self._ends_ticks), self._codec.rtp_clock_hz)
        return min(gap_ns, self._n_missing * max(self._duration_ns, duration_ns))
