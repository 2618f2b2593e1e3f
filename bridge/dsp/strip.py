"""What is done to one input before it is mixed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from bridge.dsp.levels import FULL_SCALE, Level, measure
from bridge.dsp.loudness import LoudnessControl
from bridge.dsp.voice import VoiceDetector
from bridge.media.clock import AVATAR_RATE_HZ

# One zero at 0 Hz, one pole 20 Hz beside it: below every voice, and settled within 10 ms.
_DC_POLE = float(np.exp(-2 * np.pi * 20 / AVATAR_RATE_HZ))
_DC_BLOCKER = ((1 + _DC_POLE) / 2, -(1 + _DC_POLE) / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class StripSettings:
    """What an operator may set.

    priority     a speaking input ducks those of lower priority.
    duck_db      gain while ducked, at most 0.
    hang_over_s  how long nobody has to speak until speech is over.
    loudness_lufs  what speech is brought to; None: it is left as loud as it is.
    blocks_dc    takes a constant offset off, and what lies below 20 Hz.
    """

    gain_db: float = 0.0
    priority: int = 0
    duck_db: float = -20.0
    hang_over_s: float = 0.5
    loudness_lufs: float | None = None
    blocks_dc: bool = False


class Strip:
    """One input's way to the mix, 24 kHz mono: offset, gain, who speaks, loudness.

    level  of the newest samples.
    """

    def __init__(self, settings: StripSettings) -> None:
        self.settings = settings
        self.voice = VoiceDetector(settings.hang_over_s)
        self._gain: float = 10.0 ** (settings.gain_db / 20.0)
        self._loudness = None if settings.loudness_lufs is None else LoudnessControl(settings.loudness_lufs)
        self._dc_state: NDArray[np.float64] | None = np.zeros(1) if settings.blocks_dc else None
        self._newest: NDArray[np.float64] = np.empty(0)

    @property
    def may_exceed_full_scale(self) -> bool:
        return self._gain > 1.0 or self._loudness is not None or self._dc_state is not None

    @property
    def level(self) -> Level:
        return measure(self._newest)

    def push(self, samples: NDArray[np.int16]) -> NDArray[np.float64]:
        """Shape (n_samples,) as what came in, in units of an int16 step, which it may exceed."""
        sound = samples.astype(np.float64)
        if self._dc_state is not None:
            sound, self._dc_state = lfilter(_DC_BLOCKER, (1.0, -_DC_POLE), sound, zi=self._dc_state)
        if self._gain != 1.0:
            sound *= self._gain
        heard = sound.clip(-FULL_SCALE, FULL_SCALE - 1) if self.may_exceed_full_scale else sound
        self.voice.push(heard)
        if self._loudness is not None:
            sound = self._loudness.push(sound, is_speech=self.voice.is_speaking)
        self._newest = sound
        return sound

    def rest(self, n_samples: int) -> None:
        """For so long there is nothing of this input."""
        self._newest = np.empty(0)
        self.voice.push(np.zeros(n_samples))
