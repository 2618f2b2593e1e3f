"""Uncoded sound."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

# Shape (n_samples, n_channels); int16, int32 with 24 bits in its upper three bytes or with 32, float32 with nominal
# range [-1, 1].
Samples: TypeAlias = NDArray[np.int16] | NDArray[np.int32] | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AudioBlock:
    """Consecutive samples of one source.

    samples         see `Samples`.
    sample_rate_hz  8000 to 192000.
    pts_ns          source time of the first sample.
    """

    samples: Samples
    sample_rate_hz: int
    pts_ns: int

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate_hz
