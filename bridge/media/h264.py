"""H.264 byte formats and the few fields of a parameter set that the bridge reads (ITU-T H.264, ISO 14496-15)."""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bridge.errors import RemoteProtocolError

NAL_SLICE = 1
NAL_IDR = 5
NAL_SEI = 6
NAL_SPS = 7
NAL_PPS = 8
NAL_ACCESS_UNIT_DELIMITER = 9
NAL_FILLER = 12

# Ids of parameter sets are below these: H.264 §7.4.2.1.1, §7.4.2.2.
MAX_SEQUENCE_SETS = 32
MAX_PICTURE_SETS = 256

# profile_idc of those that WebRTC negotiates (H.264 §A.2).
PROFILE_NAMES = {66: "baseline", 77: "main", 100: "high"}
# Access unit delimiter, parameter sets and SEI come before the slices: no encoder writes more of them.
_MOST_BEFORE_SLICES = 8
# Profiles whose SPS carries chroma_format_idc and scaling lists: H.264 §7.3.2.1.1.
_HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})


def nal_type(nal: bytes) -> int:
    return nal[0] & 0x1F


def split_avcc(payload: bytes) -> Iterator[bytes]:
    """NAL units of a payload with 4-byte lengths. Raises RemoteProtocolError on a length past the end."""
    position, end = 0, len(payload)
    while position < end:
        if position + 4 > end:
            raise RemoteProtocolError("H.264 access unit ends inside a NAL length")
        length = int.from_bytes(payload[position : position + 4], "big")
        position += 4
        if position + length > end:
            raise RemoteProtocolError(f"H.264 NAL unit of {length} bytes runs past its access unit")
        yield payload[position : position + length]
        position += length


def join_avcc(nals: Iterable[bytes]) -> bytes:
    parts: list[bytes] = []
    for nal in nals:
        parts.append(len(nal).to_bytes(4, "big"))
        parts.append(nal)
    return b"".join(parts)


def split_annexb(stream: bytes) -> Iterator[bytes]:
    """NAL units between start codes of three or four bytes (H.264 annex B)."""
    start = stream.find(b"\0\0\1")
    while start >= 0:
        start += 3
        following = stream.find(b"\0\0\1", start)
        nal = stream[start : following if following >= 0 else len(stream)]
        # trailing_zero_8bits and the first byte of a four-byte start code do not belong to the NAL unit.
        nal = nal.rstrip(b"\0")
        if nal:
            yield nal
        start = following


def join_annexb(nals: Iterable[bytes]) -> bytes:
    return b"".join(b"\0\0\0\1" + nal for nal in nals)


def avcc_to_annexb(payload: bytes, codec_config: bytes = b"") -> bytes:
    """Start codes instead of lengths; with a codec_config its SPS and PPS come first."""
    return join_annexb(with_parameter_sets(payload, codec_config))


def with_parameter_sets(payload: bytes, codec_config: bytes) -> list[bytes]:
    """NAL units of a payload with 4-byte lengths; with a codec_config its SPS and PPS come first."""
    nals = list(split_avcc(payload))
    if not codec_config:
        return nals
    sequence_sets, picture_sets = parameter_sets(codec_config)
    return [*sequence_sets, *picture_sets, *nals]


def decoder_configuration(sps: bytes, *pps: bytes) -> bytes:
    """AVCDecoderConfigurationRecord for one SPS and 1 to 255 PPS, NAL lengths of 4 bytes (ISO 14496-15 §5.3.3.1)."""
    if len(sps) < 4 or not all(pps):
        raise RemoteProtocolError("H.264 parameter set is too short")
    if not 1 <= len(pps) <= 255:
        raise RemoteProtocolError(f"{len(pps)} H.264 picture parameter sets make no configuration")
    record = bytes([1, sps[1], sps[2], sps[3], 0xFF, 0xE1]) + struct.pack("!H", len(sps)) + sps
    record += bytes([len(pps)]) + b"".join(struct.pack("!H", len(each)) + each for each in pps)
    if sps[1] in _HIGH_PROFILES:
        # chroma_format 4:2:0 and 8 bits: the only ones WebRTC negotiates (RFC 7742 §6.2).
        record += bytes([0xFC | 1, 0xF8, 0xF8, 0])
    return record


def parameter_sets(codec_config: bytes) -> tuple[list[bytes], list[bytes]]:
    """SPS and PPS NAL units of an AVCDecoderConfigurationRecord. Raises RemoteProtocolError on a truncated one."""
    try:
        sequence_sets, position = _parameter_sets(codec_config, 5, 0x1F)
        picture_sets, _ = _parameter_sets(codec_config, position, 0xFF)
    except (IndexError, struct.error):
        raise RemoteProtocolError(f"AVC configuration of {len(codec_config)} bytes is truncated") from None
    return sequence_sets, picture_sets


def _parameter_sets(codec_config: bytes, position: int, count_mask: int) -> tuple[list[bytes], int]:
    found: list[bytes] = []
    count = codec_config[position] & count_mask
    position += 1
    for _ in range(count):
        (length,) = struct.unpack_from("!H", codec_config, position)
        position += 2 + length
        if position > len(codec_config):
            raise IndexError
        found.append(codec_config[position - length : position])
    return found, position


def sequence_set_id(sps: bytes) -> int:
    """seq_parameter_set_id of an SPS, 0 to 31 (H.264 §7.3.2.1.1). Raises RemoteProtocolError on a broken one."""
    (number,) = _leading_numbers(sps[4:], 1)
    return _checked_id(number, MAX_SEQUENCE_SETS)


def picture_set_ids(pps: bytes) -> tuple[int, int]:
    """pic_parameter_set_id of a PPS, 0 to 255, and the id of its SPS (H.264 §7.3.2.2). Raises like the above."""
    picture_set, sequence_set = _leading_numbers(pps[1:], 2)
    return _checked_id(picture_set, MAX_PICTURE_SETS), _checked_id(sequence_set, MAX_SEQUENCE_SETS)


def slice_picture_set_id(coded_slice: bytes) -> int:
    """The id of the PPS that a slice refers to, third in its header (H.264 §7.3.3). Raises like the above."""
    _first_mb, _slice_type, picture_set = _leading_numbers(coded_slice[1:], 3)
    return _checked_id(picture_set, MAX_PICTURE_SETS)


def is_b_picture(payload: bytes) -> bool:
    """Whether the first slice of a picture, NAL lengths of 4 bytes, is a B slice (H.264 §7.3.3, table 7-6).

    One byte tells: a picture begins with first_mb_in_slice 0, which is the bit 1; slice_type 1 or 6 is 010 or 00111.
    """
    position = 0
    for _ in range(_MOST_BEFORE_SLICES):
        header = payload[position + 4 : position + 6]
        if len(header) < 2 or header[0] & 0x1F == NAL_IDR:
            return False
        if header[0] & 0x1F == NAL_SLICE:
            return header[1] & 0b1111_0000 == 0b1010_0000 or header[1] & 0b1111_1100 == 0b1001_1100
        position += 4 + int.from_bytes(payload[position : position + 4], "big")
    return False


def _leading_numbers(payload: bytes, count: int) -> list[int]:
    # Three numbers of at most 33 bits each, and what emulation prevention may add to them.
    bits = _Bits(_without_emulation_prevention(payload[:20]))
    try:
        return [bits.exp_golomb() for _ in range(count)]
    except IndexError:
        raise RemoteProtocolError("H.264 NAL unit ends before its ids") from None


def _checked_id(number: int, limit: int) -> int:
    if number >= limit:
        raise RemoteProtocolError(f"H.264 parameter set id {number} is not below {limit}")
    return number


@dataclass(frozen=True, slots=True)
class SequenceParameters:
    """What the bridge reads of an SPS."""

    profile_idc: int
    level_idc: int
    width_px: int
    height_px: int

    @property
    def profile(self) -> str:
        """Its name for people."""
        return PROFILE_NAMES.get(self.profile_idc, f"profile {self.profile_idc}")

    @property
    def level(self) -> float:
        return self.level_idc / 10


def parse_sps(sps: bytes) -> SequenceParameters:
    """Profile, level and cropped picture size (H.264 §7.3.2.1.1). Raises RemoteProtocolError on a broken one."""
    try:
        return _parse_sps(_Bits(_without_emulation_prevention(sps[1:])))
    except IndexError:
        raise RemoteProtocolError("H.264 sequence parameter set is truncated") from None


def is_same_format(codec_config: bytes, other_config: bytes) -> bool:
    """Whether two AVCDecoderConfigurationRecords have the same profile, level and picture size.

    Encoders may number their parameter sets anew at every keyframe (OpenH264, INCREASING_ID): their bytes differ then
    and the format does not. Records that cannot be read are the same only if they are equal.
    """
    if codec_config == other_config:
        return True
    try:
        return _formats(codec_config) == _formats(other_config)
    except RemoteProtocolError:
        return False


def _formats(codec_config: bytes) -> set[SequenceParameters]:
    sequence_sets, _ = parameter_sets(codec_config)
    if not sequence_sets:
        raise RemoteProtocolError("AVC configuration has no sequence parameter set")
    return {parse_sps(sps) for sps in sequence_sets}


def _parse_sps(bits: "_Bits") -> SequenceParameters:
    profile_idc = bits.read(8)
    bits.read(8)  # constraint flags
    level_idc = bits.read(8)
    bits.exp_golomb()  # seq_parameter_set_id
    chroma_format_idc = 1
    separate_planes = 0
    if profile_idc in _HIGH_PROFILES:
        chroma_format_idc = bits.exp_golomb()
        if chroma_format_idc == 3:
            separate_planes = bits.read(1)
        bits.exp_golomb()  # bit_depth_luma_minus8
        bits.exp_golomb()  # bit_depth_chroma_minus8
        bits.read(1)  # qpprime_y_zero_transform_bypass_flag
        if bits.read(1):
            for index in range(8 if chroma_format_idc != 3 else 12):
                if bits.read(1):
                    _skip_scaling_list(bits, 16 if index < 6 else 64)
    bits.exp_golomb()  # log2_max_frame_num_minus4
    order_count_type = bits.exp_golomb()
    if order_count_type == 0:
        bits.exp_golomb()
    elif order_count_type == 1:
        bits.read(1)
        bits.signed_exp_golomb()
        bits.signed_exp_golomb()
        for _ in range(bits.exp_golomb()):
            bits.signed_exp_golomb()
    bits.exp_golomb()  # max_num_ref_frames
    bits.read(1)  # gaps_in_frame_num_value_allowed_flag
    width_mbs = bits.exp_golomb() + 1
    height_map_units = bits.exp_golomb() + 1
    frame_mbs_only = bits.read(1)
    if not frame_mbs_only:
        bits.read(1)
    bits.read(1)  # direct_8x8_inference_flag
    left = right = top = bottom = 0
    if bits.read(1):
        left, right, top, bottom = (bits.exp_golomb() for _ in range(4))
    # H.264 §7.4.2.1.1, equations 7-19 to 7-22: crop units depend on the chroma format and on interlacing.
    has_chroma = chroma_format_idc != 0 and not separate_planes
    crop_x = 2 if has_chroma and chroma_format_idc in (1, 2) else 1
    crop_y = (2 if has_chroma and chroma_format_idc == 1 else 1) * (2 - frame_mbs_only)
    width_px = width_mbs * 16 - crop_x * (left + right)
    height_px = height_map_units * 16 * (2 - frame_mbs_only) - crop_y * (top + bottom)
    if width_px <= 0 or height_px <= 0:
        raise RemoteProtocolError(f"H.264 sequence parameter set crops its picture to {width_px}x{height_px}")
    return SequenceParameters(profile_idc, level_idc, width_px, height_px)


def _skip_scaling_list(bits: "_Bits", size: int) -> None:
    last, following = 8, 8
    for _ in range(size):
        if following:
            following = (last + bits.signed_exp_golomb()) % 256
        last = following or last


def _without_emulation_prevention(rbsp: bytes) -> bytes:
    return rbsp.replace(b"\0\0\3", b"\0\0")


class _Bits:
    """Reads a bit string from its front; IndexError past the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def read(self, n_bits: int) -> int:
        value = 0
        for _ in range(n_bits):
            byte = self._data[self._position >> 3]
            value = value << 1 | byte >> (7 - (self._position & 7)) & 1
            self._position += 1
        return value

    def exp_golomb(self) -> int:
        zeros = 0
        while not self.read(1):
            zeros += 1
            if zeros > 32:
                raise IndexError
        return (1 << zeros) - 1 + self.read(zeros)

    def signed_exp_golomb(self) -> int:
        code = self.exp_golomb()
        return (code + 1) // 2 if code & 1 else -(code // 2)
