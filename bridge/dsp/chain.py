"""From what an input gives to what an avatar service takes."""

import numpy as np
from numpy.typing import NDArray

from bridge.dsp.follow import FollowingResampler
from bridge.dsp.resample import StreamResampler
from bridge.media.audio import AudioBlock


class SpeechChain:
    """Turns blocks of any rate and channel count into 24 kHz mono int16.

    A source may change rate or channel count between blocks: what the old resampler still holds comes out first.

    follows_to_s  what should wait of a source whose clock is followed; None: it is taken for ours, and resampled
                  exactly.
    """

    def __init__(self, follows_to_s: float | None = None) -> None:
        self._follows_to_s = follows_to_s
        self._resampler: StreamResampler | FollowingResampler | None = None

    @property
    def drift_ppm(self) -> float | None:
        """How much faster than ours the source's clock runs, where it is followed."""
        return self._resampler.drift_ppm if isinstance(self._resampler, FollowingResampler) else None

    def push(self, block: AudioBlock, waiting_s: float = 0.0) -> NDArray[np.int16]:
        """Shape (n_samples,). `waiting_s` as `FollowingResampler.push` wants it, and where the clock is followed.

        Raises SourceRejected for a rate or channel count that cannot be converted.
        """
        resampler, held = self._resampler, np.empty(0, np.int16)
        n_channels = block.samples.shape[1]
        if resampler is None or (resampler.rate_in_hz, resampler.n_channels) != (block.sample_rate_hz, n_channels):
            if resampler is not None:
                held = resampler.flush()
            resampler = self._resampler = self._open(block.sample_rate_hz, n_channels)
        if isinstance(resampler, FollowingResampler):
            return np.concatenate((held, resampler.push(block.samples, waiting_s)))
        return np.concatenate((held, resampler.push(block.samples)))

    def _open(self, rate_in_hz: int, n_channels: int) -> StreamResampler | FollowingResampler:
        if self._follows_to_s is None:
            return StreamResampler(rate_in_hz, n_channels)
        return FollowingResampler(rate_in_hz, n_channels, self._follows_to_s)

    def flush(self) -> NDArray[np.int16]:
        """What the filter still holds at the end of the source."""
        return np.empty(0, np.int16) if self._resampler is None else self._resampler.flush()
