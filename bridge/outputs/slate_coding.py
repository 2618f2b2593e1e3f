"""Slates as H.264 in the format of the live pictures: x264, without pictures that refer to later ones."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

import av
from av.video.frame import PictureType

from bridge.errors import InternalError, RemoteProtocolError
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_S
from bridge.media.h264 import (
    NAL_IDR,
    NAL_PPS,
    NAL_SLICE,
    NAL_SPS,
    decoder_configuration,
    join_avcc,
    nal_type,
    parameter_sets,
    split_annexb,
)
from bridge.media.picture_format import PictureSize, stream_format
from bridge.media.slate_pictures import SlatePictures

FPS = 25
# 4096x2304, the most that any level below 6 allows (H.264 table A-1: 36864 macroblocks): more is not coded
# in real time.
MOST_PIXELS = 36_864 * 256

# x264's scale, on which 18 is taken for lossless to the eye: still pictures are looked at for long.
_QUALITY = 19
# A limit for busy clips, in bits per second and pixel: 2.3 Mb/s at 720x1280, what a service sends of an avatar there.
# Of the buffer's 0.8 s no keyframe takes more than nine tenths, 207 kB at that size.
_BITS_PER_S_AND_PIXEL = 2.5
_BUFFER_S = 0.8

# What the tools below need at least, by profile_idc. Decoders of any other profile that WebRTC negotiates take High.
_TOOLS = {66: "cabac=0:8x8dct=0", 77: "cabac=1:8x8dct=0", 100: "cabac=1:8x8dct=1"}
_BASELINE = 66
# H.264 §7.4.2.1.1: "obeys baseline", which has no CABAC, and "intra only", claim what other profiles here do not keep.
_CLAIMS_OF_LESS = 0x80 | 0x10


@dataclass(frozen=True, slots=True)
class PictureFormat:
    """Picture size, and what a decoder is chosen by: profile_idc, constraint flags, level_idc (H.264 §7.3.2.1.1)."""

    width_px: int
    height_px: int
    profile_idc: int
    constraint_flags: int
    level_idc: int

    @classmethod
    def of(cls, keyframe: AccessUnit) -> "PictureFormat":
        """That of a keyframe; of VP8 its size, made even. Raises RemoteProtocolError on a broken or an odd one."""
        size = stream_format(keyframe).size
        if keyframe.codec is not Codec.H264:
            size = PictureSize(*(max(_LEAST_SIDE_PX, side + side % 2) for side in size))
        if any(side % 2 for side in size) or size.n_pixels > MOST_PIXELS:
            raise RemoteProtocolError(f"pictures of {size} are odd, or larger than any avatar's")
        if keyframe.codec is not Codec.H264:
            level_idc = USUAL_FORMAT.level_idc if size.n_pixels <= _USUAL_PIXELS else _HIGHEST_LEVEL
            return replace(USUAL_FORMAT, width_px=size.width_px, height_px=size.height_px, level_idc=level_idc)
        sps = parameter_sets(keyframe.codec_config)[0][0]
        return cls(size.width_px, size.height_px, sps[1], sps[2], sps[3])


# What avatar services send: upright, constrained baseline (flags 0 to 2), level 3.1.
USUAL_FORMAT = PictureFormat(720, 1280, _BASELINE, 0xE0, 31)
# What its level allows (H.264 table A-1: 3600 macroblocks), and the level that allows `MOST_PIXELS`.
_USUAL_PIXELS, _HIGHEST_LEVEL = 3600 * 256, 51
# x264 takes no less.
_LEAST_SIDE_PX = 16


def encode(pictures: Iterable[av.VideoFrame], like: PictureFormat, group_pictures: int) -> SlatePictures:
    """Code pictures of one size and colour space, 25 a second, with a keyframe every `group_pictures`.

    Raises InternalError if there are fewer than two.
    """
    payloads: list[bytes] = []
    keyframes: list[int] = []
    codec_config = b""
    encoder: av.VideoCodecContext | None = None
    for number, picture in enumerate(pictures):
        encoder = encoder or _encoder(picture, like, group_pictures)
        picture.pts, picture.time_base = number, Fraction(1, FPS)
        picture.pict_type = PictureType.NONE  # a decoded one would be coded as what it was
        nals = [nal for packet in encoder.encode(picture) for nal in split_annexb(bytes(packet))]
        if nal_type(nals[-1]) == NAL_IDR:
            keyframes.append(number)
        payloads.append(join_avcc(nal for nal in nals if nal_type(nal) in (NAL_SLICE, NAL_IDR)))
        codec_config = codec_config or _configuration(nals, like)
    # Before the first one, which follows it, another IDR picture could have the same idr_pic_id (§7.4.3).
    if len(payloads) > 2 and keyframes[-1] == len(payloads) - 1:
        del payloads[keyframes.pop()]
    if len(payloads) < 2:
        raise InternalError(f"{len(payloads)} pictures make no slate")
    return SlatePictures(codec_config, tuple(payloads), NS_PER_S // FPS, frozenset(keyframes))


def _encoder(picture: av.VideoFrame, like: PictureFormat, group_pictures: int) -> av.VideoCodecContext:
    encoder = av.VideoCodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = picture.width, picture.height, picture.format.name
    encoder.time_base, encoder.framerate = Fraction(1, FPS), Fraction(FPS)
    encoder.color_range = picture.color_range
    encoder.color_primaries, encoder.color_trc = picture.color_primaries, picture.color_trc
    encoder.colorspace = picture.colorspace
    encoder.thread_count = 1
    bits_per_s = round(_BITS_PER_S_AND_PIXEL * picture.width * picture.height)
    tools = _TOOLS.get(like.profile_idc, _TOOLS[100])
    encoder.options = {
        "preset": "veryfast",
        "tune": "zerolatency",
        "crf": str(_QUALITY),
        "maxrate": str(bits_per_s),
        "bufsize": str(round(_BUFFER_S * bits_per_s)),
        "x264-params": f"{tools}:keyint={group_pictures}:min-keyint={group_pictures}:scenecut=0:open-gop=0:slices=1"
        # What every level from 1.1 on allows (H.264 table A-1), since that of the live pictures is put on the label.
        ":ref=1:bframes=0:weightp=0:mvrange=127"
        # Dark pictures of few values get more bits, or their gradients show steps.
        ":aq-mode=3",
    }
    return encoder


def _configuration(nals: list[bytes], like: PictureFormat) -> bytes:
    """That of x264, under the label of the live pictures as far as it is true."""
    (sps,) = (nal for nal in nals if nal_type(nal) == NAL_SPS)
    (pps,) = (nal for nal in nals if nal_type(nal) == NAL_PPS)
    if sps[1] == like.profile_idc:
        flags = like.constraint_flags if sps[1] == _BASELINE else like.constraint_flags & ~_CLAIMS_OF_LESS
        sps = bytes([sps[0], sps[1], flags, like.level_idc]) + sps[4:]
    return decoder_configuration(sps, pps)
