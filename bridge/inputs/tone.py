"""`tone:` and `silence:`, for tests: sound that needs nothing."""

import itertools
from collections.abc import Awaitable, Callable

import numpy as np

from bridge.media.audio import AudioBlock
from bridge.media.clock import ticks_to_ns

RATE_HZ = 48_000
# -20 dBFS, where EBU and SMPTE put their line-up tone (EBU R68: -18), clear of every limiter.
_AMPLITUDE = 0.1
_BLOCK_SAMPLES = RATE_HZ // 5


class ToneSource:
    """A sine of -20 dBFS peak for ever, or silence; as fast as it is taken.

    frequency_hz  20 to 20000; None: silence.
    """

    is_live = False

    def __init__(self, name: str, frequency_hz: float | None) -> None:
        self.name = name
        self._frequency_hz = frequency_hz

    async def run(self, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        """Deliver until cancelled."""
        for start in itertools.count(0, _BLOCK_SAMPLES):
            # `emit` waits once enough is buffered.
            await emit(AudioBlock(self._samples(start)[:, None], RATE_HZ, ticks_to_ns(start, RATE_HZ)))

    def _samples(self, start: int) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
        if self._frequency_hz is None:
            return np.zeros(_BLOCK_SAMPLES, np.float32)
        # Whole turns are taken off before float64 would run out of digits.
        turns = np.arange(start, start + _BLOCK_SAMPLES) * self._frequency_hz / RATE_HZ % 1
        return (_AMPLITUDE * np.sin(2 * np.pi * turns)).astype(np.float32)
