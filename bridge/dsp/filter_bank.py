"""The resampler's filters as band matrices, the same on every machine."""

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bridge.media.clock import AVATAR_RATE_HZ

TAPS_FILE = Path(__file__).with_name("taps.npz")
TAP_FRACTION_BITS = 28
PROTOTYPE_FRACTION_BITS = 30
SAMPLES_PER_UNIT = 16  # of the prototype's time, see make_taps.py
HALF_UNITS = 56  # of it before the prototype's centre and after

# Outputs per row of a matrix product: a multiple of 24, where AVX-512 kernels are fast, and few enough that little of
# the band matrix is zeros.
_BLOCK_OUTPUTS = 48
# The filters that thin a source out are short, so that more of a wide band would be zeros.
_THINNING_BLOCK_OUTPUTS = 16
_LINE_BYTES = 64


@dataclass(frozen=True, slots=True, eq=False)
class FilterBank:
    """A linear-phase filter that changes a rate by up / down: a row of inputs times `weights[b]` is a block of outputs.

    Every `period_inputs` complete `period_outputs`. A row is what these need: `lead_in` inputs before the period, then
    the period. Its block b takes the inputs from b * block_stride on. The first `n_early` outputs of a stream lie
    before its first input.

    weights    shape (blocks, inputs per block, outputs per block), multiples of 2**-28.
    tap_sum    the largest sum of magnitudes behind one output.
    delay      in input samples.
    """

    up: int
    down: int
    centre: int
    lead_in: int
    period_inputs: int
    period_outputs: int
    block_stride: int
    weights: NDArray[np.float64]

    @property
    def delay(self) -> float:
        return self.centre / self.up

    @property
    def tap_sum(self) -> float:
        return float(np.abs(self.weights).sum(axis=1).max())

    @property
    def n_early(self) -> int:
        return -((-self.centre - 1) // self.down + 1)

    def ready(self, n_inputs: int) -> int:
        """How many outputs of a period its first inputs complete: input i is the last that output k needs if
        k * down + centre lies in i * up to (i + 1) * up - 1."""
        return (n_inputs * self.up - self.centre - 1) // self.down + 1 + self.n_early


def conversion_ratio(rate_in_hz: int, rate_out_hz: int = AVATAR_RATE_HZ) -> tuple[int, int]:
    """Up- and down-sampling factors that lead from one rate to the other, without common divisor."""
    common = math.gcd(rate_out_hz, rate_in_hz)
    return rate_out_hz // common, rate_in_hz // common


def prototype_at(numerators: NDArray[np.int64], denominator: int) -> NDArray[np.float64]:
    """The prototype's values at the times numerators / denominator, by a Lagrange polynomial through six of them.

    Its error is 2**-22 at worst, at 12 kHz. Only products and sums of single numbers, which IEEE 754 defines to the
    bit: no library may take them in another order.
    """
    right_half = _designs()["prototype"]
    half_length = len(right_half) - 1
    scaled = numerators * SAMPLES_PER_UNIT
    before = scaled // denominator
    offset = (scaled - before * denominator) / denominator
    nodes = range(-2, 4)
    values = np.zeros(numerators.shape)
    for node in nodes:
        weight = np.full(numerators.shape, 2.0**-PROTOTYPE_FRACTION_BITS)
        for other in nodes:
            if other != node:
                weight = weight * (offset - other) / (node - other)
        place = np.abs(before + node)
        values = values + weight * np.where(place <= half_length, right_half[np.minimum(place, half_length)], 0)
    return values


@lru_cache(maxsize=16)
def resampling_bank(rate_in_hz: int, rate_out_hz: int = AVATAR_RATE_HZ) -> FilterBank:
    """Flat to 0.45 of the lower rate, down 110 dB at its half: from 24 kHz on to 24 kHz, at 10.8 and at 12 kHz."""
    up, down = conversion_ratio(rate_in_hz, rate_out_hz)
    if up == down:
        return _band_matrices(np.ones(1), 1, 1, _BLOCK_OUTPUTS)
    steps_per_unit = max(up, down)
    half = prototype_at(np.arange(HALF_UNITS * steps_per_unit + 1), steps_per_unit) * min(1.0, up / down)
    half = np.rint(half * 2**TAP_FRACTION_BITS) / 2**TAP_FRACTION_BITS
    return _band_matrices(half, up, down, _BLOCK_OUTPUTS)


@lru_cache(maxsize=2)
def decimating_bank(factor: int) -> FilterBank:
    """Keeps every second or fourth input, 88.2 to 192 kHz, and what is below 12 kHz free from what folds back."""
    half = _designs()["halving" if factor == 2 else "quartering"] / 2**TAP_FRACTION_BITS
    return _band_matrices(half, 1, factor, _THINNING_BLOCK_OUTPUTS)


@lru_cache(maxsize=1)
def _designs() -> dict[str, NDArray[np.int32]]:
    with np.load(TAPS_FILE) as file:
        return dict(file)


def _band_matrices(half: NDArray[np.float64], up: int, down: int, max_block_outputs: int) -> FilterBank:
    """half  the filter at `up` times the input rate, from its centre on."""
    taps, centre = np.concatenate((half[:0:-1], half)), len(half) - 1
    if up <= max_block_outputs:
        block_outputs = period_outputs = max_block_outputs // up * up
    else:
        period_outputs = up
        block_outputs = next(n for n in range(max_block_outputs, 0, -1) if up % n == 0)
    n_blocks = period_outputs // block_outputs
    period_inputs = period_outputs * down // up
    block_stride = period_inputs // n_blocks

    first_output = (-centre - 1) // down + 1
    starts = [first_output + block * block_outputs for block in range(n_blocks)]
    # Input i and output k meet at tap centre + k * down - i * up.
    needed_from = [-((centre - start * down) // up) for start in starts]
    needed_to = [((start + block_outputs - 1) * down + centre) // up for start in starts]
    lead_in = max(block * block_stride - first for block, first in enumerate(needed_from))
    window = max(last + lead_in - block * block_stride + 1 for block, last in enumerate(needed_to))

    inputs = np.arange(n_blocks)[:, None, None] * block_stride - lead_in + np.arange(window)[None, :, None]
    outputs = np.array(starts)[:, None, None] + np.arange(block_outputs)[None, None, :]
    tap = centre + outputs * down - inputs * up
    weights = np.where((tap >= 0) & (tap < len(taps)), taps[np.clip(tap, 0, len(taps) - 1)], 0.0)
    return FilterBank(up, down, centre, lead_in, period_inputs, period_outputs, block_stride, aligned(weights))


def aligned(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A copy that begins at a cache line: AVX-512 kernels take half as long again where every read straddles two."""
    room = np.empty(values.size + _LINE_BYTES // 8)
    start = -room.ctypes.data % _LINE_BYTES // 8
    copy = room[start : start + values.size].reshape(values.shape)
    copy[...] = values
    return copy
