"""The program that designs the resampler's filters and writes them to taps.npz.

    python -m bridge.dsp.make_taps

The designs are shipped as integers: another libm could round the last bit of one differently, and then the same sound
would give other samples on another machine.

prototype  Right half of a symmetric low-pass, its centre first, in units of 2**-30. A unit of its time is a sample at
           24 kHz, or at the source's rate if that is lower, and holds 16 values: `filter_bank.py` samples it at any
           rate. The sum of all values of both halves is 16.
halving, quartering  Right halves of the low-passes before a source of 88.2 kHz and more is thinned out, its centre
           first, in units of 2**-28.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.signal import firwin, remez

from bridge.dsp.filter_bank import HALF_UNITS, PROTOTYPE_FRACTION_BITS, SAMPLES_PER_UNIT, TAP_FRACTION_BITS, TAPS_FILE

# Speech has nothing above 10.8 kHz that a recognizer or a mouth would miss; from 12 kHz on, the half of the output
# rate, everything would fold back. In cycles per unit.
PASSBAND, STOPBAND = 10_824 / 24_000, 0.5
# Against 1 in the pass band. With a HALF_UNITS of 56, a delay of 2.33 ms at 24 kHz, it gives a ripple of 0.0037 dB and
# a rejection of 110 dB after all folding, where 16 bits have their noise at 98 dB.
STOPBAND_WEIGHT = 90.0
# Four times as much from octave to octave, because a filter that is sampled at two values per unit folds all of them.
OCTAVE_WEIGHT = 4.0
# Octaves must not touch; between them the response can only rise where there is room for a lobe, 1 / (2 * 56) wide.
GAP = 0.005

# Cycles per input sample, for the lowest rates they serve: 88.2 and 176.4 kHz. What folds back above 12 kHz is removed
# by what follows.
HALVING_EDGES, QUARTERING_EDGES = (
    (12_000 / 88_200, 1 / 2 - 12_000 / 88_200),
    (12_000 / 176_400, 1 / 4 - 12_000 / 176_400),
)
# Taps on either side. Kaiser windows of 115 dB, whose ripple of 0.00002 dB spoils nothing.
HALVING_HALF_LENGTH, QUARTERING_HALF_LENGTH, KAISER_BETA = 17, 34, 11.7


def design_prototype() -> NDArray[np.int32]:
    """An equiripple design: T. Parks, J. McClellan, IEEE Trans. Circuit Theory 19 (1972)."""
    edges, gains, weights = [0.0, PASSBAND], [1.0], [1.0]
    start, weight = STOPBAND, STOPBAND_WEIGHT
    while start < SAMPLES_PER_UNIT / 2:
        edges += [start, min(2 * start - GAP, SAMPLES_PER_UNIT / 2)]
        gains.append(0.0)
        weights.append(weight)
        start, weight = 2 * start, OCTAVE_WEIGHT * weight
    n_values = 2 * HALF_UNITS * SAMPLES_PER_UNIT + 1
    values = remez(n_values, edges, gains, weight=weights, fs=SAMPLES_PER_UNIT, maxiter=400)
    return _right_half(values * (SAMPLES_PER_UNIT / values.sum()), PROTOTYPE_FRACTION_BITS)


def design_decimator(half_length: int, edges: tuple[float, float]) -> NDArray[np.int32]:
    taps = firwin(2 * half_length + 1, sum(edges) / 2, window=("kaiser", KAISER_BETA), fs=1.0)
    return _right_half(taps, TAP_FRACTION_BITS)


def _right_half(symmetric: NDArray[np.float64], fraction_bits: int) -> NDArray[np.int32]:
    scaled: NDArray[np.float64] = np.rint(symmetric[len(symmetric) // 2 :] * 2**fraction_bits)
    return scaled.astype(np.int32)


def design() -> dict[str, NDArray[np.int32]]:
    return {
        "prototype": design_prototype(),
        "halving": design_decimator(HALVING_HALF_LENGTH, HALVING_EDGES),
        "quartering": design_decimator(QUARTERING_HALF_LENGTH, QUARTERING_EDGES),
    }


if __name__ == "__main__":
    np.savez_compressed(TAPS_FILE, **design())  # type: ignore[arg-type]
