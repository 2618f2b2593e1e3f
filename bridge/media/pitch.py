"""The period of a voice, found and made fit to be repeated: what stands in for sound that did not come."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Row = TypeVar("Row", NDArray[np.float32], NDArray[np.float64])

# Voices lie between 66 and 400 Hz (ITU-T G.711 appendix I searches 66 to 200).
_HIGHEST_HZ, _LOWEST_HZ = 400, 66
# What is compared: a little more than the longest period, so that each is seen whole.
_COMPARED_HZ = 50


def remembered_samples(rate_hz: int) -> int:
    """How much of the past it takes to find the longest period."""
    return rate_hz // _COMPARED_HZ + rate_hz // _LOWEST_HZ


def period_of(sound: Row, rate_hz: int) -> int:
    """The distance at which sound is most like itself, in samples. Shape (`remembered_samples` or more,)."""
    n_compared = rate_hz // _COMPARED_HZ
    newest = sound[-n_compared:]
    lags = np.arange(rate_hz // _HIGHEST_HZ, rate_hz // _LOWEST_HZ + 1)
    earlier = np.lib.stride_tricks.sliding_window_view(sound, n_compared)[len(sound) - n_compared - lags]
    likeness = earlier @ newest / np.sqrt(np.square(earlier).sum(axis=1) + 1e-9)
    return int(lags[np.argmax(likeness)])


def repeatable(past: Row, n_samples: int) -> Row:
    """The newest period of so many samples, its end made to lead to its beginning. Shape (…, samples)."""
    n_joint = n_samples // 4
    period = past[..., -n_samples:].copy()
    rise = np.linspace(0, 1, n_joint, dtype=past.dtype)
    before = past[..., -n_samples - n_joint : -n_samples]
    period[..., -n_joint:] = period[..., -n_joint:] * (1 - rise) + before * rise
    return period
