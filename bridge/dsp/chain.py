"""From what an input gives to what an avatar service takes."""

import numpy as np
from numpy.typing import NDArray

from bridge.dsp.resample import StreamResampler
from bridge.media.audio import AudioBlock


class SpeechChain:
    """Turns blocks of any rate and channel count into 24 kHz mono int16.

    A source may change rate or channel count between blocks: what the old resampler still holds comes out first.
    """

    def __init__(self) -> None:
        self._resampler: StreamResampler | None = None

    def push(self, block: AudioBlock) -> NDArray[np.int16]:
        """Shape (n_samples,). Raises SourceRejected for a rate or channel count that cannot be converted."""
        resampler, held = self._resampler, np.empty(0, np.int16)
        n_channels = block.samples.shape[1]
        if resampler is None or (resampler.rate_in_hz, resampler.n_channels) != (block.sample_rate_hz, n_channels):
            if resampler is not None:
                held = resampler.flush()
            resampler = self._resampler = StreamResampler(block.sample_rate_hz, n_channels)
        return np.concatenate((held, resampler.push(block.samples)))

    def flush(self) -> NDArray[np.int16]:
        """What the filter still holds at the end of the source."""
        return np.empty(0, np.int16) if self._resampler is None else self._resampler.flush()
