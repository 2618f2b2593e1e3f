"""Pictures of one size and rate as H.264: x264 at a bit rate, with keyframes exactly as far apart as is asked for."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
from av.video.frame import PictureType, VideoFrame

from bridge.errors import InternalError
from bridge.media.h264 import (
    NAL_ACCESS_UNIT_DELIMITER,
    NAL_IDR,
    NAL_PPS,
    NAL_SPS,
    decoder_configuration,
    join_avcc,
    nal_type,
    split_annexb,
)
from bridge.outputs.canvas import Fit
from bridge.outputs.overlay import OverlaySettings

Profile = Literal["baseline", "main", "high"]

# What is sent in any time may differ from the rate by the whole buffer: 7.5 % of two seconds, and 15 % of one. Measured
# with cuts between the keyframes, where 0.3 s differed by 7.5 % of two seconds, it is 4.4 % at most. It costs 0.2 dB. A
# picture takes nine tenths at most, 50 kB at 3 Mb/s, which is what keyframes of 720p take there.
_BUFFER_S = 0.15
# What veryfast does besides, and a talking head has little use for. Measured at 720p30 and 3 Mb/s, in time and in PSNR:
# motion of parts of macroblocks takes 20 to 40 % for 0.0 to 0.4 dB, prediction of parts from their neighbours 0 to 15 %
# for 0.0 to 0.4 dB, forgetting what is nearly nothing 1 to 7 % for 0.1 dB either way (0.5 on a drawn face, at 53 dB).
_LEFT_OUT = "partitions=none:dct-decimate=0"
_STANDS_OUTSIDE = (NAL_SPS, NAL_PPS, NAL_ACCESS_UNIT_DELIMITER)
_NEVER = 1 << 30  # pictures: x264 makes no keyframe by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendition:
    """What pictures are made into; outputs that want the same share one encoder.

    fit, background  how pictures of another shape are shown: see `canvas`.  overlay: what is painted over them.
    bit_rate         bits per second.  is_constant: filler makes up for pictures that need fewer.
    keyframe_s       distance of keyframes, rounded to whole pictures.
    level_idc        on the label, unless the pictures need a higher one (H.264 §A.3).
    """

    width_px: int
    height_px: int
    fps: int
    bit_rate: int
    keyframe_s: float = 2.0
    profile: Profile = "main"
    level_idc: int = 0
    is_constant: bool = True
    fit: Fit = "contain"
    background: str = "000000"
    overlay: OverlaySettings | None = None

    def __str__(self) -> str:
        rate = f"{self.bit_rate / 1e6:g} Mb/s" + (" constant" if self.is_constant else "")
        return f"{self.width_px}x{self.height_px} {self.fps}/s {rate} {self.profile}, {self.fit}"

    @property
    def group_pictures(self) -> int:
        return max(1, round(self.keyframe_s * self.fps))


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """Payload and `codec_config` as in `AccessUnit`."""

    payload: bytes
    is_keyframe: bool
    codec_config: bytes = b""


class PictureEncoder:
    """x264 as live encoders run it: none held back, no B-pictures, closed groups, one thread. Blocks.

    A picture is a keyframe where its number begins a group, or is the first behind one that was left out.
    """

    def __init__(self, rendition: Rendition, matrix: int) -> None:
        """`matrix` is that of the pictures (H.264 table E-5), which stands in the stream."""
        self._group = rendition.group_pictures
        self._level_idc = rendition.level_idc
        self._last_group: int | None = None
        self._encoder = encoder = av.VideoCodecContext.create("libx264", "w")
        encoder.width, encoder.height, encoder.pix_fmt = rendition.width_px, rendition.height_px, "yuv420p"
        encoder.time_base, encoder.framerate = Fraction(1, rendition.fps), Fraction(rendition.fps)
        encoder.color_primaries = encoder.color_trc = encoder.colorspace = matrix
        encoder.color_range = 1
        encoder.bit_rate = rendition.bit_rate
        encoder.gop_size = _NEVER
        encoder.thread_count = 1
        encoder.options = {
            "preset": "veryfast",
            "tune": "zerolatency",
            "profile": rendition.profile,
            "forced-idr": "1",
            "maxrate": str(rendition.bit_rate),
            "bufsize": str(round(_BUFFER_S * rendition.bit_rate)),
            "x264-params": f"scenecut=0:open-gop=0:slices=1:sliced-threads=0:{_LEFT_OUT}"
            + (":nal-hrd=cbr" if rendition.is_constant else ""),
        }

    def encode(self, frame: VideoFrame, number: int) -> EncodedPicture:
        """Code a frame of the canvas as picture `number`; numbers grow. Raises InternalError, av.FFmpegError."""
        group = number // self._group
        begins_group = group != self._last_group
        self._last_group = group
        frame.pts, frame.time_base = number, self._encoder.time_base
        # A decoded frame would be coded as what it was.
        frame.pict_type = PictureType.I if begins_group else PictureType.NONE
        nals = [nal for packet in self._encoder.encode(frame) for nal in split_annexb(bytes(packet))]
        if not nals:
            raise InternalError("x264 held a picture back")
        payload = join_avcc(nal for nal in nals if nal_type(nal) not in _STANDS_OUTSIDE)
        if not any(nal_type(nal) == NAL_IDR for nal in nals):
            return EncodedPicture(payload, is_keyframe=False)
        (sps,) = (nal for nal in nals if nal_type(nal) == NAL_SPS)
        (pps,) = (nal for nal in nals if nal_type(nal) == NAL_PPS)
        sps = sps[:3] + bytes([max(sps[3], self._level_idc)]) + sps[4:]
        return EncodedPicture(payload, is_keyframe=True, codec_config=decoder_configuration(sps, pps))
