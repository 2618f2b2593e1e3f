"""Keeps a sum of several inputs below full scale, without the distortion of clipping."""

from typing import Any

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


class Limiter:
    """Follows sound 5 ms behind: shape (n,), or (n_channels, n) with one gain for all; what stays below the ceiling is
    left as it is.

    The gain is the least that the coming 5 ms need, falls within 5 ms and rises slowly. The result does not depend on
    how the sound is cut into pieces.

    look_ahead_samples  how far behind it is.
    """

    def __init__(
        self,
        rate_hz: int = AVATAR_RATE_HZ,
        n_channels: int | None = None,
        full_scale: float = FULL_SCALE,
        dtype: type[np.float64] | type[np.float32] = np.float64,
    ) -> None:
        """As the avatar's sound is made, unless told otherwise: 24 kHz mono in units of an int16 step."""
        self.look_ahead_samples = LOOK_AHEAD_SAMPLES * rate_hz // AVATAR_RATE_HZ
        self._ceiling = full_scale * CEILING / FULL_SCALE
        self._rise = 1 / (_RELEASE_S * rate_hz)
        shape = (self.look_ahead_samples,) if n_channels is None else (n_channels, self.look_ahead_samples)
        self._held: NDArray[Any] = np.zeros(shape, dtype)
        # The gain that is needed, before it is smoothed, for as long as it still counts; None: it is 1.
        self._needed: NDArray[np.float64] | None = None

    @property
    def holds_sound(self) -> bool:
        return bool(self._held.any())

    def push(self, sound: NDArray[Any], *, is_limited: bool = True) -> NDArray[Any]:
        """As many samples as come in, those from 5 ms before. `is_limited`: whether the new ones may need a gain."""
        n, look_ahead = sound.shape[-1], self.look_ahead_samples
        coming = np.concatenate((self._held, sound), axis=-1)
        self._held = coming[..., n:]
        is_low = np.maximum.reduce(sound, axis=None) <= self._ceiling
        is_low = not is_limited or (is_low and np.minimum.reduce(sound, axis=None) >= -self._ceiling)
        if self._needed is None and is_low:
            return coming[..., :n]
        before = np.ones(look_ahead) if self._needed is None else self._needed
        need = np.ones(look_ahead + n)
        if is_limited:
            with np.errstate(divide="ignore"):
                np.minimum(1.0, self._ceiling / np.abs(coming).reshape(-1, look_ahead + n).max(axis=0), out=need)
        # Of the samples now and within the look-ahead, for each one that goes out.
        ahead = sliding_window_view(need, look_ahead + 1).min(axis=1)
        # A gain that rises by no more than so much a sample: the least of all before, each with its rise since then.
        risen = self._rise * np.arange(1, n + 1)
        needed = np.minimum(np.minimum.accumulate(ahead - risen), before[-1]) + risen
        needed = np.minimum(needed, 1.0)
        smoothed = np.concatenate((before, needed))
        sums = np.concatenate(([0.0], np.cumsum(smoothed)))
        window = look_ahead + 1
        gain = (sums[window:] - sums[:-window]) / window
        self._needed = smoothed[n:]
        if float(self._needed.min()) >= 1.0:
            self._needed = None
        return coming[..., :n] * gain
