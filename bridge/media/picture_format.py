"""The format of coded pictures, whatever their codec, as their keyframes tell it."""

from typing import NamedTuple

from bridge.errors import RemoteProtocolError
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.h264 import is_same_format as is_same_avc_format
from bridge.media.h264 import parameter_sets, parse_sps

# RFC 6386 §9.1: three bytes of frame tag, a start code, and two sizes of 14 bits, each below two bits of scaling.
_VP8_START_CODE = b"\x9d\x01\x2a"
_VP8_HEADER_BYTES = 10
_VP8_SIZES = slice(6, 10)
_VP8_SIZE_MASK = 0x3FFF


class PictureSize(NamedTuple):
    """Width and height in pixels."""

    width_px: int
    height_px: int

    def __str__(self) -> str:
        return f"{self.width_px}x{self.height_px}"

    @property
    def n_pixels(self) -> int:
        return self.width_px * self.height_px


class StreamFormat(NamedTuple):
    """Size, and of H.264 what a decoder is chosen by: profile_idc and level_idc; else 0."""

    size: PictureSize
    profile_idc: int = 0
    level_idc: int = 0


def stream_format(keyframe: AccessUnit) -> StreamFormat:
    """The format of the pictures from this one on. Raises RemoteProtocolError where it cannot be read."""
    if keyframe.codec is Codec.VP8:
        return StreamFormat(_vp8_size(keyframe.payload))
    sequence_sets, _ = parameter_sets(keyframe.codec_config)
    if not sequence_sets:
        raise RemoteProtocolError("AVC configuration has no sequence parameter set")
    picture = parse_sps(sequence_sets[0])
    return StreamFormat(PictureSize(picture.width_px, picture.height_px), picture.profile_idc, picture.level_idc)


def is_same_format(keyframe: AccessUnit, other: AccessUnit) -> bool:
    """Whether two keyframes have the same codec, size, profile and level."""
    if keyframe.codec is not other.codec:
        return False
    if keyframe.codec is Codec.H264:
        return is_same_avc_format(keyframe.codec_config, other.codec_config)
    return keyframe.payload[_VP8_SIZES] == other.payload[_VP8_SIZES]


def _vp8_size(frame: bytes) -> PictureSize:
    if len(frame) < _VP8_HEADER_BYTES or frame[3:6] != _VP8_START_CODE:
        raise RemoteProtocolError(f"VP8 frame of {len(frame)} bytes has no header of a keyframe")
    width_px = int.from_bytes(frame[6:8], "little") & _VP8_SIZE_MASK
    height_px = int.from_bytes(frame[8:10], "little") & _VP8_SIZE_MASK
    if not width_px or not height_px:
        raise RemoteProtocolError(f"VP8 keyframe of {width_px}x{height_px}")
    return PictureSize(width_px, height_px)
