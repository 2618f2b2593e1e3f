"""What the resampler makes of fixed noise, as one digest: `python -m tests.unit.dsp.golden`, with the BLAS kernel."""

import ctypes
import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bridge.dsp.resample import StreamResampler

RATES_HZ = (8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000)
FORMATS = ("int16", "int32", "float32")
CHANNELS = (1, 2, 6)


def noise(n_samples: int, n_channels: int, dtype: str) -> NDArray:
    """Full-scale noise by integer arithmetic alone: the same on every machine.

    float32 is in thirds, which have no end in binary: what is not rounded to a grid first makes sums that depend on
    their order.
    """
    numbers = np.arange(n_samples * n_channels, dtype=np.uint64).reshape(-1, n_channels)
    mixed = (numbers * np.uint64(0x9E3779B97F4A7C15)) ^ (numbers * np.uint64(0xD1B54A32D192ED03) >> np.uint64(29))
    words = (mixed >> np.uint64(32)).astype(np.uint32).view(np.int32)
    if dtype == "int32":
        return words
    halves = (words >> 16).astype(np.int16)
    return halves if dtype == "int16" else halves.astype(np.float32) / np.float32(3 * 2**13)


def resample(samples: NDArray, rate_hz: int, chunk: int) -> NDArray:
    resampler = StreamResampler(rate_hz, samples.shape[1])
    pieces = [resampler.push(samples[at : at + chunk]) for at in range(0, len(samples), chunk)]
    return np.concatenate((*pieces, resampler.flush()))


def digest(dtype: str) -> str:
    total = hashlib.sha256()
    for rate_hz in RATES_HZ:
        for n_channels in CHANNELS:
            out = resample(noise(rate_hz // 10, n_channels, dtype), rate_hz, rate_hz // 50)
            total.update(out.astype("<i2").tobytes())
    return total.hexdigest()[:16]


def blas_kernel() -> str:
    """The name of the kernels that numpy's OpenBLAS has chosen; empty where numpy has another BLAS."""
    for library in (Path(np.__file__).parent.parent / "numpy.libs").glob("libscipy_openblas64_*.so"):
        name = ctypes.CDLL(str(library)).scipy_openblas_get_corename64_
        name.restype = ctypes.c_char_p
        return str(name().decode())
    return ""


if __name__ == "__main__":
    print(blas_kernel(), *map(digest, FORMATS))
