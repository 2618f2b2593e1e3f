"""H.264 in RTP (RFC 6184)."""

from dataclasses import dataclass, field

from bridge.errors import RemoteProtocolError
from bridge.media.access_unit import Codec
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
from bridge.receive.jitter import ReceiveStats
from bridge.receive.parameter_sets import ParameterSets
from bridge.receive.pictures import MAX_UNIT_BYTES, Picture, PictureDepacketizer
from bridge.receive.sender_clock import SenderClock

# RFC 6184 table 1: what may stand in a packet besides a single NAL unit of type 1 to 23.
_STAP_A = 24
_FU_A = 28
# AVCDecoderConfigurationRecord has 16 bits for the length of a parameter set (ISO 14496-15 §5.3.3.1.2).
_MAX_PARAMETER_SET_BYTES = 0xFFFF


@dataclass(slots=True)
class _Picture(Picture):
    """is_whole_at_start: its first slice is the first one of the picture."""

    is_whole_at_start: bool = False
    has_slices: bool = False
    parameter_sets: list[bytes] = field(default_factory=list)
    parts: list[bytes] = field(default_factory=list)
    fragments: list[bytes] = field(default_factory=list)

    @property
    def has_pictures(self) -> bool:
        return self.has_slices or bool(self.fragments)  # else: parameter sets, SEI or padding only

    @property
    def payload(self) -> bytes:
        return b"".join(self.parts)

    def take(self, payload: bytes) -> bool:
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


class H264Depacketizer(PictureDepacketizer[_Picture]):
    """Single NAL units, STAP-A and FU-A (RFC 6184 §5.6, §5.7.1, §5.8) to pictures that can be decoded.

    A keyframe is intact if every packet of it is there, and if a loss touched its beginning, it starts with the first
    macroblock and brings its own SPS. Parameter sets, access unit delimiters and filler are taken out of the payload;
    those that the slices of a keyframe refer to stand in its `codec_config`.
    """

    codec = Codec.H264

    def __init__(self, clock: SenderClock, stats: ReceiveStats) -> None:
        super().__init__(clock, stats)
        self._parameter_sets = ParameterSets()

    def _begin(self, rtp_timestamp: int, rtp_ticks: int, is_after_loss: bool, arrival_ns: int) -> _Picture:
        return _Picture(rtp_timestamp, rtp_ticks, is_after_loss, arrival_ns, arrival_ns)

    def _on_end(self, picture: _Picture) -> None:
        """Keep the parameter sets it brought: some senders send each set only once."""
        try:
            for nal in picture.parameter_sets:
                self._parameter_sets.adopt(nal)
        except RemoteProtocolError:
            self._stats.invalid += 1
            self._drop(picture)

    def starts_keyframe(self, payload: bytes) -> bool:
        # One that follows a loss has to bring its parameter sets, and they come first.
        return payload[:1] != b"" and (
            nal_type(payload) == NAL_SPS
            or (nal_type(payload) == _STAP_A and len(payload) > 3 and nal_type(payload[3:]) == NAL_SPS)
        )

    def _configuration(self, picture: _Picture) -> bytes | None:
        if picture.fragments:
            return None
        return self._keyframe_configuration(picture) if picture.is_keyframe else b""

    def _keyframe_configuration(self, picture: _Picture) -> bytes | None:
        """The sets that an IDR picture refers to; None when one is not known, or the picture not intact."""
        slices = [nal for nal in picture.parts[1::2] if nal_type(nal) == NAL_IDR]
        try:
            needed = self._parameter_sets.of_picture(slices)
            if needed is None:
                return None
            sps, pps = needed
            if picture.is_after_loss and not (picture.is_whole_at_start and sps in picture.parameter_sets):
                return None
            return decoder_configuration(sps, *pps)
        except RemoteProtocolError:
            self._stats.invalid += 1
            return None
