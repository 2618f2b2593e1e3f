"""What is known of one input, and done to it, before it is mixed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bridge.dsp.levels import Level, measure
from bridge.dsp.loudness import LoudnessControl
from bridge.dsp.voice import VoiceDetector
from bridge.media.clock import AVATAR_RATE_HZ

# The offset is the mean of the last half second or so: what is slower than any voice.
_OFFSET_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class StripSettings:
    """What an operator may set.

    priority     a speaking input ducks those of lower priority.
    duck_db      gain while ducked, at most 0.
    hang_over_s  how long nobody has to speak until speech is over.
    loudness_lufs  what speech is brought to; None: it is left as loud as it is.
    blocks_dc    takes a constant offset off.
    """

    gain_db: float = 0.0
    priority: int = 0
    duck_db: float = -20.0
    hang_over_s: float = 0.5
    loudness_lufs: float | None = None
    blocks_dc: bool = False


class Strip:
    """One input on its way to the mix, 24 kHz mono: offset, who speaks, and the gain that it is to be mixed with.

    voice  tells who speaks, of what is heard with `gain_db`.
    """

    def __init__(self, settings: StripSettings) -> None:
        self.settings = settings
        self._gain: float = 10.0 ** (settings.gain_db / 20.0)
        self.voice = VoiceDetector(settings.hang_over_s, self._gain)
        target_lufs = settings.loudness_lufs
        self._loudness = None if target_lufs is None else LoudnessControl(target_lufs - settings.gain_db)
        self._offset = 0.0
        self._newest: NDArray[np.float64] = np.empty(0)

    @property
    def may_exceed_full_scale(self) -> bool:
        return self._gain > 1.0 or self._loudness is not None or self.settings.blocks_dc

    @property
    def gain(self) -> float:
        """What it is to be multiplied by; it may have changed with every piece."""
        return self._gain if self._loudness is None else self._gain * 10.0 ** (self._loudness.gain_db / 20.0)

    @property
    def level(self) -> Level:
        """Of the newest samples, as they are mixed."""
        return measure(self._newest * self.gain)

    def push(self, samples: NDArray[np.int16]) -> NDArray[np.float64]:
        """The same samples in units of an int16 step, without the gain."""
        sound = samples.astype(np.float64)
        if self.settings.blocks_dc:
            sound -= self._follow_offset(sound)
        self.voice.push(sound)
        if self._loudness is not None:
            self._loudness.push(sound, is_speech=self.voice.is_speaking)
        self._newest = sound
        return sound

    def rest(self, n_samples: int) -> None:
        """For so long there is nothing of this input."""
        self._newest = np.empty(0)
        if self.voice.is_speaking:
            self.voice.push(np.zeros(n_samples))

    def _follow_offset(self, sound: NDArray[np.float64]) -> NDArray[np.float64]:
        n = len(sound)
        before, mean = self._offset, float(np.add.reduce(sound)) / n
        self._offset += (mean - before) * min(1.0, n / (_OFFSET_S * AVATAR_RATE_HZ))
        return before + (self._offset - before) / n * np.arange(1.0, n + 1)
