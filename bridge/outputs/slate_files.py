"""The operator's image or clip, in the size and at the rate of a slate: BT.709 in studio range, 4:2:0, 25 a second."""

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
from av.error import FFmpegError
from av.filter import Graph
from av.filter.context import FilterContext

from bridge.errors import ConfigError
from bridge.outputs.slate_coding import FPS

# A clip is coded anew whenever the live format changes: 30 s take x264 some seconds of a core.
LONGEST_CLIP_S = 30
LARGEST_FILE_BYTES = 100_000_000
# Decoded in one piece: 8192x8192, more than cameras make, is 200 MB of RGB.
MOST_PIXELS = 1 << 26

# The cover is out of focus: shrunk so far that little of the image is left. It is made darker and paler too.
_SHRUNK = 24
_DARK = "lutyuv=y=16+(val-16)*0.4:u=128+(val-128)*0.7:v=128+(val-128)*0.7"
# Behind what is transparent there is nothing to blur; this is the ground of the card, in its middle.
_PLAIN = "lutyuv=y=40:u=143:v=123"
_UNKNOWN, _BT709 = 2, 1  # H.264 table E-5
_HD_PX = 720
# By `VideoFrame.rotation`: what cameras held otherwise leave to the player.
_UPRIGHT = {90: ["transpose=cclock"], -90: ["transpose=clock"], 180: ["hflip", "vflip"], -180: ["hflip", "vflip"]}


def image_picture(path: Path, width_px: int, height_px: int) -> av.VideoFrame:
    """The image, or the first picture of a moving one. Raises ConfigError."""
    with _opened("slate.image", path) as (sample_aspect, frames):
        for frame in frames:
            return _Fit(width_px, height_px, sample_aspect).fitted(frame)
        raise ConfigError("holds no picture")


def clip_pictures(path: Path, width_px: int, height_px: int) -> Iterator[av.VideoFrame]:
    """The clip, decoded as it is asked for. Raises ConfigError, also on the way."""
    with _opened("slate.clip", path) as (sample_aspect, frames):
        fit = _Fit(width_px, height_px, sample_aspect)
        n_pictures = 0
        for frame, repeats in _at_rate(frames):
            n_pictures += repeats
            if n_pictures > LONGEST_CLIP_S * FPS:
                raise ConfigError(f"is longer than {LONGEST_CLIP_S} s")
            if repeats:
                yield from itertools.repeat(fit.fitted(frame), repeats)
        if n_pictures < 2:
            raise ConfigError("holds no moving pictures; slate.image takes a still")


@contextmanager
def _opened(key: str, path: Path) -> Iterator[tuple[Fraction | None, Iterator[av.VideoFrame]]]:
    """How wide a pixel is, and the pictures. What is wrong, also later, becomes a ConfigError with key and file."""
    try:
        if path.exists() and not path.is_file():
            raise ConfigError("is not a file")
        with path.open("rb") as file:
            if path.stat().st_size > LARGEST_FILE_BYTES:
                raise ConfigError(f"is larger than {LARGEST_FILE_BYTES // 1_000_000} MB")
            # Without a protocol no playlist in it leads anywhere else.
            options = {"protocol_whitelist": "none"}
            with av.open(file, "r", metadata_errors="ignore", container_options=options) as container:
                stream = container.streams.best("video")
                if not isinstance(stream, av.VideoStream):
                    raise ConfigError("has no picture in it")
                if stream.codec_context is None:
                    raise ConfigError("is in a coding that this FFmpeg does not know")
                if stream.width * stream.height > MOST_PIXELS:
                    raise ConfigError(f"has {stream.width}x{stream.height} pixels, more than {MOST_PIXELS}")
                stream.codec_context.thread_count = 1
                yield stream.sample_aspect_ratio, container.decode(stream)
    except ConfigError as error:
        raise ConfigError(f"{key}: {path} {error}") from None
    except FFmpegError as error:
        raise ConfigError(f"{key}: {path} cannot be decoded ({error.strerror}): damaged, or not a picture") from None
    except OSError as error:
        raise ConfigError(f"{key}: {path} cannot be read ({error.strerror})") from None


def _at_rate(frames: Iterable[av.VideoFrame]) -> Iterator[tuple[av.VideoFrame, int]]:
    """With each frame, how many pictures of a slate show it."""
    n_shown, origin_s = 0, 0.0
    last: av.VideoFrame | None = None
    for frame in frames:
        if frame.time is None:
            continue
        if last is None:
            origin_s = frame.time
        else:
            n_due = max(n_shown, round((frame.time - origin_s) * FPS))
            yield last, n_due - n_shown
            n_shown = n_due
        last = frame
    if last is not None and last.time is not None and last.time_base is not None:
        ends_s = last.time + float((last.duration or 0) * last.time_base)
        yield last, max(1, round((ends_s - origin_s) * FPS) - n_shown)


class _Fit:
    """Shows all of a frame in the middle, on a copy of it that covers the whole picture and is blurred and dark."""

    def __init__(self, width_px: int, height_px: int, sample_aspect: Fraction | None) -> None:
        self._width_px, self._height_px = width_px, height_px
        self._sample_aspect = sample_aspect or Fraction(1)
        self._graph: Graph | None = None
        self._made_for: tuple[object, ...] = ()

    def fitted(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Raises av.FFmpegError."""
        if frame.colorspace == _UNKNOWN and min(frame.width, frame.height) >= _HD_PX:
            frame.colorspace = _BT709  # what players take it for
        made_for = (frame.width, frame.height, frame.format.name, frame.rotation, frame.colorspace, frame.color_range)
        if self._graph is None or self._made_for != made_for:
            self._graph, self._made_for = self._graph_for(frame), made_for
        self._graph.vpush(frame)
        picture = self._graph.vpull()
        picture.colorspace = picture.color_primaries = picture.color_trc = _BT709
        return picture

    def _graph_for(self, frame: av.VideoFrame) -> Graph:
        width, height = self._width_px, self._height_px
        to_bt709 = "out_color_matrix=bt709:out_range=tv"
        has_holes = any(component.is_alpha for component in frame.format.components) or frame.format.has_palette
        graph = Graph()
        graph.threads = 1
        source = graph.add(
            "buffer",
            video_size=f"{frame.width}x{frame.height}",
            pix_fmt=frame.format.name,
            time_base=str(frame.time_base or Fraction(1, FPS)),
            colorspace=str(frame.colorspace),
            range=str(frame.color_range),
        )
        square = f"scale=w=iw*{float(self._sample_aspect)}:h=ih"
        upright = _chained(source, square, *_UPRIGHT.get(frame.rotation, []), "setsar=1", "split")
        small = f"{max(2, width // _SHRUNK)}:{max(2, height // _SHRUNK)}"
        cover = _chained(
            upright,
            f"scale={small}:force_original_aspect_ratio=increase:flags=area:{to_bt709}",
            f"crop={small}",
            "format=yuv444p",
            "gblur=sigma=2",
            f"scale={width}:{height}:flags=bicubic",
            "setsar=1",
            "format=yuv420p",
            _PLAIN if has_holes else _DARK,
        )
        whole = _chained(
            upright,
            f"scale={width}:{height}:force_original_aspect_ratio=decrease:flags=bicubic:{to_bt709}",
            "setsar=1",
            "format=yuva420p" if has_holes else "format=yuv420p",
            output=1,
        )
        both = graph.add("overlay", "x=(W-w)/2:y=(H-h)/2")
        cover.link_to(both)
        whole.link_to(both, input_idx=1)
        _chained(both, "format=yuv420p", "buffersink")
        graph.configure()
        return graph


def _chained(start: FilterContext, *filters: str, output: int = 0) -> FilterContext:
    """The last of these filters, each fed by the one before; each is NAME or NAME=ARGUMENTS."""
    for each in filters:
        name, _, arguments = each.partition("=")
        following = start.graph.add(name, arguments or None)
        start.link_to(following, output)
        start, output = following, 0
    return start
