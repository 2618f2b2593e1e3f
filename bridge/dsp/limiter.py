"""Keeps a sum of several inputs below full scale, without the distortion of clipping."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from bridge.dsp.levels import FULL_SCALE
from bridge.media.clock import AVATAR_RATE_HZ

# EBU R 128 §e): -1 dB below full scale leaves room for what lies between samples.
CEILING = FULL_SCALE * 10.0 ** (-1 / 20)
# 5 ms: a period of 200 Hz, so that the gain is down before a peak comes and does not bend a voice's waves.
LOOK_AHEAD_SAMPLES = AVATAR_RATE_HZ // 200
# From silent to full: 6 dB are given back within 100 ms, between syllables and not within a wave.
_RELEASE_S = 0.2
_RISE = 1 / (_RELEASE_S * AVATAR_RATE_HZ)


class Limiter:
    """Follows 24 kHz mono in units of an int16 step, 5 ms behind; what stays below the ceiling is left as it is.

    The gain is the least that the coming 5 ms need, falls within 5 ms and rises slowly. The result does not depend on
    how the sound is cut into pieces.
    """

    def __init__(self) -> None:
        self._held: NDArray[np.float64] = np.zeros(LOOK_AHEAD_SAMPLES)
        # The gain that is needed, before it is smoothed, for as long as it still counts; None: it is 1.
        self._needed: NDArray[np.float64] | None = None

    @property
    def holds_sound(self) -> bool:
        return bool(self._held.any())

    def push(self, sound: NDArray[np.float64]) -> NDArray[np.float64]:
        """As many samples as come in, those from 5 ms before."""
        n = len(sound)
        coming = np.concatenate((self._held, sound))
        self._held = coming[n:]
        if self._needed is None and np.maximum.reduce(sound) <= CEILING and np.minimum.reduce(sound) >= -CEILING:
            return coming[:n]
        before = np.ones(LOOK_AHEAD_SAMPLES) if self._needed is None else self._needed
        with np.errstate(divide="ignore"):
            need = np.minimum(1.0, CEILING / np.abs(coming))
        # Of the samples now and within the look-ahead, for each one that goes out.
        ahead = sliding_window_view(need, LOOK_AHEAD_SAMPLES + 1).min(axis=1)
        # A gain that rises by no more than so much a sample: the least of all before, each with its rise since then.
        risen = _RISE * np.arange(1, n + 1)
        needed = np.minimum(np.minimum.accumulate(ahead - risen), before[-1]) + risen
        needed = np.minimum(needed, 1.0)
        smoothed = np.concatenate((before, needed))
        sums = np.concatenate(([0.0], np.cumsum(smoothed)))
        window = LOOK_AHEAD_SAMPLES + 1
        gain = (sums[window:] - sums[:-window]) / window
        self._needed = smoothed[n:]
        if float(self._needed.min()) >= 1.0:
            self._needed = None
        limited: NDArray[np.float64] = coming[:n] * gain
        return limited
