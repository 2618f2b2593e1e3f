import itertools
import os
import platform
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bridge.dsp.resample import StreamResampler
from bridge.errors import SourceRejected
from bridge.media.clock import AVATAR_RATE_HZ
from tests.unit.dsp import golden

RATES_HZ = (*golden.RATES_HZ, 24_000)

# What each kernel needs of an x86-64 processor, by the flags of /proc/cpuinfo; the first is every such processor's.
KERNELS = {"Prescott": "sse2", "Nehalem": "sse4_2", "Sandybridge": "avx", "Haswell": "avx2", "SkylakeX": "avx512vl"}
DIGESTS = ["eb0af0a934580281", "12e78389ea35314f", "9105607b070cb62d"]


def noise(n_samples: int, n_channels: int = 1, dtype: str = "int16") -> NDArray:
    return golden.noise(n_samples, n_channels, dtype)


def sine(frequency_hz: float, rate_hz: int, n_samples: int, amplitude: float = 0.5) -> NDArray:
    phase = 2 * np.pi * frequency_hz / rate_hz * np.arange(n_samples)
    return (amplitude * np.sin(phase)).astype(np.float32)[:, None]


def resample_whole(samples: NDArray, rate_hz: int) -> NDArray:
    resampler = StreamResampler(rate_hz, samples.shape[1])
    return np.concatenate((resampler.push(samples), resampler.flush()))


def resample_in_chunks(samples: NDArray, rate_hz: int, sizes: list[int]) -> NDArray:
    resampler = StreamResampler(rate_hz, samples.shape[1])
    chunks, start = [], 0
    for size in itertools.cycle(sizes):
        chunks.append(resampler.push(samples[start : start + size]))
        start += size
        if start >= len(samples):
            return np.concatenate((*chunks, resampler.flush()))
    raise AssertionError


def amplitude_at(frequency_hz: float, samples: NDArray) -> float:
    """Of one sine, relative to full scale, by a window whose leakage lies below 16 bits."""
    window = np.kaiser(len(samples), 14)
    turning = np.exp(-2j * np.pi * frequency_hz / AVATAR_RATE_HZ * np.arange(len(samples)))
    return float(2 * abs(np.sum(samples / 32768 * window * turning)) / window.sum())


def db(ratio: float) -> float:
    return float(20 * np.log10(max(ratio, 1e-9)))


@pytest.mark.parametrize("dtype", golden.FORMATS)
@pytest.mark.parametrize("n_channels", golden.CHANNELS)
@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_output_bits_do_not_depend_on_how_the_input_is_cut(rate_hz: int, n_channels: int, dtype: str) -> None:
    samples = noise(rate_hz // 5, n_channels, dtype)
    whole = resample_whole(samples, rate_hz)
    for sizes in ([rate_hz // 50], [rate_hz // 100 + 1], [997, 3, 64]):
        assert np.array_equal(resample_in_chunks(samples, rate_hz, sizes), whole)


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 48_000])
def test_sample_by_sample_gives_the_same_bits_as_all_at_once(rate_hz: int) -> None:
    samples = noise(700)
    assert np.array_equal(resample_in_chunks(samples, rate_hz, [1]), resample_whole(samples, rate_hz))


@settings(max_examples=40, deadline=None)
@given(
    rate_hz=st.sampled_from((*RATES_HZ, 12_000, 37_800, 176_400)),
    sizes=st.lists(st.integers(0, 900), min_size=1, max_size=8).filter(any),
    n_samples=st.integers(0, 4_000),
)
def test_any_cutting_gives_the_same_bits(rate_hz: int, sizes: list[int], n_samples: int) -> None:
    samples = noise(n_samples)
    assert np.array_equal(resample_in_chunks(samples, rate_hz, sizes), resample_whole(samples, rate_hz))


@pytest.mark.parametrize("rate_hz", [44_100, 48_000])
def test_input_longer_than_a_piece_gives_the_same_bits(rate_hz: int) -> None:
    samples = noise(150_001)
    assert np.array_equal(resample_in_chunks(samples, rate_hz, [4_096]), resample_whole(samples, rate_hz))


@pytest.mark.parametrize("n_samples", [0, 1, 2, 479, 480, 4_801])
@pytest.mark.parametrize("rate_hz", [*RATES_HZ, 191_960])
def test_flush_completes_the_duration_of_the_input(rate_hz: int, n_samples: int) -> None:
    out = resample_whole(noise(n_samples), rate_hz)
    assert len(out) == -(-n_samples * AVATAR_RATE_HZ // rate_hz)


def test_after_flush_a_resampler_is_as_new() -> None:
    resampler = StreamResampler(44_100)
    samples = noise(5_000)
    first = np.concatenate((resampler.push(samples), resampler.flush()))
    assert np.array_equal(np.concatenate((resampler.push(samples), resampler.flush())), first)


def test_24_khz_mono_int16_comes_out_unchanged_and_at_once() -> None:
    samples = noise(1_000)
    resampler = StreamResampler(AVATAR_RATE_HZ)
    assert resampler.delay_s == 0
    assert np.array_equal(resampler.push(samples), samples[:, 0])


@pytest.mark.parametrize("rate_hz", [rate_hz for rate_hz in RATES_HZ if rate_hz != AVATAR_RATE_HZ])
def test_tones_in_the_passband_keep_frequency_level_and_phase(rate_hz: int) -> None:
    edge_hz = 10_800 * min(1, rate_hz / AVATAR_RATE_HZ)
    for frequency_hz in (97.0, 997.0, edge_hz):
        out = resample_whole(sine(frequency_hz, rate_hz, rate_hz // 2), rate_hz)
        assert db(amplitude_at(frequency_hz, out) / 0.5) == pytest.approx(0, abs=0.02)
        expected = sine(frequency_hz, AVATAR_RATE_HZ, len(out))[:, 0] * 32768
        middle = slice(len(out) // 4, -len(out) // 4)
        assert np.abs(out[middle] - expected[middle]).max() < 16


@pytest.mark.parametrize("sizes", [[12_000], [480], [7, 2_400, 31]])
def test_another_rate_than_24_khz_has_the_same_filter_at_its_own_edges(sizes: list[int]) -> None:
    def resampled(frequency_hz: float) -> NDArray:
        resampler, sound = StreamResampler(AVATAR_RATE_HZ, rate_out_hz=16_000), sine(frequency_hz, 24_000, 12_000)
        ends = itertools.accumulate(itertools.cycle(sizes))
        cuts = list(itertools.takewhile(lambda end: end < len(sound), ends))
        out = [*(resampler.push(piece) for piece in np.split(sound, cuts)), resampler.flush()]
        assert resampler.delay_s < 0.004
        return np.concatenate(out)

    for frequency_hz in (997.0, 7_200.0):
        out = resampled(frequency_hz)
        assert len(out) == 8_000
        expected = sine(frequency_hz, 16_000, len(out))[:, 0] * 32768
        assert np.abs(out - expected)[2_000:-2_000].max() < 16
    assert np.abs(resampled(8_050.0)[2_000:-2_000]).max() == 0


@pytest.mark.parametrize("rate_hz", [32_000, 44_100, 48_000, 96_000, 192_000])
def test_what_lies_above_12_khz_does_not_fold_back(rate_hz: int) -> None:
    for frequency_hz in (12_050.0, 13_500.0, rate_hz / 2 - 1_000):
        out = resample_whole(sine(frequency_hz, rate_hz, rate_hz // 2, amplitude=1.0), rate_hz)
        # The filter's 110 dB is below one step of int16: the middle of the output is digital silence.
        assert np.abs(out[2_000:-2_000]).max() == 0


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 22_050])
def test_upsampling_leaves_no_image(rate_hz: int) -> None:
    frequency_hz = 0.4 * rate_hz
    out = resample_whole(sine(frequency_hz, rate_hz, rate_hz // 2, amplitude=0.9), rate_hz)[2_000:-2_000]
    image_hz = rate_hz - frequency_hz
    assert db(amplitude_at(image_hz, out)) < -105


def test_signal_to_noise_of_a_sine_at_48_khz_is_that_of_16_bits() -> None:
    # A period of 997 samples against the steps of int16: rounding errors are as good as random.
    wave = sine(997.0, 48_000, 96_000, amplitude=0.89).astype(np.float64)[:, 0]
    dither = np.random.default_rng(1).uniform(-0.5, 0.5, (2, 96_000)).sum(axis=0)
    out = resample_whole(np.rint(wave * 32768 + dither).astype(np.int16)[:, None], 48_000)[2_000:-2_000]
    angle = 2 * np.pi * 997.0 / AVATAR_RATE_HZ * np.arange(len(out))
    basis = np.stack((np.sin(angle), np.cos(angle)), axis=1)
    residue = out - basis @ np.linalg.lstsq(basis, out.astype(np.float64), rcond=None)[0]
    assert db(float(np.sqrt(np.mean(residue**2))) / 32768) < -94


def test_24_bits_in_int32_keep_what_16_cannot_hold() -> None:
    quiet = noise(2_000)
    as_int32 = quiet.astype(np.int32) << 16
    assert np.array_equal(resample_whole(as_int32, 44_100), resample_whole(quiet, 44_100))
    # Half a step of int16 on top, which mono rounding to even would drop or double.
    halves = np.full((4_800, 2), (3 << 15), np.int32)
    halves[:, 1] = 1 << 15
    assert set(resample_whole(halves, 48_000)[200:-200].tolist()) == {1}


def test_float_beyond_full_scale_is_clipped_and_not_a_number_is_silence() -> None:
    samples = np.array([[2.0], [-2.0], [np.nan], [np.inf], [-np.inf], [0.5]], np.float32)
    assert StreamResampler(AVATAR_RATE_HZ).push(samples).tolist() == [32767, -32768, 0, 32767, -32768, 16384]


def test_overshoot_of_the_filter_clips_and_does_not_wrap() -> None:
    square = np.where(np.arange(4_800) // 60 % 2, 32767, -32768).astype(np.int16)[:, None]
    out = resample_whole(square, 48_000).astype(np.int32)
    inside_high = out.reshape(-1, 30)[1::2, 10:20]
    assert inside_high[2:-2].min() > 28_000


@pytest.mark.parametrize(
    ("n_channels", "channel", "gain"),
    [
        (2, 0, 0.5),
        (2, 1, 0.5),
        (6, 0, 0.7071 / 3.4142),
        (6, 2, 1.0 / 3.4142),
        (6, 3, 0.0),
        (6, 5, 0.5 / 3.4142),
        (8, 7, 0.5 / 4.4142),
    ],
)
def test_downmix_weighs_channels_as_bs_775_does(n_channels: int, channel: int, gain: float) -> None:
    samples = np.zeros((100, n_channels), np.int16)
    samples[:, channel] = 20_000
    out = StreamResampler(AVATAR_RATE_HZ, n_channels).push(samples)
    assert out == pytest.approx(20_000 * gain, abs=20_000 * 2**-12)


@pytest.mark.parametrize("n_channels", range(1, 9))
def test_full_scale_on_all_channels_stays_full_scale(n_channels: int) -> None:
    samples = np.full((10, n_channels), -32768, np.int16)
    out = StreamResampler(AVATAR_RATE_HZ, n_channels).push(samples)
    assert np.abs(out.astype(np.int32) + 32768).max() <= 16


@pytest.mark.parametrize(("rate_hz", "n_channels"), [(4_000, 1), (7_999, 1), (384_000, 1), (44_101, 1), (48_000, 9)])
def test_what_cannot_be_converted_is_refused_with_its_figure(rate_hz: int, n_channels: int) -> None:
    with pytest.raises(SourceRejected, match=str(n_channels if n_channels > 8 else rate_hz)):
        StreamResampler(rate_hz, n_channels)


@pytest.mark.parametrize(
    ("rate_hz", "limit_ms"), [(8_000, 8), (16_000, 4), (44_100, 2.6), (48_000, 2.6), (96_000, 2.6), (192_000, 2.6)]
)
def test_delay_is_the_same_for_every_chunk_and_small(rate_hz: int, limit_ms: float) -> None:
    resampler, chunk = StreamResampler(rate_hz), rate_hz // 50
    held = {
        480 * (i + 1) - total
        for i, total in enumerate(itertools.accumulate(len(resampler.push(noise(chunk))) for _ in range(20)))
    }
    assert len(held) == 1
    assert held.pop() == pytest.approx(resampler.delay_s * AVATAR_RATE_HZ, abs=2)
    assert resampler.delay_s * 1000 <= limit_ms


def test_sizes_that_never_repeat_take_a_bounded_memory() -> None:
    resampler, samples = StreamResampler(44_100), noise(1_000)
    sizes = np.random.default_rng(5).integers(1, 1_000, 2_000)
    for size in sizes[:1_000]:
        resampler.push(samples[:size])
    tracemalloc.start()
    for size in sizes[1_000:]:
        resampler.push(samples[:size])
    grown_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert grown_bytes < 600_000


def test_bits_are_the_ones_of_every_other_machine() -> None:
    assert [golden.digest(dtype) for dtype in golden.FORMATS] == DIGESTS


@pytest.mark.skipif(platform.machine() != "x86_64", reason="kernels of x86-64")
@pytest.mark.parametrize("kernel", KERNELS)
def test_bits_do_not_depend_on_the_kernel_that_multiplies(kernel: str) -> None:
    if KERNELS[kernel] not in Path("/proc/cpuinfo").read_text().split():
        pytest.skip(f"this processor has no {KERNELS[kernel]}")
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.dsp.golden"],
        env={**os.environ, "OPENBLAS_CORETYPE": kernel},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    *chosen, first, second, third = done.stdout.split()
    # OpenBLAS has another name for what it takes for Prescott; none is named where numpy has another BLAS.
    assert chosen in ([], ["Katmai" if kernel == "Prescott" else kernel])
    assert [first, second, third] == DIGESTS
