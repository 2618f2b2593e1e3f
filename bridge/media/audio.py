"""Uncoded sound."""

from collections import deque
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bridge.media.clock import AVATAR_RATE_HZ, NS_PER_S, ticks_to_ns

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


class BlockRow:
    """Blocks of any form in a row, of which so much is taken as of the 24 kHz that they have become. What is taken has
    a time of its own, without gaps."""

    def __init__(self) -> None:
        self._blocks: deque[AudioBlock] = deque()
        self._owed_ns = 0  # less than a sample of the first block
        self._taken_ns = 0

    def append(self, block: AudioBlock) -> None:
        self._blocks.append(block)

    def take(self, n_samples: int) -> list[AudioBlock]:
        """What so many samples of 24 kHz are made of, as far as there is as much."""
        self._owed_ns += ticks_to_ns(n_samples, AVATAR_RATE_HZ)
        taken: list[AudioBlock] = []
        while self._blocks:
            block = self._blocks[0]
            rate_hz = block.sample_rate_hz
            n_taken = min(len(block.samples), self._owed_ns * rate_hz // NS_PER_S)
            if n_taken:
                duration_ns = ticks_to_ns(n_taken, rate_hz)
                taken.append(replace(block, samples=block.samples[:n_taken], pts_ns=self._taken_ns))
                self._owed_ns -= duration_ns
                self._taken_ns += duration_ns
            if n_taken < len(block.samples):
                self._blocks[0] = replace(block, samples=block.samples[n_taken:])
                return taken
            self._blocks.popleft()
        self._owed_ns = 0
        return taken
