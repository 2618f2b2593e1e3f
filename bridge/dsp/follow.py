"""Sound of a source whose clock is not ours, at our pace: nothing is dropped and nothing inserted."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bridge.dsp.downmix import Downmix
from bridge.dsp.filter_bank import HALF_UNITS, aligned, prototype_at
from bridge.dsp.resample import MAX_PRODUCT, MAX_RATE_HZ, MIN_RATE_HZ, to_int16
from bridge.errors import SourceRejected
from bridge.media.audio import Samples
from bridge.media.clock import AVATAR_RATE_HZ

# Crystals are off by up to 100 ppm each, cheap ones by three times that. 500 ppm of pitch, a hundredth of a semitone,
# nobody hears.
MAX_DRIFT = 500e-6

_BLOCK_OUTPUTS = 48
# What the polynomials may be wrong by, at 12 kHz: -114 dB.
_POLYNOMIAL_ERROR = 2e-6


class FillServo:
    """Finds how much faster a source's clock runs than ours, from what waits of its sound.

    A PI controller on the smoothed fill, critically damped. After a step of 100 ppm the fill is up to 1 ms off, and
    back after two minutes; jitter of 10 ms in the arrival of blocks moves the pitch by 20 ppm.

    drift  the correction in force: source samples per sample of ours, less 1; within ±`MAX_DRIFT`.
    """

    # A disturbance's time constant is 30 s: long against a network's jitter, short against the drift of a crystal as
    # it warms up. Smoothing over a tenth of that leaves the damping alone.
    NATURAL_RATE_PER_S = 1 / 30
    SMOOTHING_S = 3.0

    def __init__(self, target_s: float) -> None:
        self.drift = 0.0
        self._target_s = target_s
        self._error_s = 0.0
        self._integral = 0.0

    def update(self, waiting_s: float, elapsed_s: float) -> None:
        """Learn what waits now, `elapsed_s` after the last time."""
        self._error_s += (waiting_s - self._target_s - self._error_s) * -math.expm1(-elapsed_s / self.SMOOTHING_S)
        steady = self._integral + self.NATURAL_RATE_PER_S**2 * self._error_s * elapsed_s
        wanted = steady + 2 * self.NATURAL_RATE_PER_S * self._error_s
        self.drift = max(-MAX_DRIFT, min(MAX_DRIFT, wanted))
        # At its limit it does not learn further into it: there would be too much to forget.
        if abs(wanted) <= MAX_DRIFT or abs(steady) < abs(self._integral):
            self._integral = steady


class FollowingResampler:
    """Resamples a live source to 24 kHz mono int16 of our clock, so that what waits of it stays at `target_s`.

    The filter is that of `StreamResampler`; between two inputs it is a polynomial (C. W. Farrow, "A continuously
    variable digital delay element", ISCAS 1988), so an output may lie anywhere. The ratio changes from push to push.
    Results are right to 16 bits and not the same to the bit on all machines, as the ratio follows a measured clock.

    rate_in_hz  8000 to 192000, any integer.  n_channels: 1 to 8, in WAVE order, see `Downmix`.
    target_s    what should wait of the output; whoever takes it begins once so much does. Sound that is dropped for
                another reason comes back at 0.5 ms per second.

    Raises SourceRejected for any other rate or channel count.
    """

    def __init__(self, rate_in_hz: int, n_channels: int, target_s: float) -> None:
        self._downmix = Downmix(n_channels)
        if not MIN_RATE_HZ <= rate_in_hz <= MAX_RATE_HZ:
            raise SourceRejected(f"sound at {rate_in_hz} Hz: use {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz")
        self.rate_in_hz = rate_in_hz
        self.n_channels = n_channels
        self._servo = FillServo(target_s)
        self._bank = _polynomial_bank(rate_in_hz)
        self._step = rate_in_hz / AVATAR_RATE_HZ  # inputs per output, nominally
        n_rows = max(2, MAX_PRODUCT // (self._bank.window * _BLOCK_OUTPUTS))
        self._piece_samples = int((n_rows - 1) * _BLOCK_OUTPUTS * self._step)
        self._kept = np.zeros(self._bank.lead_in)
        self._position = float(self._bank.lead_in)  # of the next output, in inputs from the first one kept

    @property
    def drift_ppm(self) -> float:
        """How much faster than ours the source's clock runs, as far as is known."""
        return self._servo.drift * 1e6

    @property
    def delay_s(self) -> float:
        return HALF_UNITS / min(self.rate_in_hz, AVATAR_RATE_HZ)

    def push(self, samples: Samples, waiting_s: float) -> NDArray[np.int16]:
        """Take samples as `StreamResampler.push` does; give every output that is complete, shape (m,).

        waiting_s  what waits of the output just before this push, as if it were taken sample by sample: where it is
                   taken in messages, less the time since the last one was due. It would else rise and fall by a
                   message as the two clocks pass each other, and the servo would follow.
        """
        self._servo.update(waiting_s, len(samples) / self.rate_in_hz)
        size = self._piece_samples
        pieces = [self._push_piece(samples[at : at + size]) for at in range(0, len(samples), size)]
        return np.concatenate((np.empty(0, np.int16), *pieces))

    def flush(self) -> NDArray[np.int16]:
        """What the filter still holds; nothing can be pushed afterwards."""
        return self._push_piece(np.zeros((self._bank.lead_in, self.n_channels), np.float32))

    def _push_piece(self, samples: Samples) -> NDArray[np.int16]:
        bank, drift = self._bank, self._servo.drift
        mono = np.empty((len(samples), 1))
        self._downmix.mix(samples, mono)
        # The last row may reach beyond the newest input, for outputs that are not complete yet.
        inputs = np.concatenate((self._kept, mono[:, 0], np.zeros(bank.window)))
        n_inputs = len(self._kept) + len(mono)
        step = self._step * (1 + drift)
        n_ready = max(0, int((n_inputs - bank.lead_in - self._position) // step) + 1)

        starts = self._position + step * np.arange(0, n_ready, _BLOCK_OUTPUTS)
        nearest = np.rint(starts).astype(np.int64)
        rows = np.ndarray((n_inputs, bank.window), np.float64, inputs, strides=(8, 8))[nearest - bank.lead_in]
        offsets = (starts - nearest)[:, None] + self._step * drift * np.arange(_BLOCK_OUTPUTS)
        offsets /= bank.reach
        terms = np.matmul(rows, bank.weights)
        outputs = terms[-1]
        for term in terms[-2::-1]:
            outputs *= offsets
            outputs += term

        self._position += n_ready * step
        n_used = max(0, int(self._position) - bank.lead_in)
        self._kept, self._position = inputs[n_used:n_inputs], self._position - n_used
        return to_int16(outputs.reshape(-1)[:n_ready])


class _PolynomialBank(NamedTuple):
    """The filter at outputs that lie d inputs after an input, as polynomials of d / reach.

    reach    the largest d: a block of outputs begins within half an input, and drifts on.
    weights  shape (terms, `window` inputs, outputs), the constant terms first. A row of inputs begins `lead_in` before
             the one next to its first output.
    """

    lead_in: int
    window: int
    reach: float
    weights: NDArray[np.float64]


@lru_cache(maxsize=8)
def _polynomial_bank(rate_in_hz: int) -> _PolynomialBank:
    step = rate_in_hz / AVATAR_RATE_HZ
    inputs_per_unit = max(1.0, step)
    reach = 0.5 + _BLOCK_OUTPUTS * step * MAX_DRIFT
    lead_in = math.ceil(HALF_UNITS * inputs_per_unit) + 1
    window = 2 * lead_in + math.ceil(_BLOCK_OUTPUTS * step)
    # Interpolation of exp(i * x) in the zeros of a Chebyshev polynomial, for |x| up to the phase at 12 kHz.
    phase = math.pi * reach / inputs_per_unit
    n_terms = next(n for n in range(2, 20) if 2 * (phase / 2) ** n / math.factorial(n) < _POLYNOMIAL_ERROR)
    zeros = np.cos(np.pi * (np.arange(n_terms) + 0.5) / n_terms)
    inputs, outputs = np.arange(window)[:, None] - lead_in, step * np.arange(_BLOCK_OUTPUTS)
    fine = 2**30
    units = (reach * zeros[:, None, None] + outputs - inputs) / inputs_per_unit
    values = prototype_at(np.rint(units * fine).astype(np.int64), fine) / inputs_per_unit
    weights = np.tensordot(np.linalg.inv(np.vander(zeros, increasing=True)), values, axes=1)
    return _PolynomialBank(lead_in, window, reach, aligned(weights))
