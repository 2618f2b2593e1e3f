"""Brings speech to a target loudness, measured as EBU R 128 does, by a gain that moves slowly."""

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from bridge.dsp.levels import FULL_SCALE
from bridge.media.clock import AVATAR_RATE_HZ

# The pre-filter and the RLB filter of ITU-R BS.1770-5, whose tables are for 48 kHz, as the analogue filters they were
# made from: frequency in Hz, Q, and gains of the second-order section's high, band and low part.
_SHELF_DB = 3.999843853973347
_SHELF = (
    1681.974450955533,
    0.7071752369554196,
    10 ** (_SHELF_DB / 20),
    (10 ** (_SHELF_DB / 20)) ** 0.4996667741545416,
    1,
)
_HIGH_PASS = (38.13547087602444, 0.5003270373238773, 1.0, 0.0, 0.0)
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
    """Follows 24 kHz mono in units of an int16 step. Only speech counts: pauses do not raise the gain.

    The filter rests in pauses too: what is left in it of the word before is gone within 20 ms.

    target_lufs  of 3 s of speech; what comes in may be 20 dB off.
    gain_db      as it is now.  short_term_lufs: of the last 3 s of speech that came in; None: too little yet.
    """

    def __init__(self, target_lufs: float) -> None:
        self.gain_db = 0.0
        self.short_term_lufs: float | None = None
        self._target_lufs = target_lufs
        self._filter = _Weighting()
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
        weighted = self._filter.push(block)
        self._energies.append(float(weighted @ weighted) / len(weighted) / FULL_SCALE**2)
        energy = sum(self._energies) / len(self._energies)
        if len(self._energies) < _N_FIRST_BLOCKS or not energy:
            return
        self.short_term_lufs = _OFFSET_DB + 10 * math.log10(energy)
        wanted_db = min(max(self._target_lufs - self.short_term_lufs, -MOST_DB), MOST_DB)
        if abs(wanted_db - self.gain_db) > _TOLERANCE_DB:
            self.gain_db += min(max(wanted_db - self.gain_db, -_DB_PER_BLOCK), _DB_PER_BLOCK)


class _Weighting:
    """K-weighting of a stream."""

    def __init__(self) -> None:
        (shelf_b, shelf_a), (high_pass_b, high_pass_a) = _section(*_SHELF), _section(*_HIGH_PASS)
        # BS.1770 leaves the second filter's numerator at 1, -2, 1.
        self.b = np.convolve(shelf_b, high_pass_b / high_pass_b[0])
        self.a = np.convolve(shelf_a, high_pass_a)
        self._state: NDArray[np.float64] = np.zeros(len(self.b) - 1)

    def push(self, sound: NDArray[np.float64]) -> NDArray[np.float64]:
        weighted: NDArray[np.float64]
        weighted, self._state = lfilter(self.b, self.a, sound, zi=self._state)
        return weighted


def _section(
    frequency_hz: float, q: float, high: float, band: float, low: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A second-order section by the bilinear transform: numerator and denominator."""
    k = math.tan(math.pi * frequency_hz / AVATAR_RATE_HZ)
    norm = 1 + k / q + k * k
    b = np.array([high + band * k / q + low * k * k, 2 * (low * k * k - high), high - band * k / q + low * k * k])
    return b / norm, np.array([1.0, 2 * (k * k - 1) / norm, (1 - k / q + k * k) / norm])
