"""What is done to one input before it is mixed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bridge.dsp.levels import FULL_SCALE, Level, measure
from bridge.dsp.voice import VoiceDetector


@dataclass(frozen=True, slots=True, kw_only=True)
class StripSettings:
    """What an operator may set.

    priority     a speaking input ducks those of lower priority.
    duck_db      gain while ducked, at most 0.
    hang_over_s  how long nobody has to speak until speech is over.
    """

    gain_db: float = 0.0
    priority: int = 0
    duck_db: float = -20.0
    hang_over_s: float = 0.5


class Strip:
    """One input's way to the mix, 24 kHz mono: gain, then who speaks.

    level  of the newest samples.
    """

    def __init__(self, settings: StripSettings) -> None:
        self.settings = settings
        self.voice = VoiceDetector(settings.hang_over_s)
        self._gain: float = 10.0 ** (settings.gain_db / 20.0)
        self._newest: NDArray[np.float64] = np.empty(0)

    @property
    def may_exceed_full_scale(self) -> bool:
        return self._gain > 1.0

    @property
    def level(self) -> Level:
        return measure(self._newest)

    def push(self, samples: NDArray[np.int16]) -> NDArray[np.float64]:
        """Shape (n_samples,) as what came in, in units of an int16 step, which it may exceed."""
        sound = samples.astype(np.float64)
        if self._gain != 1.0:
            sound *= self._gain
        heard = sound.clip(-FULL_SCALE, FULL_SCALE - 1) if self.may_exceed_full_scale else sound
        self.voice.push(heard)
        self._newest = sound
        return sound

    def rest(self, n_samples: int) -> None:
        """For so long there is nothing of this input."""
        self._newest = np.empty(0)
        self.voice.push(np.zeros(n_samples))
