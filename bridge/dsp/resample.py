"""Any rate and channel layout to 24 kHz mono, or another rate, with the same bits for every way the input is cut."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from bridge.dsp.downmix import FRACTION_STEPS, Downmix
from bridge.dsp.filter_bank import FilterBank, aligned, conversion_ratio, decimating_bank, resampling_bank
from bridge.errors import SourceRejected
from bridge.media.audio import Samples
from bridge.media.clock import AVATAR_RATE_HZ

MIN_RATE_HZ = 8_000
MAX_RATE_HZ = 192_000
# 11.025 kHz, the oddest rate in use, needs 320. The bank of a rate with 600 takes 10 MB.
MAX_UP_FACTOR = 640
# From twice this rate on a source is thinned out first, to 44.1 to 88.2 kHz.
_THINNED_RATE_HZ = 44_100

# Mono has 15 bits and 8 of fraction, taps have 28 of fraction: all products are integers times 2**-36, and below 2**53
# of these every partial sum is exact in float64, so that neither its order nor a fused multiply-add changes a bit. It
# holds while the magnitudes of the taps behind an output, of both filters, have a product below 4.
_MAX_TAP_SUM = 4.0

_LOWEST, _HIGHEST = np.array(-32768.0), np.array(32767.0)

# From this many multiplications on, OpenBLAS wakes its threads (GEMM_MULTITHREAD_THRESHOLD, interface/gemm.c), which
# then burn more than they save; longer input is taken in pieces.
MAX_PRODUCT = 2**18
# Of a stream; sizes that repeat need one to a few hundred. One takes 2 kB.
_MAX_PLANS = 256


class _Plan(NamedTuple):
    """Where the data of one push lies: views of a filter's memory. `new` has shape (n, 1), `ready` (m,)."""

    new: NDArray[np.float64]
    windows: NDArray[np.float64]
    rows: NDArray[np.float64]
    multiply: Callable[[], object]
    ready: NDArray[np.float64]
    kept: NDArray[np.float64]
    kept_to: NDArray[np.float64]
    n_pending: int


class RunningFilter:
    """One filter bank run along one channel of a stream, at most `max_inputs` at a time.

    In a steady stream the same few plans return, and a push is a handful of calls of numpy.

    n_before  how many of its inputs lie before the stream's beginning.
    n_early   how many outputs to come lie there; they are not given.
    """

    def __init__(self, bank: FilterBank, n_before: int = 0) -> None:
        self._bank = bank
        # A period ends where the stream begins, so that pushes of whole periods leave no part of one.
        n_periods_before = -(-n_before // bank.period_inputs)
        self._n_pending = n_periods_before * bank.period_inputs - n_before  # inputs of the period that has begun
        n_outputs_before = n_periods_before * bank.period_outputs - bank.ready(self._n_pending)
        self.n_early = bank.n_early + n_outputs_before
        n_blocks, window, block_outputs = bank.weights.shape
        max_periods = max(1, MAX_PRODUCT // (window * block_outputs) - 1)
        self.max_inputs = max_periods * bank.period_inputs
        # A period may have begun before and one may begin after; windows of the last may reach beyond it.
        n_rows = max_periods + 1
        self._inputs = np.zeros(bank.lead_in + n_rows * bank.period_inputs + window)
        self._windows = as_strided(
            self._inputs,
            (n_blocks, n_rows, window),
            tuple(8 * n for n in (bank.block_stride, bank.period_inputs, 1)),
            writeable=False,
        )
        self._rows = np.empty((n_blocks, n_rows, window))
        self._outputs = np.empty((n_rows, n_blocks, block_outputs))
        self._plans: dict[tuple[int, int], _Plan] = {}

    def plan(self, n_inputs: int) -> _Plan:
        """For at most `max_inputs` more: they go to `new`, then `filter`."""
        key = self._n_pending, n_inputs
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            plan = self._plans[key] = self._make_plan(n_inputs)
        return plan

    def filter(self, plan: _Plan) -> NDArray[np.float64]:
        """The outputs that are complete now; overwritten by the next push."""
        _, windows, rows, multiply, ready, kept, kept_to, self._n_pending = plan
        # BLAS refuses rows that overlap: without a copy the product falls back to a slow loop.
        rows[...] = windows
        kept_to[...] = kept
        multiply()
        if self.n_early:
            n_early = min(self.n_early, len(ready))
            self.n_early -= n_early
            return ready[n_early:]
        return ready

    def _make_plan(self, n_inputs: int) -> _Plan:
        bank, n_pending = self._bank, self._n_pending
        begin = bank.lead_in + n_pending
        n_whole, n_left = divmod(n_pending + n_inputs, bank.period_inputs)
        n_ready = n_whole * bank.period_outputs + bank.ready(n_left)
        n_rows = -(-n_ready // bank.period_outputs)
        rows, outputs = self._rows[:, :n_rows], self._outputs[:n_rows].transpose(1, 0, 2)
        if len(rows) == 1:  # the method, for two dimensions, costs a tenth of a push less than numpy's matmul
            multiply = partial(rows[0].dot, bank.weights[0], outputs[0])
        else:
            multiply = partial(np.matmul, rows, bank.weights, outputs)
        return _Plan(
            new=self._inputs[begin : begin + n_inputs, None],
            windows=self._windows[:, :n_rows],
            rows=rows,
            multiply=multiply,
            ready=self._outputs.reshape(-1)[bank.ready(n_pending) : n_ready],
            kept=self._inputs[n_whole * bank.period_inputs :][: bank.lead_in + n_left],
            kept_to=self._inputs[: bank.lead_in + n_left],
            n_pending=n_left,
        )


class StreamResampler:
    """Resamples one stream to mono int16 at 24 kHz; the output does not depend on how the input is cut into pieces.

    A polyphase FIR with linear phase: flat to 10.8 kHz, down 105 dB at 12 kHz; below 24 kHz both edges shrink with
    the rate. Output number k is the input at the time k / 24000 s; it comes out once the filter has seen `delay_s`
    more of the input, and `flush` gives the rest. At 24 kHz int16 mono comes out unchanged.

    rate_in_hz   8000 to 192000, with an up-sampling factor to the other rate of at most 640.
    n_channels   1 to 8, in WAVE order, see `Downmix`.
    rate_out_hz  in place of 24 kHz, where a service wants that; all edges lie at the same parts of the lower rate.

    Raises SourceRejected for any other rate or channel count.
    """

    def __init__(self, rate_in_hz: int, n_channels: int = 1, rate_out_hz: int = AVATAR_RATE_HZ) -> None:
        self._downmix = Downmix(n_channels)
        up, _ = conversion_ratio(rate_in_hz, rate_out_hz)
        if not MIN_RATE_HZ <= rate_in_hz <= MAX_RATE_HZ or up > MAX_UP_FACTOR:
            raise SourceRejected(
                f"sound at {rate_in_hz} Hz: use {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, a multiple of 50 or 75 Hz"
            )
        self.rate_in_hz = rate_in_hz
        self.n_channels = n_channels
        self._rate_out_hz = rate_out_hz
        self._banks = _banks(rate_in_hz, rate_out_hz)
        self._restart()

    @property
    def delay_s(self) -> float:
        first, *second = self._banks
        delay = first.delay + sum(first.down * bank.delay for bank in second)
        return delay / self.rate_in_hz

    def push(self, samples: Samples) -> NDArray[np.int16]:
        """Take samples, shape (n, n_channels), int16, int32 or float32; give every output that is complete, shape (m,).

        int32: full scale is 2**31.  float32: range [-1, 1], louder is clipped; what is not a number is silence.
        """
        size = self._piece_samples
        if len(samples) <= size:
            return self._push_piece(samples)
        return np.concatenate([self._push_piece(samples[at : at + size]) for at in range(0, len(samples), size)])

    def flush(self) -> NDArray[np.int16]:
        """The outputs up to the end of the input: ceil(inputs * 24000 / rate_in_hz) in all. Then it starts anew."""
        n_left = -(-self._n_inputs * self._rate_out_hz // self.rate_in_hz) - self._n_outputs
        n_silent = round(self.delay_s * self.rate_in_hz) + self.rate_in_hz // self._rate_out_hz + 2
        tail = self.push(np.zeros((n_silent, self.n_channels), np.int16))[:n_left]
        self._restart()
        return tail

    def _restart(self) -> None:
        self._first, self._second = RunningFilter(self._banks[0]), None
        self._piece_samples = self._first.max_inputs
        if len(self._banks) > 1:
            # It needs what the first filter makes of the stream's beginning ahead of it.
            n_early, self._first.n_early = self._first.n_early, 0
            self._second = RunningFilter(self._banks[1], n_before=n_early)
            self._piece_samples = min(self._piece_samples, self._banks[0].down * (self._second.max_inputs - 1))
        self._n_inputs = self._n_outputs = 0

    def _push_piece(self, samples: Samples) -> NDArray[np.int16]:
        plan = self._first.plan(len(samples))
        self._downmix.mix(samples, plan.new)
        outputs = self._first.filter(plan)
        if self._second:
            plan = self._second.plan(len(outputs))
            np.rint(outputs, out=plan.new[:, 0])
            outputs = self._second.filter(plan)
        self._n_inputs += len(samples)
        self._n_outputs += len(outputs)
        return to_int16(outputs)


def to_int16(outputs: NDArray[np.float64]) -> NDArray[np.int16]:
    """Round, clip at full scale; overwrites its argument."""
    np.rint(outputs, out=outputs)
    # The method costs a third of numpy's function, and arrays are found faster than numbers.
    outputs.clip(_LOWEST, _HIGHEST, out=outputs)
    return outputs.astype(np.int16)


@lru_cache(maxsize=16)
def _banks(rate_in_hz: int, rate_out_hz: int) -> tuple[FilterBank, ...]:
    """One filter, or two for a fast source: a short one that thins it out leaves the long one half the work or less.

    Between the two samples are whole numbers, in steps of 2**-8.
    """
    for factor in (4, 2):
        thinned_hz, remainder = divmod(rate_in_hz, factor)
        if (
            thinned_hz >= _THINNED_RATE_HZ
            and not remainder
            and conversion_ratio(thinned_hz, rate_out_hz)[0] <= MAX_UP_FACTOR
        ):
            thinning, resampling = decimating_bank(factor), resampling_bank(thinned_hz, rate_out_hz)
            assert thinning.tap_sum * resampling.tap_sum < _MAX_TAP_SUM
            return _scaled(thinning, FRACTION_STEPS), _scaled(resampling, 1 / FRACTION_STEPS)
    bank = resampling_bank(rate_in_hz, rate_out_hz)
    assert bank.tap_sum < _MAX_TAP_SUM
    return (bank,)


def _scaled(bank: FilterBank, factor: float) -> FilterBank:
    return replace(bank, weights=aligned(bank.weights * factor))
