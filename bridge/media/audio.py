"""Uncoded sound."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class AudioBlock:
    """Consecutive samples of one source.

    samples         shape (n_samples, n_channels); int16, or float32 with nominal range [-1, 1].
    sample_rate_hz  8000 to 192000.
    pts_ns          source time of the first sample.
    """

    samples: NDArray[np.int16] | NDArray[np.float32]
    sample_rate_hz: int
    pts_ns: int

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate_hz
