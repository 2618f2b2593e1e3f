"""What the avatar makes of a picture it is shown: the truth, if not much of it."""

import base64
import binascii
import re
from collections.abc import Mapping

import av
import numpy as np
from av.error import FFmpegError

# One decoder for each type: to let FFmpeg guess would let a client choose among all its demuxers.
_DECODERS: Mapping[str, str] = {"image/jpeg": "mjpeg", "image/png": "png", "image/webp": "webp"}
# Twice 4K: what no camera sends, and 100 MB when decoded.
MAX_PIXELS = 2 * 3840 * 2160
_SAMPLES_PER_SIDE = 48
_COLOURS: Mapping[str, tuple[int, int, int]] = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
    "red": (215, 25, 25),
    "orange": (250, 140, 20),
    "yellow": (245, 225, 30),
    "green": (30, 150, 40),
    "blue": (30, 60, 220),
    "light blue": (110, 185, 240),
    "purple": (125, 30, 160),
    "pink": (245, 140, 190),
    "brown": (110, 65, 30),
}
_DATA_URL = re.compile(r"data:([\w.+/-]+)[^,]{0,100};base64,", re.IGNORECASE)


def describe_picture(data_url: str) -> str:
    """A sentence with the size of a picture and its foremost colour. Blocks while it decodes, some 20 ms.

    Raises ValueError when it is no data URL of JPEG, PNG or WebP in base64, is damaged, or too large.
    """
    match = _DATA_URL.match(data_url)
    decoder = _DECODERS.get(match[1].lower()) if match else None
    if match is None or decoder is None:
        raise ValueError(f"The image is no data URL of {', '.join(_DECODERS)} in base64")
    try:
        coded = base64.b64decode(data_url[match.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("The image is not in base64") from None
    context = av.CodecContext.create(decoder, "r")
    assert isinstance(context, av.VideoCodecContext)
    context.thread_count = 1
    context.options = {"max_pixels": str(MAX_PIXELS)}
    try:
        frames = [*context.decode(av.Packet(coded)), *context.decode(None)] if coded else []
    except (FFmpegError, MemoryError):
        frames = []
    if not frames:
        raise ValueError(f"The image is damaged, or larger than {MAX_PIXELS // 10**6} megapixels")
    return f"I see a picture of {frames[0].width} by {frames[0].height} pixels, mostly {_foremost_colour(frames[0])}."


def _foremost_colour(frame: av.VideoFrame) -> str:
    small = frame.reformat(_SAMPLES_PER_SIDE, _SAMPLES_PER_SIDE, "rgb24", interpolation="AREA").to_ndarray()
    known = np.array(list(_COLOURS.values()))
    distances = ((small.reshape(-1, 1, 3).astype(np.int64) - known) ** 2).sum(axis=2)
    votes = np.bincount(distances.argmin(axis=1), minlength=len(known))
    return list(_COLOURS)[int(votes.argmax())]
