"""Samples of any format and channel count to mono on one grid."""

import numpy as np
from numpy.typing import NDArray

from bridge.errors import SourceRejected
from bridge.media.audio import Samples

# Mono is in steps of int16, with 8 bits of fraction: 24 bits, on which every input is rounded once.
FRACTION_STEPS = 2.0**8
_FULL_SCALE = 2.0**15

# ITU-R BS.775-4 table 2, down to one channel: L and R 0.7071, C 1, surround 0.5, LFE left out. In WAVE's and FFmpeg's
# channel order, 3 to 8 channels: 3.0, quad, 5.0, 5.1, 6.1, 7.1.
_FRONT, _CENTRE, _LFE, _SURROUND = 0.5**0.5, 1.0, 0.0, 0.5
_GAINS: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    2: (_FRONT, _FRONT),
    3: (_FRONT, _FRONT, _CENTRE),
    4: (_FRONT, _FRONT, _SURROUND, _SURROUND),
    5: (_FRONT, _FRONT, _CENTRE, _SURROUND, _SURROUND),
    6: (_FRONT, _FRONT, _CENTRE, _LFE, _SURROUND, _SURROUND),
    7: (_FRONT, _FRONT, _CENTRE, _LFE, _SURROUND, _SURROUND, _SURROUND),
    8: (_FRONT, _FRONT, _CENTRE, _LFE, _SURROUND, _SURROUND, _SURROUND, _SURROUND),
}
# Gains are integers of 2**-12, which keeps the sum of eight channels exact too.
_GAIN_STEPS = 2.0**12


class Downmix:
    """Mixes 1 to 8 channels, in WAVE order, to mono by BS.775, scaled so that full scale on all of them cannot clip.

    Results are multiples of 2**-8 from -2**15 to 2**15, whatever the order in which a machine adds.

    Raises SourceRejected for any other number of channels.
    """

    def __init__(self, n_channels: int) -> None:
        if n_channels not in _GAINS:
            raise SourceRejected(f"sound with {n_channels} channels: 1 to {max(_GAINS)} can be mixed down")
        self.n_channels = n_channels
        gains = np.array(_GAINS[n_channels])
        self._gains = np.rint(gains / gains.sum() * _GAIN_STEPS)[:, None] / _GAIN_STEPS

    def mix(self, samples: Samples, out: NDArray[np.float64]) -> None:
        """Mix samples, shape (n, n_channels), into `out`, shape (n, 1), in steps of int16.

        int16; int32, full scale 2**31, for 24 bits in its upper three bytes; float32, full scale 1, louder is clipped
        and what is not a number is silence.
        """
        if self.n_channels == 1:
            _to_grid(samples, out)
            return
        wide = np.empty(samples.shape)
        _to_grid(samples, wide)
        np.matmul(wide, self._gains, out=out)
        if self.n_channels > 2 or samples.dtype != np.int16:
            out *= FRACTION_STEPS
            np.rint(out, out=out)
            out *= 1 / FRACTION_STEPS


def _to_grid(samples: Samples, out: NDArray[np.float64]) -> None:
    if samples.dtype == np.int16:
        out[...] = samples
        return
    if samples.dtype == np.int32:
        np.multiply(samples, 2.0**-16 * FRACTION_STEPS, out=out)
    else:
        np.clip(samples, -1.0, 1.0, out=out)
        if np.isnan(out.sum()):
            np.nan_to_num(out, copy=False, nan=0.0)
        out *= _FULL_SCALE * FRACTION_STEPS
    np.rint(out, out=out)
    out *= 1 / FRACTION_STEPS
