"""What viewers hear of an input is what it gave: same place, both channels, full band."""

import numpy as np
import pytest
from numpy.typing import NDArray

from bridge.dsp.stereo import StereoConverter
from bridge.media.audio import AudioBlock
from bridge.media.clock import NS_PER_S, ticks_to_ns

RATE_HZ = 48_000


def convert(samples: NDArray[np.float32] | NDArray[np.int16], rate_hz: int, n_block: int = 441) -> NDArray[np.float32]:
    converter = StereoConverter()
    pieces = [
        converter.push(AudioBlock(samples[start : start + n_block], rate_hz, ticks_to_ns(start, rate_hz)))[0]
        for start in range(0, len(samples), n_block)
    ]
    return np.concatenate(pieces, axis=1)


def sines(rate_hz: int, duration_s: float = 0.5) -> NDArray[np.float32]:
    """1 kHz on the left and the highest tone that all rates carry on the right."""
    times = np.arange(round(duration_s * rate_hz)) / rate_hz
    return np.stack([0.5 * np.sin(2 * np.pi * hz * times) for hz in (1_000, 3_500)], axis=1).astype(np.float32)


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000])
def test_every_rate_keeps_its_sound_in_its_place(rate_hz: int) -> None:
    converted = convert(sines(rate_hz), rate_hz)
    wanted = sines(RATE_HZ).T[:, : converted.shape[1]]
    settled = slice(960, -480)
    assert converted.shape[1] > 0.48 * RATE_HZ
    assert np.abs(converted - wanted)[:, settled].max() < 3e-4


def test_music_keeps_what_speech_does_not_need() -> None:
    times = np.arange(22_050) / 44_100
    tone = (0.5 * np.sin(2 * np.pi * 18_000 * times)).astype(np.float32)[:, None]
    converted = convert(tone, 44_100)[0, 960:-480]
    assert np.sqrt(2 * np.mean(converted**2)) == pytest.approx(0.5, rel=1e-3)


def test_cutting_changes_nothing() -> None:
    assert np.allclose(convert(sines(44_100), 44_100, 441), convert(sines(44_100), 44_100, 1_000), atol=1e-6)


@pytest.mark.parametrize("n_channels", range(1, 9))
def test_every_layout_becomes_stereo_that_cannot_clip(n_channels: int) -> None:
    full = np.full((480, n_channels), 32_767, np.int16)
    converted = convert(full, RATE_HZ, 480)
    assert converted.shape == (2, 480)
    assert 0.9 < converted.min() and converted.max() <= 1.0


def test_left_stays_left() -> None:
    only_left = np.zeros((480, 6), np.float32)
    only_left[:, [0, 4]] = 0.5
    left, right = convert(only_left, RATE_HZ, 480)
    assert left.min() > 0.3 and not right.any()


def test_what_is_louder_than_full_scale_or_no_number_does_no_harm() -> None:
    wild = np.array([[2.0], [-3.0], [np.nan], [np.inf]], np.float32)
    assert convert(wild, RATE_HZ).tolist() == [[1.0, -1.0, 0.0, 1.0]] * 2


def test_a_gap_in_the_source_s_time_is_one_in_what_it_gives() -> None:
    converter = StereoConverter()
    block = AudioBlock(sines(44_100)[:4_410], 44_100, 0)
    converter.push(block)
    _, starts_ns = converter.push(AudioBlock(block.samples, 44_100, NS_PER_S))
    assert starts_ns == NS_PER_S
