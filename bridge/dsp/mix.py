"""Several inputs become one: those of lower priority step back while others speak."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bridge.dsp.limiter import Limiter
from bridge.dsp.strip import Strip
from bridge.media.clock import AVATAR_RATE_HZ

# Back from ducked, as a linear ramp: slowly enough to be no second event. Down it goes within a message, before the
# first syllable is over.
_RECOVER_S = 0.5


class Mix:
    """Sums its strips, each ducked while a strip of higher priority speaks; 24 kHz mono.

    One strip alone at unity gain comes out as it went in, bit for bit; whatever may exceed full scale passes a limiter,
    and comes out 5 ms later.
    """

    def __init__(self, strips: Sequence[Strip]) -> None:
        self._strips = strips
        self._faders = [Fader(strip.settings.duck_db, strip.gain) for strip in strips]
        is_limited = len(strips) > 1 or any(strip.may_exceed_full_scale for strip in strips)
        self._limiter = Limiter() if is_limited else None

    def push(self, pieces: Sequence[NDArray[np.int16] | None], n_samples: int) -> NDArray[np.int16]:
        """Mix a piece of each strip, all so long; None: there is nothing of it. Empty where there is nothing at all."""
        priority = 0  # the highest of those who speak
        sounds: list[tuple[Strip, Fader, NDArray[np.float64]]] = []
        for strip, fader, piece in zip(self._strips, self._faders, pieces, strict=True):
            if piece is None:
                strip.rest(n_samples)
            else:
                sounds.append((strip, fader, strip.push(piece)))
            if strip.voice.is_speaking:
                priority = max(priority, strip.settings.priority)
        total: NDArray[np.float64] | None = None
        for strip, fader, sound in sounds:
            faded = fader.push(sound, strip.gain, is_ducked=strip.settings.priority < priority)
            total = faded if total is None else total + faded
        if self._limiter is not None and (total is not None or self._limiter.holds_sound):
            total = self._limiter.push(np.zeros(n_samples) if total is None else total)
        return np.empty(0, np.int16) if total is None else np.rint(total).astype(np.int16)


class Fader:
    """Applies a gain, and moves between that and ducked; a change takes a piece."""

    def __init__(self, duck_db: float, gain: float, rate_hz: int = AVATAR_RATE_HZ) -> None:
        self._ducked = 10.0 ** (duck_db / 20.0)
        self._recover_samples = _RECOVER_S * rate_hz
        self._position = 1.0  # 1, or down to `_ducked`
        self._gain = gain

    def push(self, sound: NDArray[Any], gain: float, *, is_ducked: bool) -> NDArray[Any]:
        """A piece, samples along its last axis."""
        n = sound.shape[-1]
        if is_ducked:
            self._position = self._ducked
        elif self._position < 1.0:
            self._position = min(1.0, self._position + n / self._recover_samples)
        before, self._gain = self._gain, gain * self._position
        if before != self._gain:
            sound = sound * (before + (self._gain - before) / n * np.arange(1.0, n + 1))
        elif before != 1.0:
            sound = sound * before
        return sound
