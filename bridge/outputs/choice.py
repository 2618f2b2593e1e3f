"""How an output gets its pictures: as they come, encoded anew, or the slate in their place; and why."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple

from bridge.media.access_unit import Codec
from bridge.media.picture_format import PictureSize, StreamFormat
from bridge.outputs.canvas import Fit
from bridge.outputs.encoder import Profile, Rendition
from bridge.outputs.overlay import OverlaySettings
from bridge.outputs.slate_coding import MOST_PIXELS
from bridge.presets import Preset

FPS = 30  # what every platform takes; an avatar's 25 are shown with every fifth one twice
# 3 Mb/s at 720p30, what platforms ask for there (Twitch, YouTube, Cloudflare: 3 to 4.5), and likewise for more and for
# fewer pixels.
_BITS_PER_PIXEL = 3_000_000 / (1280 * 720 * 30)
_LEAST_BIT_RATE = 200_000
# x264 takes no less, and no viewer sees it.
_LEAST_SIDE_PX = 32
# By profile_idc (H.264 §A.2); any other is encoded as what the output's kind takes.
_PROFILES: Mapping[int, Profile] = {66: "baseline", 77: "main", 100: "high"}
# What every output carries as it comes.
_CARRIED = Codec.H264


class Way(StrEnum):
    COPY = "copy"
    ENCODE = "encode"
    SLATE = "slate"


class Mode(NamedTuple):
    """The way of an output's pictures.

    reason  one word for the metrics. copy: as_received, configured, starting (no live picture has told a size yet),
            too_large (to be decoded).  encode: configured, codec, size, fps, overlay, keyframes (are too far apart), or
            the fact that a preset rejects, such as preset_video_profile.  slate: codec, too_large or starting.
    """

    way: Way
    reason: str

    @property
    def needs_keyframes(self) -> bool:
        """Whether those of what comes count: they are shown, or would end it by coming often enough again."""
        return self.way is Way.COPY or "keyframe" in self.reason

    @property
    def replaces_at_once(self) -> bool:
        """Whether nothing of what comes is to be shown in the way before until this one has its first keyframe."""
        return not self.needs_keyframes


class OnAir(NamedTuple):
    """Facts of the pictures that go on air.

    format   None: their parameter sets cannot be read.
    is_live  False: a slate.
    group_s  how far keyframes lie apart: the last two, or the last one and now.
    """

    codec: Codec
    format: StreamFormat | None
    is_live: bool
    group_s: float = 0.0

    @property
    def size(self) -> PictureSize | None:
        return self.format.size if self.format else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureWants:
    """What an output is configured to get, and what its kind needs.

    video           auto: copied where that will do.
    profiles        that encoded pictures may have, the best first; one that viewers have seen is kept.
    most_px         of the longer and of the shorter side.
    overlay         what is painted on pictures, which takes encoding.
    preset          whose rejections are reasons to encode, where the URL has that `scheme`; `is_strict`: advice too.
    size            None: that of the first live pictures, if the output needs one; of what there is, where it does not.
    fps             None: any, and `FPS` where pictures are encoded.
    bit_rate        None: by size and rate.
    needs_one_size  its viewers do not follow when the size changes.
    longest_group_s how far keyframes may lie apart; None: any distance.
    """

    video: Literal["auto", "copy", "encode"] = "auto"
    size: PictureSize | None = None
    fit: Fit = "contain"
    background: str = "000000"
    fps: int | None = None
    bit_rate: int | None = None
    keyframe_s: float = 2.0
    profiles: Sequence[Profile] = ("main", "baseline", "high")
    most_px: tuple[float, float] = (math.inf, math.inf)
    is_constant: bool = True
    needs_one_size: bool = False
    longest_group_s: float | None = None
    overlay: OverlaySettings | None = None
    preset: Preset | None = None
    scheme: str = ""
    is_strict: bool = False

    def rendition(self, of: StreamFormat | None) -> Rendition:
        """What pictures are encoded to. `of`: the format that viewers have seen first; it is kept as far as it is not
        configured otherwise, and as the rate allows, so that going to encoding is no change of format.
        """
        size = self.size
        if size is None:
            assert of is not None, "nothing tells the size"
            scale = min(1.0, self.most_px[0] / max(of.size), self.most_px[1] / min(of.size))
            size = PictureSize(*(max(_LEAST_SIDE_PX, 2 * math.ceil(side * scale / 2)) for side in of.size))
        fps = self.fps or FPS
        seen = _PROFILES.get(of.profile_idc, self.profiles[0]) if of else self.profiles[0]
        bit_rate = self.bit_rate or max(_LEAST_BIT_RATE, round(_BITS_PER_PIXEL * size.n_pixels * fps))
        return Rendition(
            width_px=size.width_px,
            height_px=size.height_px,
            fps=fps,
            bit_rate=bit_rate,
            keyframe_s=self.keyframe_s,
            profile=seen if seen in self.profiles else self.profiles[0],
            level_idc=of.level_idc if of else 0,
            is_constant=self.is_constant,
            fit=self.fit,
            background=self.background,
            overlay=self.overlay,
        )


def choose(wants: PictureWants, on_air: OnAir, shown: PictureSize | None = None, rejected: Sequence[str] = ()) -> Mode:
    """How an output gets what is on air.

    shown     the size that its viewers have seen first; None: none yet.
    rejected  facts that the output's preset rejects of what is on air, such as video.profile.
    """
    is_carried = on_air.codec is _CARRIED
    uncoded = Mode(Way.COPY, "configured") if is_carried else Mode(Way.SLATE, "codec")
    if on_air.size is not None and on_air.size.n_pixels > MOST_PIXELS:
        return uncoded._replace(reason="too_large")
    if wants.video == "copy":
        return uncoded
    need = "configured" if wants.video == "encode" else _need(wants, on_air, shown, rejected)
    if not need:
        return Mode(Way.COPY, "as_received")
    if wants.size is None and shown is None and not (on_air.is_live and on_air.size):
        return uncoded._replace(reason="starting")
    return Mode(Way.ENCODE, need)


def _need(wants: PictureWants, on_air: OnAir, shown: PictureSize | None, rejected: Sequence[str]) -> str:
    """Why pictures have to be encoded; empty: they need not."""
    if on_air.codec is not _CARRIED:
        return "codec"
    size = wants.size or (shown if wants.needs_one_size else None)
    if size is not None and on_air.size is not None and on_air.size != size:
        return "size"
    if wants.fps is not None:
        return "fps"
    if wants.overlay is not None:
        return "overlay"
    if wants.longest_group_s is not None and on_air.group_s > wants.longest_group_s:
        return "keyframes"
    return next((f"preset_{fact.replace('.', '_')}" for fact in rejected), "")
