"""Makes up the sound of a live input that comes too late: its last period, repeated and faded out."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from bridge.media.clock import AVATAR_RATE_HZ
from bridge.media.pitch import period_of, remembered_samples, repeatable

_REMEMBERED = remembered_samples(AVATAR_RATE_HZ)
# Where made-up sound and what came meet, one fades into the other.
_JOINT = AVATAR_RATE_HZ // 400
# G.711 appendix I: as it was for 10 ms, then 20 % less every 10 ms; after 60 ms a repeated period is a buzz.
_FULL_SAMPLES, LONGEST_SAMPLES = AVATAR_RATE_HZ // 100, AVATAR_RATE_HZ * 60 // 1000


class Concealment:
    """Follows 24 kHz mono int16 that has gaps; what it has let pass it does not change."""

    def __init__(self) -> None:
        self._past: deque[NDArray[np.int16]] = deque()
        self._n_past = 0
        self._period: NDArray[np.float64] | None = None  # what is repeated; None: nothing is missing
        self._n_made = 0

    @property
    def is_spent(self) -> bool:
        """Whether nothing more can be made up, for want of a past or for length."""
        return self._n_past < _REMEMBERED or self._n_made >= LONGEST_SAMPLES

    def push(self, samples: NDArray[np.int16]) -> NDArray[np.int16]:
        """What has come; behind a gap its beginning is joined to what was made up."""
        if self._period is not None:
            n = min(_JOINT, len(samples))
            rise = np.arange(1, n + 1) / n
            joint = self._repeat(n) * (1 - rise) + samples[:n] * rise
            samples = np.concatenate((np.rint(joint).astype(np.int16), samples[n:]))
            self._period, self._n_made = None, 0
        self._past.append(samples)
        self._n_past += len(samples)
        while self._n_past - len(self._past[0]) >= _REMEMBERED:
            self._n_past -= len(self._past.popleft())
        return samples

    def make_up(self, n_samples: int) -> NDArray[np.int16]:
        """What follows what was given last; silent beyond `LONGEST_SAMPLES`."""
        if self._period is None:
            self._begin()
        return np.rint(self._repeat(n_samples)).astype(np.int16)

    def forget(self) -> None:
        """What comes next follows nothing."""
        self._past.clear()
        self._period, self._n_past, self._n_made = None, 0, 0

    def _repeat(self, n_samples: int) -> NDArray[np.float64]:
        assert self._period is not None
        at = self._n_made + np.arange(n_samples)
        self._n_made += n_samples
        fading = (LONGEST_SAMPLES - at) / (LONGEST_SAMPLES - _FULL_SAMPLES)
        made: NDArray[np.float64] = self._period[at % len(self._period)] * fading.clip(0.0, 1.0)
        return made

    def _begin(self) -> None:
        past = np.concatenate(self._past)[-_REMEMBERED:].astype(np.float64)
        self._period = repeatable(past, period_of(past, AVATAR_RATE_HZ))
