"""What a mouth does for a stretch of speech: loudness opens it, the spectrum shapes it (no phonemes are recognised)."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bridge.media.clock import AVATAR_RATE_HZ

# One picture's worth of sound: long enough for two periods of a deep voice (80 Hz), short enough for a plosive.
WINDOW_SAMPLES = AVATAR_RATE_HZ * 40 // 1000

_HERTZ = np.fft.rfftfreq(WINDOW_SAMPLES, 1 / AVATAR_RATE_HZ)
_HANN = np.hanning(WINDOW_SAMPLES)
_VOICE = (_HERTZ >= 150) & (_HERTZ < 3500)
# First formants: about 300 Hz in "i" and "u", 750 Hz in "a" (Peterson and Barney, 1952, table II).
_CLOSE_VOWEL = (_HERTZ >= 150) & (_HERTZ < 480)
_OPEN_VOWEL = (_HERTZ >= 550) & (_HERTZ < 1100)
# Second formants: 700 to 1100 Hz in "u", "o" and "a", 1800 to 2400 Hz in "e" and "i" (same table).
_BACK_VOWEL = (_HERTZ >= 550) & (_HERTZ < 1300)
_FRONT_VOWEL = (_HERTZ >= 1600) & (_HERTZ < 3200)
_FRICATIVE = _HERTZ >= 3500

_FLOOR_DBFS = -55.0  # what a quiet room sounds like in a level-controlled signal; the mouth stays shut below
_NOISE_MARGIN_DB = 8.0  # how far the level of steady noise swings from window to window, with room to spare
_SPAN_DB = 30.0  # from a shut mouth to a wide open one, below the speaker's own loudest


@dataclass(frozen=True, slots=True)
class MouthShape:
    """openness 0 closed .. 1; spread -1 round as in "o" .. 1 wide as in "e"; hiss 0 .. 1 teeth together as in "s"."""

    openness: float = 0.0
    spread: float = 0.0
    hiss: float = 0.0


REST = MouthShape()


def momentary_shape(
    window: NDArray[np.int16], loudest_dbfs: float = -14.0, floor_dbfs: float = _FLOOR_DBFS
) -> MouthShape:
    """The shape for `WINDOW_SAMPLES` samples (24 kHz, mono) alone.

    loudest_dbfs is the speaker's loud voice; what is below floor_dbfs is noise.
    """
    level = level_dbfs(window)
    if level < floor_dbfs:
        return REST
    power = np.abs(np.fft.rfft(window * _HANN)) ** 2
    total = float(power.sum()) + 1e-9
    hiss = float(power[_FRICATIVE].sum()) / total
    shut_dbfs = max(loudest_dbfs - _SPAN_DB, floor_dbfs)
    loudness = (level - shut_dbfs) / max(1.0, loudest_dbfs - shut_dbfs)
    # Voices fall by some 10 dB per octave: the upper band is weighed up so that the vowels divide the range evenly.
    jaw = _share(power, _OPEN_VOWEL, _CLOSE_VOWEL, 2.0)
    front = _share(power, _FRONT_VOWEL, _BACK_VOWEL, 4.5)
    voiced = float(power[_VOICE].sum()) / total
    openness = max(0.0, min(1.0, loudness)) * (0.45 + 0.65 * jaw) * (0.25 + 0.75 * voiced)
    spread = max(-1.0, min(1.0, 1.5 * (2 * front - 1)))
    if spread < 0:
        spread *= 1 - 0.6 * jaw  # "a" has the low second formant of "o" and "u", but not their rounding
    return MouthShape(min(1.0, openness), spread, min(1.0, max(0.0, 2.5 * hiss - 0.75)))


class MouthTracker:
    """Shapes for the pictures of one voice, one after the other: quick to open, slower to shut, as lips are."""

    # Lips close for "p" in 60 to 80 ms and open faster (Löfqvist and Gracco, 1997); the window itself smooths 40 ms.
    _ATTACK_S = 0.028
    _RELEASE_S = 0.055
    _SPREAD_S = 0.07
    _SHUT_S = 0.1  # from wide open, when nothing is said any more: at most three pictures
    # Steady noise is taken for speech for less than a second. Syllables leave a gap several times a second; a voice
    # louder than the highest floor moves the mouth even where it leaves none.
    _NOISE_RISE_DB_PER_S = 16.0
    _LOUDEST_NOISE_DBFS = -46.0

    def __init__(self, picture_s: float) -> None:
        self._attack, self._release, self._follow = (
            1 - math.exp(-picture_s / time_s) for time_s in (self._ATTACK_S, self._RELEASE_S, self._SPREAD_S)
        )
        self._fade_db = 2.0 * picture_s
        self._rise_db = self._NOISE_RISE_DB_PER_S * picture_s
        self._shut_step = picture_s / self._SHUT_S
        self._loudest_dbfs = -18.0
        self._noise_dbfs = self._LOUDEST_NOISE_DBFS
        self._shape = REST

    def follow(self, window: NDArray[np.int16]) -> MouthShape:
        """The shape of the picture in the middle of `WINDOW_SAMPLES` samples."""
        level = level_dbfs(window)
        self._loudest_dbfs = min(-6.0, max(level, self._loudest_dbfs - self._fade_db, -32.0))
        self._noise_dbfs = min(level, self._noise_dbfs + self._rise_db, self._LOUDEST_NOISE_DBFS)
        self._noise_dbfs = max(self._noise_dbfs, _FLOOR_DBFS - _NOISE_MARGIN_DB)
        aim, now = momentary_shape(window, self._loudest_dbfs, self._noise_dbfs + _NOISE_MARGIN_DB), self._shape
        rate = self._attack if aim.openness > now.openness else self._release
        openness = now.openness + rate * (aim.openness - now.openness)
        if aim == REST:
            openness = min(openness, now.openness - self._shut_step)
        # A shut mouth has no spread of its own: the last one stays until it opens again.
        pull = self._follow * min(1.0, 4 * aim.openness)
        spread = now.spread + pull * (aim.spread - now.spread)
        self._shape = MouthShape(openness if openness > 0.01 else 0.0, spread, aim.hiss)
        return self._shape


def level_dbfs(window: NDArray[np.int16]) -> float:
    """RMS level: 0 dBFS is a full-scale square wave; digital silence is -120."""
    mean_square = float(np.mean(np.square(window, dtype=np.float64))) / 32768**2
    return 10 * math.log10(max(mean_square, 1e-12))


def _share(power: NDArray[np.float64], upper: NDArray[np.bool_], lower: NDArray[np.bool_], weight: float) -> float:
    high, low = weight * float(power[upper].sum()), float(power[lower].sum())
    return high / (high + low + 1e-9)
