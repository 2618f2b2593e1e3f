"""Sound for tests of what listens: a voice, as loud as microphones give it, and what is none."""

from functools import cache

import av
import numpy as np
from numpy.typing import NDArray

from bridge.media.clock import AVATAR_RATE_HZ
from bridge.samples import SPEECH


@cache
def voice() -> NDArray[np.int16]:
    """Two seconds of words without a pause of more than 0.1 s, at 24 kHz."""
    with av.open(str(SPEECH)) as container:
        resampler = av.AudioResampler("s16", "mono", AVATAR_RATE_HZ)
        pieces = [piece.to_ndarray()[0] for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
    return np.concatenate(pieces)[round(5.0 * AVATAR_RATE_HZ) : round(7.0 * AVATAR_RATE_HZ)]


def noise(duration_s: float, rms_dbfs: float = -60.0) -> NDArray[np.int16]:
    samples = np.random.default_rng(1).standard_normal(round(duration_s * AVATAR_RATE_HZ))
    return np.rint(samples * 32_768 * 10 ** (rms_dbfs / 20)).astype(np.int16)


def silence(duration_s: float) -> NDArray[np.int16]:
    return np.zeros(round(duration_s * AVATAR_RATE_HZ), np.int16)
