"""From what an input gives to what viewers hear: 48 kHz stereo."""

import numpy as np
from numpy.typing import NDArray

from bridge.dsp.filter_bank import conversion_ratio, resampling_bank
from bridge.dsp.resample import MAX_UP_FACTOR, RunningFilter
from bridge.errors import SourceRejected
from bridge.media.audio import AudioBlock
from bridge.media.audio import Samples as AnySamples
from bridge.media.clock import NS_PER_MS, NS_PER_S, OPUS_CLOCK_HZ, ticks_to_ns
from bridge.media.opus_decoder import Samples

# ITU-R BS.775-4 table 2, down to two channels: centre and surround 0.7071, LFE left out. In the channel order of
# `downmix`, the gains of the left one; those of the right are the same with left and right swapped.
_C = _S = 0.5**0.5
_LEFT: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    2: (1.0, 0.0),
    3: (1.0, 0.0, _C),
    4: (1.0, 0.0, _S, 0.0),
    5: (1.0, 0.0, _C, _S, 0.0),
    6: (1.0, 0.0, _C, 0.0, _S, 0.0),
    7: (1.0, 0.0, _C, 0.0, _S * _S, _S, 0.0),
    8: (1.0, 0.0, _C, 0.0, _S, 0.0, _S, 0.0),
}
_RIGHT: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    2: (0.0, 1.0),
    3: (0.0, 1.0, _C),
    4: (0.0, 1.0, 0.0, _S),
    5: (0.0, 1.0, _C, 0.0, _S),
    6: (0.0, 1.0, _C, 0.0, 0.0, _S),
    7: (0.0, 1.0, _C, 0.0, _S * _S, 0.0, _S),
    8: (0.0, 1.0, _C, 0.0, 0.0, _S, 0.0, _S),
}
# Stamps are whole nanoseconds, or a sender's ticks: what differs by more than this does not follow.
_JOINT_NS = NS_PER_MS
# What rates have that are resampled exactly for the avatar, to half of ours. One whose clock is followed may be any:
# the filter for 44,101 Hz, with a factor of 48,000, takes 4.6 s and 400 MB to make.
_MAX_UP_FACTOR = 2 * MAX_UP_FACTOR


def check_rate(rate_in_hz: int) -> None:
    """Raises SourceRejected: a filter for it would take seconds to make, in the thread of all sessions' sound."""
    up, _ = conversion_ratio(rate_in_hz, OPUS_CLOCK_HZ)
    if up > _MAX_UP_FACTOR:
        raise SourceRejected(f"sound at {rate_in_hz} Hz cannot be put on air: use a multiple of 50 or 75 Hz")


class StereoConverter:
    """Turns blocks of 1 to 8 channels and of a rate that `check_rate` lets pass into 48 kHz stereo.

    What is 48 kHz stays as it is. Else the filter is that of `resample.StreamResampler` at twice its rates: flat to
    21.6 kHz; what it still holds where a source breaks off or changes, half a millisecond, is dropped.
    """

    def __init__(self) -> None:
        self._filters: tuple[RunningFilter, ...] = ()
        self._form: tuple[int, int] | None = None
        self._origin_ns = 0  # source time of the filters' first sample
        self._n_outputs = 0
        self._ends_ns = 0

    def push(self, block: AudioBlock) -> tuple[Samples, int]:
        """Samples of the caller's own, shape (2, n), in [-1, 1], and the source time of the first."""
        form = block.sample_rate_hz, block.samples.shape[1]
        if form != self._form or abs(block.pts_ns - self._ends_ns) > _JOINT_NS:
            self._form, self._origin_ns, self._n_outputs = form, block.pts_ns, 0
            if block.sample_rate_hz != OPUS_CLOCK_HZ:
                bank = resampling_bank(block.sample_rate_hz, OPUS_CLOCK_HZ)
                self._filters = (RunningFilter(bank), RunningFilter(bank))
        self._ends_ns = block.pts_ns + round(block.duration_s * NS_PER_S)
        stereo = _stereo(block.samples)
        if block.sample_rate_hz == OPUS_CLOCK_HZ:
            return stereo, block.pts_ns
        starts_ns = self._origin_ns + ticks_to_ns(self._n_outputs, OPUS_CLOCK_HZ)
        converted = np.stack([_run(each, channel) for each, channel in zip(self._filters, stereo, strict=True)])
        self._n_outputs += converted.shape[1]
        return converted, starts_ns


def _run(running: RunningFilter, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    pieces: list[NDArray[np.float32]] = []
    for start in range(0, len(samples), running.max_inputs):
        piece = samples[start : start + running.max_inputs]
        plan = running.plan(len(piece))
        plan.new[:, 0] = piece
        pieces.append(running.filter(plan).astype(np.float32))
    return np.concatenate((np.empty(0, np.float32), *pieces))


def _stereo(samples: AnySamples) -> Samples:
    """Full scale is 1: what is louder is clipped, what is not a number is silence."""
    if samples.dtype == np.int16:
        wide = samples.T * np.float32(2.0**-15)
    elif samples.dtype == np.int32:
        wide = samples.T * np.float32(2.0**-31)
    else:
        wide = np.nan_to_num(samples.T).clip(-1.0, 1.0)
    n_channels = len(wide)
    if n_channels <= 2:
        return np.array(np.broadcast_to(wide, (2, wide.shape[1])), np.float32, order="C")
    gains = np.array((_LEFT[n_channels], _RIGHT[n_channels]), np.float32)
    mixed: Samples = (gains / gains[0].sum()) @ wide
    return mixed
