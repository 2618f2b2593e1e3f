"""Fits pictures of any size into a canvas of one size, as 4:2:0 in studio range and one colour matrix."""

from fractions import Fraction
from typing import Literal

from av.filter import Graph
from av.filter.context import FilterContext
from av.video.frame import VideoFrame

Fit = Literal["contain", "cover", "blur"]

# H.264 table E-5: BT.709, unknown, and the two numbers of BT.601.
BT709, _UNKNOWN, _BT601 = 1, 2, (5, 6)
_STUDIO_RANGE = 1  # as FFmpeg numbers it
# What players take pictures that do not say so for.
_HD_PX = 720

# The cover is out of focus: shrunk so far that little of the picture is left. It is made darker and paler too.
_SHRUNK = 24
_DARK = "lutyuv=y=16+(val-16)*0.4:u=128+(val-128)*0.7:v=128+(val-128)*0.7"
# Behind what is transparent there is nothing to blur; this is the ground of the card, in its middle.
_PLAIN = "lutyuv=y=40:u=143:v=123"
# By `VideoFrame.rotation`: what cameras held otherwise leave to the player.
_UPRIGHT = {90: ["transpose=cclock"], -90: ["transpose=clock"], 180: ["hflip", "vflip"], -180: ["hflip", "vflip"]}


class Canvas:
    """Shows pictures in the middle of a canvas whose sides are even.

    fit         contain: all of a picture, with bars of the background's colour.  cover: as much of it as covers the
                canvas.  blur: all of it, on a copy that covers the canvas and is blurred and dark.
    background  RRGGBB.
    matrix      of the canvas: that of the first picture, so that in the long run none has to be converted.
    """

    def __init__(
        self,
        width_px: int,
        height_px: int,
        fit: Fit,
        background: str = "000000",
        *,
        sample_aspect: Fraction | None = None,
        matrix: int | None = None,
    ) -> None:
        self.matrix = matrix
        self._width_px, self._height_px = width_px, height_px
        self._fit = fit
        self._background = background
        self._sample_aspect = sample_aspect or Fraction(1)
        self._graph: Graph | None = None
        self._made_for: tuple[object, ...] = ()

    def fitted(self, frame: VideoFrame) -> VideoFrame:
        """The same frame where nothing is to be done. Raises av.FFmpegError."""
        if frame.colorspace == _UNKNOWN:
            frame.colorspace = BT709 if min(frame.width, frame.height) >= _HD_PX else _BT601[1]
        if self.matrix is None:
            self.matrix = BT709 if frame.colorspace == BT709 else _BT601[1]
        if self._fits(frame):
            return frame
        made_for = (frame.width, frame.height, frame.format.name, frame.rotation, frame.colorspace, frame.color_range)
        if self._graph is None or self._made_for != made_for:
            self._graph, self._made_for = self._graph_for(frame), made_for
        self._graph.vpush(frame)
        picture = self._graph.vpull()
        picture.colorspace = picture.color_primaries = picture.color_trc = self.matrix
        return picture

    def _fits(self, frame: VideoFrame) -> bool:
        is_plain = frame.format.name == "yuv420p" and frame.color_range in (0, _STUDIO_RANGE) and not frame.rotation
        is_ours = frame.colorspace == self.matrix or (frame.colorspace in _BT601 and self.matrix in _BT601)
        is_full = (frame.width, frame.height) == (self._width_px, self._height_px) and self._sample_aspect == 1
        return is_plain and is_ours and is_full

    def _graph_for(self, frame: VideoFrame) -> Graph:
        graph = Graph()
        graph.threads = 1
        source = graph.add(
            "buffer",
            video_size=f"{frame.width}x{frame.height}",
            pix_fmt=frame.format.name,
            time_base=str(frame.time_base or Fraction(1, 1000)),
            colorspace=str(frame.colorspace),
            range=str(frame.color_range),
        )
        upright_filters = _UPRIGHT.get(frame.rotation, [])
        turned = any("transpose" in each for each in upright_filters)
        width_px, height_px = round(frame.width * self._sample_aspect) or 1, frame.height
        if turned:
            width_px, height_px = height_px, width_px
        square = [f"scale=w=iw*{float(self._sample_aspect)}:h=ih"] if self._sample_aspect != 1 else []
        upright = _chained(source, *square, *upright_filters, "setsar=1")
        match self._fit:
            case "contain":
                fitted = self._contained(upright, width_px, height_px)
            case "cover":
                fitted = self._covering(upright, width_px, height_px)
            case "blur":
                has_holes = any(part.is_alpha for part in frame.format.components) or frame.format.has_palette
                fitted = self._on_blurred(upright, width_px, height_px, has_holes=has_holes)
        _chained(fitted, "format=yuv420p", "buffersink")
        graph.configure()
        return graph

    @property
    def _to_matrix(self) -> str:
        return f"out_color_matrix={'bt709' if self.matrix == BT709 else 'smpte170m'}:out_range=tv"

    def _contained(self, source: FilterContext, width_px: int, height_px: int) -> FilterContext:
        inner_width, inner_height = self._inner(width_px, height_px)
        return _chained(
            source,
            f"scale={inner_width}:{inner_height}:flags=bicubic:{self._to_matrix}",
            "format=yuv420p",
            f"pad={self._width_px}:{self._height_px}:(ow-iw)/2:(oh-ih)/2:color=0x{self._background}",
        )

    def _covering(self, source: FilterContext, width_px: int, height_px: int) -> FilterContext:
        return _chained(
            source,
            self._crop(width_px, height_px),
            f"scale={self._width_px}:{self._height_px}:flags=bicubic:{self._to_matrix}",
            "setsar=1",
        )

    def _on_blurred(self, source: FilterContext, width_px: int, height_px: int, *, has_holes: bool) -> FilterContext:
        width, height = self._width_px, self._height_px
        twice = _chained(source, "split")
        small = f"{max(2, width // _SHRUNK)}:{max(2, height // _SHRUNK)}"
        cover = _chained(
            twice,
            self._crop(width_px, height_px),
            f"scale={small}:flags=area:{self._to_matrix}",
            "format=yuv444p",
            "gblur=sigma=2",
            f"scale={width}:{height}:flags=bicubic",
            "setsar=1",
            "format=yuv420p",
            _PLAIN if has_holes else _DARK,
        )
        inner_width, inner_height = self._inner(width_px, height_px)
        whole = _chained(
            twice,
            f"scale={inner_width}:{inner_height}:flags=bicubic:{self._to_matrix}",
            "setsar=1",
            "format=yuva420p" if has_holes else "format=yuv420p",
            output=1,
        )
        both = source.graph.add("overlay", "x=(W-w)/2:y=(H-h)/2")
        cover.link_to(both)
        whole.link_to(both, input_idx=1)
        return both

    def _crop(self, width_px: int, height_px: int) -> str:
        """To the canvas' shape: what is cut off need not be scaled, a line of pixels would fill the memory."""
        cropped_width = min(width_px, max(1, round(height_px * self._width_px / self._height_px)))
        cropped_height = min(height_px, max(1, round(width_px * self._height_px / self._width_px)))
        return f"crop={cropped_width}:{cropped_height}:exact=1"

    def _inner(self, width_px: int, height_px: int) -> tuple[int, int]:
        """The largest even size of a picture's shape that fits."""
        scale = min(self._width_px / width_px, self._height_px / height_px)
        return _even(width_px * scale, self._width_px), _even(height_px * scale, self._height_px)


def _even(length: float, at_most: int) -> int:
    return min(at_most, max(2, 2 * round(length / 2)))


def _chained(start: FilterContext, *filters: str, output: int = 0) -> FilterContext:
    """The last of these filters, each fed by the one before; each is NAME or NAME=ARGUMENTS."""
    for each in filters:
        name, _, arguments = each.partition("=")
        following = start.graph.add(name, arguments or None)
        start.link_to(following, output)
        start, output = following, 0
    return start
