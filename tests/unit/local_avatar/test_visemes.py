"""Mouth shapes follow loudness and spectrum."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from bridge.local_avatar.visemes import REST, WINDOW_SAMPLES, MouthTracker, level_dbfs, momentary_shape

RATE_HZ = 24_000
# First and second formant in Hz (Peterson and Barney, 1952, table II, men).
VOWELS = {"a": (730, 1090), "i": (270, 2290), "u": (300, 870), "e": (530, 1840)}


def vowel(name: str, dbfs: float = -14.0) -> NDArray[np.int16]:
    """A voice of 120 Hz whose harmonics stand out around two formants."""
    seconds = np.arange(WINDOW_SAMPLES) / RATE_HZ
    sound = np.zeros(WINDOW_SAMPLES)
    for harmonic in range(1, 40):
        hertz = 120 * harmonic
        gain = sum(10 ** (-8 * order / 20) / (1 + ((hertz - f) / 90) ** 2) for order, f in enumerate(VOWELS[name]))
        sound += gain * np.sin(2 * np.pi * hertz * seconds + harmonic**2)
    return at_level(sound, dbfs)


def at_level(sound: NDArray[np.float64], dbfs: float) -> NDArray[np.int16]:
    return np.rint(sound / np.sqrt(np.mean(sound**2)) * 32768 * 10 ** (dbfs / 20)).clip(-32768, 32767).astype(np.int16)


def hiss(dbfs: float = -25.0) -> NDArray[np.int16]:
    """Noise above 4 kHz, as in "s"."""
    spectrum = np.fft.rfft(np.random.default_rng(1).normal(size=WINDOW_SAMPLES))
    spectrum[np.fft.rfftfreq(WINDOW_SAMPLES, 1 / RATE_HZ) < 4000] = 0
    return at_level(np.fft.irfft(spectrum, WINDOW_SAMPLES), dbfs)


def room(noise: np.random.Generator, dbfs: float) -> NDArray[np.int16]:
    return at_level(noise.normal(size=WINDOW_SAMPLES), dbfs)


SILENCE = np.zeros(WINDOW_SAMPLES, np.int16)


def test_silence_shuts_the_mouth() -> None:
    assert momentary_shape(SILENCE) == REST


def test_a_full_scale_square_wave_is_0_dbfs() -> None:
    assert level_dbfs(np.full(WINDOW_SAMPLES, -32768, np.int16)) == 0


def test_louder_speech_opens_wider() -> None:
    levels = (-38.0, -30.0, -22.0, -14.0)
    opened = [momentary_shape(vowel("a", dbfs)).openness for dbfs in levels]
    assert opened == sorted(set(opened))


def test_a_is_wider_open_than_i_and_u() -> None:
    shapes = {name: momentary_shape(vowel(name)) for name in VOWELS}
    assert shapes["a"].openness > 1.5 * max(shapes["i"].openness, shapes["u"].openness)


def test_i_and_e_are_wide_and_u_is_round() -> None:
    shapes = {name: momentary_shape(vowel(name)) for name in VOWELS}
    assert shapes["u"].spread < -0.5
    assert min(shapes["i"].spread, shapes["e"].spread) > 0.4
    assert shapes["u"].spread < shapes["a"].spread < shapes["e"].spread


def test_a_hiss_brings_the_teeth_together_and_vowels_do_not() -> None:
    assert momentary_shape(hiss()).hiss == 1
    assert max(momentary_shape(vowel(name)).hiss for name in VOWELS) == 0


@pytest.mark.parametrize("fps", [25, 30])
def test_the_mouth_opens_at_once_and_shuts_within_three_pictures_of_silence(fps: int) -> None:
    tracker = MouthTracker(1 / fps)
    rising = [tracker.follow(vowel("a")).openness for _ in range(fps)]
    falling = [tracker.follow(SILENCE).openness for _ in range(fps)]
    assert rising[0] > 0.6 * rising[-1] > 0.5
    assert falling[0] > 0.2 * rising[-1]
    assert falling[2:] == [0.0] * (fps - 2)


@pytest.mark.parametrize("noise_dbfs", [-60.0, -50.0, -42.0])
def test_noise_of_a_room_does_not_move_the_mouth(noise_dbfs: float) -> None:
    tracker, noise = MouthTracker(1 / 25), np.random.default_rng(3)
    assert not any(tracker.follow(room(noise, noise_dbfs)).openness for _ in range(100))


def test_the_mouth_rests_in_noise_after_speech_too() -> None:
    tracker, noise = MouthTracker(1 / 25), np.random.default_rng(4)
    for _ in range(5):
        for _ in range(6):
            tracker.follow(vowel("a"))
        for _ in range(3):
            tracker.follow(SILENCE)
    opened = [tracker.follow(room(noise, -45)).openness for _ in range(100)]
    assert not any(opened[25:])


def test_a_voice_moves_the_mouth_over_the_noise_of_a_room() -> None:
    tracker, noise = MouthTracker(1 / 25), np.random.default_rng(5)
    for _ in range(50):
        tracker.follow(room(noise, -45))
    spoken = [tracker.follow(vowel("a", -24) + room(noise, -45)).openness for _ in range(10)]
    assert min(spoken[2:]) > 0.4


def test_from_vowel_to_vowel_the_lips_glide() -> None:
    tracker = MouthTracker(1 / 25)
    for _ in range(10):
        before = tracker.follow(vowel("i"))
    gliding = [tracker.follow(vowel("u")) for _ in range(6)]
    spreads = [before.spread, *(shape.spread for shape in gliding)]
    assert spreads == sorted(spreads, reverse=True)
    assert max(a - b for a, b in itertools.pairwise(spreads)) < 0.75 * (spreads[0] - spreads[-1])


def test_a_quiet_speaker_opens_the_mouth_too_after_a_while() -> None:
    tracker = MouthTracker(1 / 25)
    quiet = [tracker.follow(vowel("a", -34)).openness for _ in range(25 * 8)]
    assert quiet[-1] > quiet[0] + 0.3


def test_loudest_and_random_sound_stay_in_range() -> None:
    tracker = MouthTracker(1 / 25)
    noise = np.random.default_rng(2)
    for _ in range(50):
        window = noise.integers(-32768, 32767, WINDOW_SAMPLES, endpoint=True).astype(np.int16)
        shape = tracker.follow(window)
        assert 0 <= shape.openness <= 1 and -1 <= shape.spread <= 1 and 0 <= shape.hiss <= 1
