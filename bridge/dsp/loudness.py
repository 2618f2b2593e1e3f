"""Brings speech to a target loudness, measured as EBU R 128 does, by a gain that moves slowly."""

import math
from collections import deque
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bridge.dsp.levels import FULL_SCALE
from bridge.media.clock import AVATAR_RATE_HZ

# ITU-R BS.1770-5 tables 1 and 2: the pre-filter and the RLB filter, numerators and denominators at 48 kHz.
_TABLE_RATE_HZ = 48_000
_SECTIONS = (
    ((1.53512485958697, -2.69169618940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585)),
    ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621)),
)
# BS.1770-5 §1: a full-scale 997 Hz sine is -3.01.
_OFFSET_DB = -0.691
# Short-term loudness: 3 s (EBU Tech 3341 §2.2), here in steps of 200 ms: a meter has to show more than a gain can
# follow. Before there is that much, a momentary window of 400 ms has to do.
_BLOCK_SAMPLES = AVATAR_RATE_HZ // 5
_N_BLOCKS, _N_FIRST_BLOCKS = 15, 2
# What is 20 dB too soft is a microphone at the wrong end of the room: more gain would bring up the room.
MOST_DB = 20.0
# A speaker who turns away is followed within seconds; his emphasis, which lasts a syllable, is left to him.
_DB_PER_BLOCK = 1.2
# EBU R 128 §h): live programmes may be off by so much; a gain that rests is not heard.
_TOLERANCE_DB = 1.0


class LoudnessControl:
    """Follows 24 kHz mono in units of an int16 step. Only speech counts, with the pauses in it: others raise no gain.

    target_lufs  of 3 s of speech; what comes in may be 20 dB off.
    gain_db      as it is now.  short_term_lufs: of the last 3 s of speech that came in; None: too little yet.
    """

    def __init__(self, target_lufs: float) -> None:
        self.gain_db = 0.0
        self.short_term_lufs: float | None = None
        self._target_lufs = target_lufs
        self._block: list[NDArray[np.float64]] = []
        self._n_in_block = 0
        self._energies: deque[float] = deque(maxlen=_N_BLOCKS)

    def push(self, sound: NDArray[np.float64], *, is_speech: bool) -> None:
        self._block.append(sound)
        self._n_in_block += len(sound)
        if self._n_in_block >= _BLOCK_SAMPLES:
            if is_speech:
                self._measure(np.concatenate(self._block))
            self._block.clear()
            self._n_in_block = 0

    def _measure(self, block: NDArray[np.float64]) -> None:
        spectrum = np.fft.rfft(block)
        mean_square = float(_weights(len(block)) @ (spectrum.real**2 + spectrum.imag**2))
        self._energies.append(mean_square / FULL_SCALE**2)
        energy = sum(self._energies) / len(self._energies)
        if len(self._energies) < _N_FIRST_BLOCKS or not energy:
            return
        self.short_term_lufs = _OFFSET_DB + 10 * math.log10(energy)
        wanted_db = min(max(self._target_lufs - self.short_term_lufs, -MOST_DB), MOST_DB)
        if abs(wanted_db - self.gain_db) > _TOLERANCE_DB:
            self.gain_db += min(max(wanted_db - self.gain_db, -_DB_PER_BLOCK), _DB_PER_BLOCK)


@lru_cache(maxsize=8)
def _weights(n_samples: int) -> NDArray[np.float64]:
    """What each bin of a block's real spectrum adds to the mean square of its K-weighted sound.

    A block has no past here: what rings over its borders is a few periods of 38 Hz, and no energy is lost.
    """
    delay = np.exp(-2j * np.pi * np.fft.rfftfreq(n_samples, 1 / AVATAR_RATE_HZ) / _TABLE_RATE_HZ)
    response = np.ones(len(delay), np.complex128)
    for numerator, denominator in _SECTIONS:
        response *= np.polyval(numerator[::-1], delay) / np.polyval(denominator[::-1], delay)
    # One side of the spectrum stands for both.
    weights: NDArray[np.float64] = 2 * np.abs(response) ** 2 / n_samples**2
    return weights
