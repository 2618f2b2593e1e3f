"""Several inputs become one: those of lower priority step back while others speak."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bridge.dsp.levels import FULL_SCALE
from bridge.dsp.limiter import Limiter
from bridge.dsp.strip import Strip
from bridge.media.clock import AVATAR_RATE_HZ

# From full to silent and back, as linear ramps: down within a message, before the first syllable is over; up slowly
# enough to be no second event, as automatic mixers do.
_DUCK_S, _RECOVER_S = 0.02, 0.5


class Mix:
    """Sums its strips, each ducked while a strip of higher priority speaks; 24 kHz mono.

    One strip alone at unity gain comes out as it went in, bit for bit; whatever may exceed full scale passes a limiter,
    and comes out 5 ms later.
    """

    def __init__(self, strips: Sequence[Strip]) -> None:
        self._strips = strips
        self._faders = [_Fader(10.0 ** (strip.settings.duck_db / 20.0)) for strip in strips]
        is_limited = len(strips) > 1 or any(strip.may_exceed_full_scale for strip in strips)
        self._limiter = Limiter() if is_limited else None

    def push(self, pieces: Sequence[NDArray[np.int16] | None], n_samples: int) -> NDArray[np.int16]:
        """Mix a piece of each strip, all so long; None: there is nothing of it. Empty where there is nothing at all."""
        sounds: list[NDArray[np.float64] | None] = []
        for strip, piece in zip(self._strips, pieces, strict=True):
            if piece is None:
                strip.rest(n_samples)
            sounds.append(None if piece is None else strip.push(piece))
        speaking = max((strip.settings.priority for strip in self._strips if strip.voice.is_speaking), default=0)
        total: NDArray[np.float64] | None = None
        for strip, fader, sound in zip(self._strips, self._faders, sounds, strict=True):
            if sound is not None:
                faded = fader.push(sound, is_ducked=strip.settings.priority < speaking)
                total = faded if total is None else total + faded
        if self._limiter is not None and (total is not None or self._limiter.holds_sound):
            total = self._limiter.push(np.zeros(n_samples) if total is None else total)
        if total is None:
            return np.empty(0, np.int16)
        return np.rint(total).clip(-FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


class _Fader:
    """A gain that moves between 1 and `ducked`."""

    def __init__(self, ducked: float) -> None:
        self._ducked = ducked
        self._gain = 1.0

    def push(self, sound: NDArray[np.float64], *, is_ducked: bool) -> NDArray[np.float64]:
        target = self._ducked if is_ducked else 1.0
        if self._gain == target:
            return sound if target == 1.0 else sound * target
        step = -1 / (_DUCK_S * AVATAR_RATE_HZ) if is_ducked else 1 / (_RECOVER_S * AVATAR_RATE_HZ)
        ramp: NDArray[np.float64] = (self._gain + step * np.arange(1, len(sound) + 1)).clip(self._ducked, 1.0)
        self._gain = float(ramp[-1])
        return sound * ramp
