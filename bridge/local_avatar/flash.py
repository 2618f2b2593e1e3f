"""A flash and a beep that begin at the same instant of media time, once a second: what lip-sync is measured with."""

import numpy as np
from numpy.typing import NDArray

from bridge.local_avatar.drawing import Canvas
from bridge.media.clock import AVATAR_RATE_HZ

BEEP_HZ = 1000
BEEP_SAMPLES = AVATAR_RATE_HZ * 40 // 1000
_BEEP = np.rint(16384 * np.sin(2 * np.pi * BEEP_HZ * np.arange(BEEP_SAMPLES) / AVATAR_RATE_HZ)).astype(np.int16)


def is_flash(picture_index: int, fps: int) -> bool:
    """Whether a picture is a white one: the first of every second but the very first."""
    return picture_index > 0 and picture_index % fps == 0


def flash(canvas: Canvas) -> None:
    """Turn the whole picture white."""
    canvas.luma[...] = 235
    for plane in canvas.chroma:
        plane[...] = 128


def beep_over(pcm: NDArray[np.int16], first_sample: int) -> None:
    """Replace sound by the beep at the start of every second but the first; `first_sample` is the media time."""
    second = -(-(first_sample - BEEP_SAMPLES + 1) // AVATAR_RATE_HZ)
    start = max(second, 1) * AVATAR_RATE_HZ - first_sample
    if start < len(pcm):
        begin, end = max(start, 0), min(start + BEEP_SAMPLES, len(pcm))
        if end > begin:
            pcm[begin:end] = _BEEP[begin - start : end - start]
