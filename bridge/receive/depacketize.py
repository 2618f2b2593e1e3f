"""RTP payloads to access units: H.264 (RFC 6184) and Opus (RFC 7587).

Packets come in sequence order; a step of more than one is a loss. Nothing that arrives makes a depacketizer raise:
payloads that break their format are counted and dropped with the unit they belong to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bridge.errors import RemoteProtocolError
from bridge.media.access_unit import Codec, ReceivedUnit
from bridge.media.clock import OPUS_CLOCK_HZ, ns_to_ticks
from bridge.media.h264 import (
    NAL_ACCESS_UNIT_DELIMITER,
    NAL_FILLER,
    NAL_IDR,
    NAL_PPS,
    NAL_SLICE,
    NAL_SPS,
    decoder_configuration,
    nal_type,
)
from bridge.media.opus import packet_duration_ns
from bridge.media.rtp import RtpPacket, RtpUnwrapper, SenderReport
from bridge.receive.jitter import ReceiveStats
from bridge.receive.parameter_sets import ParameterSets

# RFC 6184 table 1: what may stand in a packet besides a single NAL unit of type 1 to 23.
_STAP_A = 24
_FU_A = 28
# A picture that never ends must not take memory without limit. No live picture comes near: at 25 per second this
# would be 840 Mb/s.
MAX_UNIT_BYTES = 4 * 2**20
# AVCDecoderConfigurationRecord has 16 bits for the length of a parameter set (ISO 14496-15 §5.3.3.1.2).
_MAX_PARAMETER_SET_BYTES = 0xFFFF
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


class Depacketizer(Protocol):
    """Collects the packets of one track into units.

    `lacks_keyframe`: something was lost or dropped, and no keyframe has come since. Never true for sound.
    """

    @property
    def lacks_keyframe(self) -> bool: ...

    def push(self, packet: RtpPacket) -> Sequence[ReceivedUnit]: ...

    def starts_keyframe(self, payload: bytes) -> bool:
        """Whether a packet begins a picture that can be decoded without anything before it."""
        ...


@dataclass(slots=True)
class _Picture:
    """Payloads of one timestamp as they come together.

    rtp_timestamp     as on the wire; rtp_ticks: unwrapped.
    is_after_loss     packets are missing right before its first one: they may have belonged to it.
    is_broken         cannot be completed any more.
    is_whole_at_start its first slice is the first one of the picture.
    """

    rtp_timestamp: int
    rtp_ticks: int
    is_after_loss: bool
    first_arrival_ns: int
    last_arrival_ns: int
    is_broken: bool = False
    is_keyframe: bool = False
    is_whole_at_start: bool = False
    has_slices: bool = False
    n_bytes: int = 0
    parameter_sets: list[bytes] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)
    fragments: list[bytes] = field(default_factory=list)

    def take(self, payload: bytes) -> bool:
        """Add one packet's payload; false when it breaks RFC 6184."""
        self.n_bytes += len(payload)
        if payload[0] & 0x80 or self.n_bytes > MAX_UNIT_BYTES:  # forbidden_zero_bit: damaged on the way
            return False
        packet_type = nal_type(payload)
        if packet_type == _FU_A:
            return self._take_fragment(payload)
        if self.fragments:
            return False
        if packet_type == _STAP_A:
            return self._take_aggregate(payload)
        return self._take_nal(payload)

    def lacks_start_of(self, payload: bytes) -> bool:
        """Whether that goes on with a fragment whose start may be what was lost."""
        is_continuation = nal_type(payload) == _FU_A and len(payload) > 1 and not payload[1] & 0x80
        return is_continuation and self.is_after_loss and not self.fragments

    def _take_fragment(self, payload: bytes) -> bool:
        if len(payload) < 2:
            return False
        header = payload[1]
        if header & 0x80:
            if self.fragments:
                return False
            self.fragments.append(bytes([payload[0] & 0xE0 | header & 0x1F]))
        elif not self.fragments:
            return False
        self.fragments.append(payload[2:])
        if header & 0x40:
            nal = b"".join(self.fragments)
            self.fragments = []
            return self._take_nal(nal)
        return True

    def _take_aggregate(self, payload: bytes) -> bool:
        position = 1
        while position < len(payload):
            start = position + 2
            position = start + int.from_bytes(payload[position:start], "big")
            if position == start or position > len(payload) or not self._take_nal(payload[start:position]):
                return False
        return True

    def _take_nal(self, nal: bytes) -> bool:
        unit_type = nal_type(nal)
        if NAL_SLICE <= unit_type <= NAL_IDR:
            if not self.has_slices:
                self.has_slices = True
                # A slice header begins with first_mb_in_slice, and 0 is coded as a single 1 bit (H.264 §7.3.3, §9.1).
                self.is_whole_at_start = len(nal) > 1 and nal[1] >= 0x80
            if unit_type == NAL_IDR:
                self.is_keyframe = True
        elif unit_type in (NAL_SPS, NAL_PPS):
            if len(nal) > _MAX_PARAMETER_SET_BYTES:
                return False
            self.parameter_sets.append(nal)
            return True
        elif unit_type in (NAL_ACCESS_UNIT_DELIMITER, NAL_FILLER):
            return True
        elif not 1 <= unit_type <= 23:  # no NAL unit of H.264, or a packet type where none may stand
            return False
        self.parts.append(len(nal).to_bytes(4, "big"))
        self.parts.append(nal)
        return True


class H264Depacketizer:
    """Single NAL units, STAP-A and FU-A (RFC 6184 §5.6, §5.7.1, §5.8) to pictures that can be decoded.

    A picture is handed out at its marker bit, or when the next timestamp begins without one. After a loss nothing is
    handed out until an intact IDR picture: every packet of it is there, and if the loss touched its beginning, it
    starts with the first macroblock and brings its own SPS. Parameter sets, access unit delimiters and filler are
    taken out of the payload; those that the slices of a keyframe refer to stand in its `codec_config`.
    """

    def __init__(self, clock: SenderClock, stats: ReceiveStats) -> None:
        self.lacks_keyframe = False
        self._clock = clock
        self._stats = stats
        self._ssrc = self._expected = -1
        self._parameter_sets = ParameterSets()
        self._picture: _Picture | None = None
        self._is_after_loss = False
        self._awaiting_keyframe = True
        self._has_delivered = False
        self._is_discontinuity = False

    def push(self, packet: RtpPacket) -> Sequence[ReceivedUnit]:
        units: list[ReceivedUnit] = []
        picture, arrival_ns = self._picture, packet.arrival_ns
        if packet.sequence_number != self._expected or packet.ssrc != self._ssrc:
            self._is_after_loss = True
            self._is_discontinuity = self._has_delivered
            if picture is not None:
                self._drop(picture)  # its end may be what is missing
        self._expected = (packet.sequence_number + 1) & 0xFFFF
        self._ssrc = packet.ssrc
        is_next = picture is None or packet.rtp_timestamp != picture.rtp_timestamp
        if is_next and not packet.payload:
            return units  # padding between pictures
        if picture is None or is_next:
            if picture is not None:
                self._finish(picture, units)
            rtp_ticks = self._clock.ticks(packet.ssrc, packet.rtp_timestamp)
            picture = _Picture(packet.rtp_timestamp, rtp_ticks, self._is_after_loss, arrival_ns, arrival_ns)
            self._picture = picture
        # A retransmitted packet arrives after those that follow it.
        elif arrival_ns > picture.last_arrival_ns:
            picture.last_arrival_ns = arrival_ns
        elif arrival_ns < picture.first_arrival_ns:
            picture.first_arrival_ns = arrival_ns
        self._is_after_loss = False
        if packet.payload and not picture.is_broken and not picture.take(packet.payload):
            if not picture.lacks_start_of(packet.payload):
                self._stats.invalid += 1
            self._drop(picture)
        if packet.marker:
            self._finish(picture, units)
            self._picture = None
        return units

    def starts_keyframe(self, payload: bytes) -> bool:
        # One that follows a loss has to bring its parameter sets, and they come first.
        return payload[:1] != b"" and (
            nal_type(payload) == NAL_SPS
            or (nal_type(payload) == _STAP_A and len(payload) > 3 and nal_type(payload[3:]) == NAL_SPS)
        )

    def _drop(self, picture: _Picture) -> None:
        """The picture cannot be decoded, and with it all that refer to it."""
        picture.is_broken = True
        self._is_discontinuity = self._has_delivered
        self._awaiting_keyframe = True
        self.lacks_keyframe = True

    def _finish(self, picture: _Picture, units: list[ReceivedUnit]) -> None:
        """Hand the picture out, if it is one and can be decoded."""
        self._adopt_parameter_sets(picture)
        if picture.is_after_loss:
            self._awaiting_keyframe = True
        if picture.is_broken or not (picture.has_slices or picture.fragments):
            return  # the latter: parameter sets, SEI or padding only
        codec_config = self._configuration(picture) if picture.is_keyframe else b""
        is_decodable = bool(codec_config) if picture.is_keyframe else not self._awaiting_keyframe
        if picture.fragments or not is_decodable:
            self._drop(picture)
            return
        units.append(
            ReceivedUnit(
                Codec.H264,
                b"".join(picture.parts),
                picture.rtp_ticks,
                0,
                picture.is_keyframe,
                codec_config,
                picture.first_arrival_ns,
                picture.last_arrival_ns,
                self._is_discontinuity,
            )
        )
        self._has_delivered = True
        self._is_discontinuity = False
        if picture.is_keyframe:
            self._awaiting_keyframe = False
            self.lacks_keyframe = False

    def _adopt_parameter_sets(self, picture: _Picture) -> None:
        """Keep what a picture brought, even a broken one: some senders send each set only once."""
        try:
            for nal in picture.parameter_sets:
                self._parameter_sets.adopt(nal)
        except RemoteProtocolError:
            self._stats.invalid += 1
            self._drop(picture)

    def _configuration(self, picture: _Picture) -> bytes:
        """What a decoder needs before an IDR picture; empty when that is not known, or the picture not intact."""
        slices = [nal for nal in picture.parts[1::2] if nal_type(nal) == NAL_IDR]
        try:
            needed = self._parameter_sets.of_picture(slices)
            if needed is None:
                return b""
            sps, pps = needed
            if picture.is_after_loss and not (picture.is_whole_at_start and sps in picture.parameter_sets):
                return b""
            return decoder_configuration(sps, *pps)
        except RemoteProtocolError:
            self._stats.invalid += 1
            return b""


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

    def starts_keyframe(self, payload: bytes) -> bool:
        return False

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
