import math

import numpy as np
import pytest

from bridge.dsp.levels import SILENCE_DBFS, Level, PauseGate, measure


def tone(amplitude: float, n_samples: int = 2_400) -> np.ndarray:
    return np.rint(amplitude * 32767 * np.sin(2 * np.pi * 1_000 / 24_000 * np.arange(n_samples))).astype(np.int16)


def test_full_scale_sine_has_a_peak_of_0_and_an_energy_of_minus_3_dbfs() -> None:
    level = measure(tone(1.0))
    assert level.peak_dbfs == pytest.approx(0, abs=0.01)
    assert level.rms_dbfs == pytest.approx(-3.01, abs=0.01)


def test_most_negative_sample_is_full_scale() -> None:
    assert measure(np.array([-32768], np.int16)) == Level(0.0, 0.0)


@pytest.mark.parametrize("n_samples", [0, 480])
def test_silence_and_nothing_measure_minus_100(n_samples: int) -> None:
    assert measure(np.zeros(n_samples, np.int16)) == Level(SILENCE_DBFS, SILENCE_DBFS)


def test_before_the_first_word_the_pause_is_endless() -> None:
    gate = PauseGate()
    gate.push(np.zeros(100, np.int16))
    assert gate.pause_s == math.inf


def test_pause_counts_from_the_last_loud_sample() -> None:
    gate = PauseGate()
    gate.push(np.concatenate((tone(0.5, 240), np.zeros(240, np.int16))))
    gate.push(np.zeros(2_400, np.int16))
    assert gate.pause_s == pytest.approx(0.11, abs=0.001)


def test_speech_ends_a_pause() -> None:
    gate = PauseGate()
    gate.push(np.concatenate((tone(0.5), np.zeros(9_600, np.int16), tone(0.5))))
    assert gate.pause_s < 0.001


def test_noise_of_a_room_is_a_pause() -> None:
    gate = PauseGate()
    gate.push(tone(0.5))
    gate.push(np.random.default_rng(1).normal(0, 60, 24_000).astype(np.int16))
    assert gate.pause_s == pytest.approx(1.0, abs=0.001)
