"""Any rate and channel layout to 24 kHz mono, with the same bits for every way the input is cut."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bridge.dsp.make_taps import TAP_FRACTION_BITS, TAPS_FILE, conversion_ratio, design_taps
from bridge.errors import SourceRejected

MIN_RATE_HZ = 8_000
MAX_RATE_HZ = 192_000
# 11.025 kHz, the oddest rate in use, needs 320. The bank of a rate with 600 takes 10 MB.
MAX_UP_FACTOR = 640

# Outputs per matrix product row: enough for BLAS to shine, few enough that little of the band matrix is zeros.
_BLOCK_OUTPUTS = 32
# Longer input is taken in pieces, so that the copies of its windows stay at 3 MB.
_PIECE_SAMPLES = 65_536

# Samples are held in units of one int16 step with 8 bits of fraction, taps in Q28: all products are integers times
# 2**-36, and 2**15 * 2**8 * 2**28 * sum(|taps|) stays below 2**53 as long as that sum is below 4. Hence every partial
# sum is exact in float64, and neither its order nor a fused multiply-add can change a bit.
_FRACTION_STEPS = 2.0**8
_MAX_TAP_SUM = 4.0

# ITU-R BS.775-4 table 2, down to one channel: L and R 0.7071, C 1, surround 0.5, LFE left out. In WAVE's and FFmpeg's
# channel order, 3 to 8 channels: 3.0, quad, 5.0, 5.1, 6.1, 7.1.
_FRONT, _CENTRE, _LFE, _SURROUND = 0.5**0.5, 1.0, 0.0, 0.5
_DOWNMIX: dict[int, tuple[float, ...]] = {
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


@dataclass(frozen=True, slots=True, eq=False)
class _FilterBank:
    """The filter of one rate as band matrices: a row of inputs times `weights[b]` is a block of outputs.

    Outputs repeat their phases after `period_outputs`, which `period_inputs` inputs later. Block b of a period takes
    `weights.shape[1]` inputs from `first_input[b]` on, counted from `lead_in` samples before the period.
    """

    up: int
    down: int
    centre: int
    lead_in: int
    period_inputs: int
    period_outputs: int
    first_input: list[int]
    weights: NDArray[np.float64]  # (blocks, inputs per block, outputs per block)


class StreamResampler:
    """Resamples one stream to 24 kHz mono int16; the output does not depend on how the input is cut into pieces.

    A polyphase FIR with linear phase: flat to 10.9 kHz, down 105 dB at 12 kHz; below 24 kHz both edges shrink with
    the rate. Output number k is the input at the time k / 24000 s; it comes out once the filter has seen `delay_s`
    more of the input, and `flush` gives the rest. At 24 kHz int16 mono comes out unchanged.

    rate_in_hz  8000 to 192000, with an up-sampling factor to 24 kHz of at most 640.
    n_channels  1 to 8, in WAVE order; downmixed by BS.775, scaled so that full scale on all channels cannot clip.

    Raises SourceRejected for any other rate or channel count.
    """

    def __init__(self, rate_in_hz: int, n_channels: int = 1) -> None:
        if n_channels not in _DOWNMIX:
            raise SourceRejected(f"sound with {n_channels} channels: 1 to {max(_DOWNMIX)} can be mixed down")
        up, _ = conversion_ratio(rate_in_hz)
        if not MIN_RATE_HZ <= rate_in_hz <= MAX_RATE_HZ or up > MAX_UP_FACTOR:
            raise SourceRejected(
                f"sound at {rate_in_hz} Hz: use {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, a multiple of 50 or 75 Hz"
            )
        self.rate_in_hz = rate_in_hz
        self.n_channels = n_channels
        self._bank = _filter_bank(rate_in_hz)
        gains = np.array(_DOWNMIX[n_channels])
        self._gains = np.rint(gains / gains.sum() * _GAIN_STEPS)
        self._restart()

    @property
    def delay_s(self) -> float:
        return self._bank.centre / self._bank.up / self.rate_in_hz

    def push(self, samples: NDArray[np.int16] | NDArray[np.float32]) -> NDArray[np.int16]:
        """Take samples, shape (n, n_channels); give every output that is complete, shape (m,).

        float32: range [-1, 1], louder is clipped; what is not a number is silence.
        """
        pieces = [
            self._push_piece(self._to_mono(samples[start : start + _PIECE_SAMPLES]))
            for start in range(0, len(samples), _PIECE_SAMPLES)
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, np.int16), *pieces])

    def flush(self) -> NDArray[np.int16]:
        """The outputs up to the end of the input: ceil(inputs * 24000 / rate_in_hz) in all. Then it starts anew."""
        bank = self._bank
        n_inputs = len(self._kept) - bank.lead_in
        n_outputs = -(-n_inputs * bank.up // bank.down) - self._period_outputs_done
        tail = self._push_piece(np.zeros(bank.lead_in + 1))[:n_outputs]
        self._restart()
        return tail

    def _restart(self) -> None:
        # What future outputs need of the input, from `lead_in` samples before the current period on.
        self._kept = np.zeros(self._bank.lead_in)
        self._period_outputs_done = 0

    def _to_mono(self, samples: NDArray[np.int16] | NDArray[np.float32]) -> NDArray[np.float64]:
        wide = samples.astype(np.float64)
        if samples.dtype != np.int16:
            np.nan_to_num(wide, copy=False, nan=0.0)
            np.clip(wide, -1.0, 1.0, out=wide)
            wide *= 2.0**15 * _FRACTION_STEPS
            np.rint(wide, out=wide)
            wide *= 1 / _FRACTION_STEPS
        if self.n_channels == 1:
            return wide[:, 0]
        mono: NDArray[np.float64] = wide @ self._gains
        mono *= _FRACTION_STEPS / _GAIN_STEPS
        np.rint(mono, out=mono)
        mono *= 1 / _FRACTION_STEPS
        return mono

    def _push_piece(self, mono: NDArray[np.float64]) -> NDArray[np.int16]:
        bank, done = self._bank, self._period_outputs_done
        n_inputs = len(self._kept) - bank.lead_in + len(mono)
        # Output k needs inputs up to (k * down + centre) // up.
        ready = max(done, (n_inputs * bank.up - bank.centre - 1) // bank.down + 1)
        if ready == done:
            self._kept = np.concatenate((self._kept, mono))
            return np.empty(0, np.int16)
        n_periods = -(-ready // bank.period_outputs)
        n_blocks, window, block_outputs = bank.weights.shape
        last_window_end = (n_periods - 1) * bank.period_inputs + bank.first_input[-1] + window
        padding = max(0, last_window_end - bank.lead_in - n_inputs)
        inputs = np.concatenate((self._kept, mono, np.zeros(padding)))

        outputs = np.empty((n_periods, n_blocks, block_outputs))
        strides = (bank.period_inputs * inputs.itemsize, inputs.itemsize)
        for block, first in enumerate(bank.first_input):
            windows = np.ndarray((n_periods, window), np.float64, inputs, first * inputs.itemsize, strides)
            # BLAS refuses rows that overlap: without a copy the product falls back to a slow loop.
            np.matmul(windows.copy(), bank.weights[block], out=outputs[:, block])

        whole_periods = ready // bank.period_outputs
        self._kept = inputs[whole_periods * bank.period_inputs : bank.lead_in + n_inputs].copy()
        self._period_outputs_done = ready - whole_periods * bank.period_outputs
        return _to_int16(outputs.reshape(-1)[done:ready])


def _to_int16(samples: NDArray[np.float64]) -> NDArray[np.int16]:
    """Round to int16, clipped at full scale; overwrites its argument."""
    np.rint(samples, out=samples)
    np.clip(samples, -32768.0, 32767.0, out=samples)
    return samples.astype(np.int16)


@lru_cache(maxsize=16)
def _filter_bank(rate_in_hz: int) -> _FilterBank:
    up, down = conversion_ratio(rate_in_hz)
    half = _right_half(rate_in_hz) / 2.0**TAP_FRACTION_BITS
    taps, centre = np.concatenate((half[:0:-1], half)), len(half) - 1
    period_outputs = up * -(-_BLOCK_OUTPUTS // up)
    block_outputs = next(n for n in range(_BLOCK_OUTPUTS, period_outputs + 1) if period_outputs % n == 0)
    lead_in = -(-centre // up)

    first_outputs = range(0, period_outputs, block_outputs)
    # Input i and output k meet at tap centre + k * down - i * up.
    first_input = [-((centre - k * down) // up) for k in first_outputs]
    last_input = [((k + block_outputs - 1) * down + centre) // up for k in first_outputs]
    window = max(last - first + 1 for first, last in zip(first_input, last_input, strict=True))
    inputs = np.array(first_input)[:, None, None] + np.arange(window)[None, :, None]
    outputs = np.array(first_outputs)[:, None, None] + np.arange(block_outputs)[None, None, :]
    tap = centre + outputs * down - inputs * up
    weights = np.where((tap >= 0) & (tap < len(taps)), taps[np.clip(tap, 0, len(taps) - 1)], 0.0)
    assert np.abs(weights).sum(axis=1).max() < _MAX_TAP_SUM
    return _FilterBank(
        up=up,
        down=down,
        centre=centre,
        lead_in=lead_in,
        period_inputs=period_outputs * down // up,
        period_outputs=period_outputs,
        first_input=[first + lead_in for first in first_input],
        weights=weights,
    )


def _right_half(rate_in_hz: int) -> NDArray[np.int32]:
    with np.load(TAPS_FILE) as shipped:
        if str(rate_in_hz) in shipped:
            taps: NDArray[np.int32] = shipped[str(rate_in_hz)]
            return taps
    return design_taps(rate_in_hz)
