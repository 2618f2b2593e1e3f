"""The operator's image or clip, in the size and at the rate of a slate: BT.709 in studio range, 4:2:0, 25 a second."""

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
from av.error import FFmpegError

from bridge.errors import ConfigError
from bridge.outputs.canvas import BT709, Canvas
from bridge.outputs.slate_coding import FPS

# A clip is coded anew whenever the live format changes: 30 s take x264 some seconds of a core.
LONGEST_CLIP_S = 30
LARGEST_FILE_BYTES = 100_000_000
# Decoded in one piece: 8192x8192, more than cameras make, is 200 MB of RGB.
MOST_PIXELS = 1 << 26


def image_picture(path: Path, width_px: int, height_px: int) -> av.VideoFrame:
    """The image, or the first picture of a moving one. Raises ConfigError."""
    with _opened("slate.image", path) as (sample_aspect, frames):
        for frame in frames:
            return _canvas(width_px, height_px, sample_aspect).fitted(frame)
        raise ConfigError("holds no picture")


def clip_pictures(path: Path, width_px: int, height_px: int) -> Iterator[av.VideoFrame]:
    """The clip, decoded as it is asked for. Raises ConfigError, also on the way."""
    with _opened("slate.clip", path) as (sample_aspect, frames):
        canvas = _canvas(width_px, height_px, sample_aspect)
        n_pictures = 0
        for frame, repeats in _at_rate(frames):
            n_pictures += repeats
            if n_pictures > LONGEST_CLIP_S * FPS:
                raise ConfigError(f"is longer than {LONGEST_CLIP_S} s")
            if repeats:
                yield from itertools.repeat(canvas.fitted(frame), repeats)
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


def _canvas(width_px: int, height_px: int, sample_aspect: Fraction | None) -> Canvas:
    return Canvas(width_px, height_px, "blur", sample_aspect=sample_aspect, matrix=BT709)


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
