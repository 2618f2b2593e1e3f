"""Loudness of PCM16: a meter, and where speech pauses."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bridge.media.clock import AVATAR_RATE_HZ

# What the meter shows for digital silence: below the noise of 16 bits, and a number that every display can take.
SILENCE_DBFS = -100.0
FULL_SCALE = 32_768


@dataclass(frozen=True, slots=True)
class Level:
    """Loudness of a block, -100 dB or more relative to full scale.

    peak_dbfs  the largest sample.  rms_dbfs  the energy; a full-scale sine has -3.
    """

    peak_dbfs: float = SILENCE_DBFS
    rms_dbfs: float = SILENCE_DBFS


def measure(samples: NDArray[np.int16] | NDArray[np.float64]) -> Level:
    """In units of an int16 step; louder than full scale is above 0 dB."""
    if not len(samples):
        return Level()
    wide = samples.astype(np.float64)
    return Level(_dbfs(float(np.abs(wide).max())), _dbfs(math.sqrt(float(wide @ wide) / len(wide))))


def _dbfs(amplitude: float) -> float:
    return max(SILENCE_DBFS, 20 * math.log10(amplitude / FULL_SCALE)) if amplitude else SILENCE_DBFS


class PauseGate:
    """Tells how long nobody has spoken: a sample beyond the threshold is speech, all after the last one is pause.

    No voice detector: steady noise above the threshold never pauses, so whoever waits for one needs a deadline.
    """

    # Speech is mixed to peaks of -20 to 0 dBFS; room noise and breath of a usable recording stay below -40 dBFS.
    THRESHOLD_DBFS = -40.0

    def __init__(self, threshold_dbfs: float = THRESHOLD_DBFS) -> None:
        self._threshold = round(FULL_SCALE * 10.0 ** (threshold_dbfs / 20.0))
        self._quiet_samples = 0
        self._has_spoken = False

    def push(self, samples: NDArray[np.int16]) -> None:
        if not len(samples):
            return
        # In 16 bits that wrap, quiet ones and no others lie from 0 to twice the threshold: one comparison does it.
        is_loud = (samples + np.int16(self._threshold)).view(np.uint16) > 2 * self._threshold
        n_quiet = int(is_loud[::-1].argmax())  # behind the last loud one; 0 as well where none is
        if is_loud[-1 - n_quiet]:
            self._quiet_samples = n_quiet
            self._has_spoken = True
        else:
            self._quiet_samples += len(samples)

    @property
    def pause_s(self) -> float:
        """Time since the last speech; infinite before the first."""
        return self._quiet_samples / AVATAR_RATE_HZ if self._has_spoken else math.inf
