"""Real speech at 48 kHz, for the tests of what is heard."""

import functools

import av
import numpy as np
from numpy.typing import NDArray

from bridge.samples import SPEECH
from tests.unit.outputs.coded_media import RATE_HZ


def speech(duration_s: float, starts_s: float = 0.5) -> NDArray[np.int16]:
    """Of the sample that ships with the package, stereo, shape (n_samples, 2)."""
    start = round(starts_s * RATE_HZ)
    return _sample()[start : start + round(duration_s * RATE_HZ)]


@functools.cache
def _sample() -> NDArray[np.int16]:
    resampler = av.AudioResampler(format="s16", layout="stereo", rate=RATE_HZ)
    with av.open(str(SPEECH)) as container:
        frames = [made for frame in (*container.decode(audio=0), None) for made in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray().reshape(-1, 2) for frame in frames])
