"""The presenter in each of its manners on one sheet, and the program that draws it.

    python -m bridge.local_avatar.make_screenshots

Nothing is posed: manners and mouths are those of the sample speech, followed picture by picture as on air.
"""

from collections.abc import Iterator
from fractions import Fraction
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import resvg_py
from numpy.typing import NDArray

from bridge.local_avatar.drawing import SVG_NAMESPACE, Canvas
from bridge.local_avatar.face import Pose, face
from bridge.local_avatar.gestures import Gestures, Mood
from bridge.local_avatar.visemes import REST, WINDOW_SAMPLES, MouthShape, MouthTracker, level_dbfs
from bridge.media.clock import AVATAR_RATE_HZ

SHEET_FILE = Path(__file__).with_name("screenshots.jpg")

_FPS = AVATAR_RATE_HZ // WINDOW_SAMPLES
_TALKING_PICTURES = 17  # 0.7 s, as in stage.py
_SIZE_PX = (360, 640)
_ROWS_PX = slice(64, 484)  # head and shoulders
_CAPTION_PX = 40
_COLUMNS = 4

_AUDIBLE_DBFS = -50.0

Rgb = NDArray[np.uint8]
Pcm = NDArray[np.int16]


def main() -> None:
    SHEET_FILE.write_bytes(_jpeg(_sheet(scenes())))


def scenes() -> dict[str, tuple[Pose, MouthShape]]:
    """What is shown, by its caption."""
    idle = list(_quiet("idle", 12))
    windows = _sample_windows()
    spoken = list(_speech(windows))
    ended = max(index for index, window in enumerate(windows) if level_dbfs(window) > _AUDIBLE_DBFS)
    seen = [(pose, shape) for pose, shape in spoken if pose.lids > 0.85]
    return {
        "idle": idle[3 * _FPS],
        "listening": _open_eyed(_quiet("listening", 6)),
        "thinking": _open_eyed(_quiet("thinking", 6)),
        "a blink": next(scene for scene in idle if scene[0].lids == 0),
        "speaking: a": max(seen, key=lambda scene: scene[1].openness - abs(scene[1].spread - 0.2)),
        "speaking: o": min(seen, key=lambda scene: scene[1].spread + abs(scene[1].openness - 0.6)),
        "speaking: s": max(seen, key=lambda scene: scene[1].hiss + scene[1].spread / 2),
        "120 ms after the last sound": spoken[ended + 3],
    }


def _open_eyed(scene: Iterator[tuple[Pose, MouthShape]]) -> tuple[Pose, MouthShape]:
    return [(pose, shape) for pose, shape in scene if pose.lids > 0.85][-1]


def _quiet(mood: Mood, seconds: int) -> Iterator[tuple[Pose, MouthShape]]:
    gestures = Gestures(seed=2)
    for index in range(seconds * _FPS):
        yield gestures.pose(index / _FPS, speaking=False, mood=mood, openness=0.0), REST


def _speech(windows: Pcm) -> Iterator[tuple[Pose, MouthShape]]:
    gestures, tracker = Gestures(seed=2), MouthTracker(1 / _FPS)
    heard = -_TALKING_PICTURES
    for index, window in enumerate(windows):
        shape = tracker.follow(window)
        if shape.openness > 0.1:
            heard = index
        speaking = index - heard < _TALKING_PICTURES
        yield gestures.pose(index / _FPS, speaking=speaking, mood="idle", openness=shape.openness), shape


def _sample_windows() -> Pcm:
    """The sample speech, one row for each picture."""
    resampler = av.AudioResampler("s16", "mono", AVATAR_RATE_HZ)
    with av.open(BytesIO(files("bridge").joinpath("samples/speech.flac").read_bytes()), "r") as container:
        blocks = [block for frame in container.decode(audio=0) for block in resampler.resample(frame)]
    speech: Pcm = np.concatenate([block.to_ndarray()[0] for block in blocks])
    return speech[: len(speech) // WINDOW_SAMPLES * WINDOW_SAMPLES].reshape(-1, WINDOW_SAMPLES)


def _sheet(shown: dict[str, tuple[Pose, MouthShape]]) -> Rgb:
    tiles = [np.concatenate([_picture(*scene), _caption(text)]) for text, scene in shown.items()]
    rows = [np.concatenate(tiles[first : first + _COLUMNS], axis=1) for first in range(0, len(tiles), _COLUMNS)]
    return np.concatenate(rows)


def _picture(pose: Pose, shape: MouthShape) -> Rgb:
    canvas = Canvas(*_SIZE_PX)
    face(*_SIZE_PX).compose(canvas, pose, shape)
    frame = av.VideoFrame.from_ndarray(canvas.data, format="yuv420p")
    return _rgb(frame.reformat(format="rgb24", src_colorspace="ITU709"))[_ROWS_PX]


def _caption(text: str) -> Rgb:
    """A line of text; empty where the machine lacks the font."""
    width = _SIZE_PX[0]
    png = resvg_py.svg_to_bytes(
        svg_string=f'<svg xmlns="{SVG_NAMESPACE}" width="{width}" height="{_CAPTION_PX}">'
        '<rect width="100%" height="100%" fill="#101c2a"/>'
        f'<text x="{width // 2}" y="26" text-anchor="middle" font-family="sans-serif" font-size="17" '
        f'fill="#e6eef4">{text}</text></svg>',
        sans_serif_family="DejaVu Sans",
    )
    decoder = av.CodecContext.create("png", "r")
    return _rgb([*decoder.decode(av.Packet(png)), *decoder.decode(None)][0])


def _rgb(frame: av.VideoFrame) -> Rgb:
    return frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)


def _jpeg(picture: Rgb) -> bytes:
    # JFIF takes BT.601 in full range, which is what the encoder's own format stands for.
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuvj420p")
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, frame.format.name
    encoder.time_base = Fraction(1, _FPS)
    encoder.options = {"qmin": "3", "qmax": "3"}
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


if __name__ == "__main__":
    main()
