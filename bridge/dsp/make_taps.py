"""The low-pass filters of the resampler, and the program that writes them to taps.npz.

    python -m bridge.dsp.make_taps

The taps are shipped as integers: another libm could round the last bit of a design differently, and then the same
sound would give other samples on another machine. A rate that is not in the file is designed when it first occurs.
"""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bridge.media.clock import AVATAR_RATE_HZ

TAPS_FILE = Path(__file__).with_name("taps.npz")
SHIPPED_RATES_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 32_000, 44_100, 48_000, 88_200, 96_000, 176_400, 192_000)
TAP_FRACTION_BITS = 28

# Speech has nothing above 10.9 kHz that a recognizer or a mouth would miss; from 12 kHz on, the half of the output
# rate, everything would fold back. Below 24 kHz both edges shrink with the input rate.
PASSBAND_HZ = 10_920
STOPBAND_HZ = AVATAR_RATE_HZ // 2
# 105 dB lie below the noise of 16 bits (98 dB). The sum of the taps' magnitudes stays below 4, see resample.py.
ATTENUATION_DB = 105.0


def conversion_ratio(rate_in_hz: int) -> tuple[int, int]:
    """Up- and down-sampling factors that lead from `rate_in_hz` to 24 kHz, without common divisor."""
    ratio = Fraction(AVATAR_RATE_HZ, rate_in_hz)
    return ratio.numerator, ratio.denominator


def design_taps(rate_in_hz: int) -> NDArray[np.int32]:
    """Right half of a symmetric low-pass, its centre tap first, in units of 2**-28.

    The filter runs at up * rate_in_hz and has a gain of `up` at DC, as up - 1 of its inputs in a row are zeros.
    Sinc with a Kaiser window, J. F. Kaiser, "Nonrecursive digital filter design using the I0-sinh window function",
    ISCAS 1974.
    """
    up, _ = conversion_ratio(rate_in_hz)
    if rate_in_hz == AVATAR_RATE_HZ:
        return np.array([2**TAP_FRACTION_BITS], np.int32)
    shrink = min(1.0, rate_in_hz / AVATAR_RATE_HZ)
    filter_rate_hz = up * rate_in_hz
    transition = (STOPBAND_HZ - PASSBAND_HZ) * shrink / filter_rate_hz
    cutoff = (STOPBAND_HZ + PASSBAND_HZ) * shrink / filter_rate_hz  # 1.0 is half the filter's rate
    half_length = math.ceil((ATTENUATION_DB - 7.95) / (2.285 * 2 * math.pi * transition) / 2)
    window = np.kaiser(2 * half_length + 1, 0.1102 * (ATTENUATION_DB - 8.7))[half_length:]
    taps = np.sinc(cutoff * np.arange(half_length + 1)) * window
    taps *= up / (2 * taps.sum() - taps[0])
    scaled: NDArray[np.float64] = np.rint(taps * 2**TAP_FRACTION_BITS)
    return scaled.astype(np.int32)


def main() -> None:
    shipped = {str(rate_hz): design_taps(rate_hz) for rate_hz in SHIPPED_RATES_HZ}
    np.savez_compressed(TAPS_FILE, **shipped)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
