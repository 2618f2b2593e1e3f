import numpy as np
import pytest
from numpy.typing import NDArray

from bridge.dsp.filter_bank import HALF_UNITS, TAPS_FILE, conversion_ratio, decimating_bank, prototype_at
from bridge.dsp.make_taps import design


def response_db(rate_hz: int) -> tuple[NDArray, NDArray]:
    """Frequencies, as parts of the lower of both rates, and the gain of the filter for this rate there."""
    up, down = conversion_ratio(rate_hz)
    steps = max(up, down)
    half = prototype_at(np.arange(HALF_UNITS * steps + 1), steps)
    spectrum = np.abs(np.fft.rfft(np.concatenate((half[:0:-1], half)), 1 << 18))
    frequencies = np.arange(len(spectrum)) * steps / (1 << 18)
    return frequencies, 20 * np.log10(spectrum / steps + 1e-12)


# Sampled at 2, 3, 21, 147, 320 and 601 values per unit.
@pytest.mark.parametrize("rate_hz", [48_000, 16_000, 25_200, 44_100, 11_025, 24_040])
def test_every_rate_has_a_flat_pass_band_and_a_deep_stop_band(rate_hz: int) -> None:
    frequencies, gain_db = response_db(rate_hz)
    assert np.abs(gain_db[frequencies <= 10_800 / 24_000]).max() <= 0.005
    assert gain_db[frequencies >= 0.5].max() <= -105


@pytest.mark.parametrize(("factor", "lowest_rate_hz"), [(2, 88_200), (4, 176_400)])
def test_thinning_out_keeps_what_is_below_12_khz(factor: int, lowest_rate_hz: int) -> None:
    bank = decimating_bank(factor)
    # The last output of a period meets every tap.
    taps = bank.weights[0, :, -1]
    spectrum = np.abs(np.fft.rfft(taps, 1 << 16))
    frequencies = np.arange(len(spectrum)) * lowest_rate_hz / (1 << 16)
    assert np.abs(20 * np.log10(spectrum[frequencies <= 12_000])).max() < 0.0005
    assert 20 * np.log10(spectrum[frequencies >= lowest_rate_hz / factor - 12_000].max()) < -105


def test_shipped_taps_are_what_their_program_makes() -> None:
    with np.load(TAPS_FILE) as shipped:
        for name, taps in design().items():
            # Another libm may end the search for the best filter elsewhere, by a little.
            assert np.abs(shipped[name].astype(np.int64) - taps).max() <= 64, name
