"""Babble sounds like somebody speaking: measured, as nobody listens to a test."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_toeplitz
from scipy.signal import resample_poly

from bridge.local_avatar.babble import babble
from bridge.local_avatar.visemes import WINDOW_SAMPLES, MouthTracker

RATE_HZ = 24_000
SENTENCE = "Hello, how are you today? I can see the picture very well."


def formants_hz(pcm: np.ndarray) -> list[float]:
    """Resonances below 3 kHz, by linear prediction (Markel and Gray, 1976)."""
    voiced = resample_poly(pcm[len(pcm) // 4 : 3 * len(pcm) // 4].astype(float), 5, 12)
    voiced = np.diff(voiced) * np.hamming(len(voiced) - 1)
    products = np.correlate(voiced, voiced, "full")[len(voiced) - 1 :][:13]
    roots = np.roots(np.r_[1, -solve_toeplitz(products[:12], products[1:13])])
    hertz = np.angle(roots) * 10_000 / 2 / np.pi
    width_hz = -np.log(np.abs(roots)) * 10_000 / np.pi
    return sorted(hertz[(hertz > 150) & (hertz < 3000) & (width_hz < 400)])


def level_db(pcm: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(pcm.astype(float)))))


def openness(pcm: np.ndarray) -> list[float]:
    tracker = MouthTracker(0.04)
    return [tracker.follow(pcm[at : at + WINDOW_SAMPLES]).openness for at in range(0, len(pcm) - 960, 960)]


@pytest.mark.parametrize(
    ("letters", "expected_hz"),
    [("aaaa", (730, 1090)), ("iiii", (390, 1990)), ("eeee", (270, 2290)), ("oooo", (300, 870)), ("uuuu", (440, 1020))],
)
def test_a_vowel_has_the_formants_of_a_mouth(letters: str, expected_hz: tuple[float, float]) -> None:
    assert formants_hz(babble(letters))[:2] == pytest.approx(expected_hz, rel=0.1)


def test_a_hiss_lies_high_and_below_the_vowels() -> None:
    pcm = babble("ssss aaaa")
    hiss, vowel = pcm[1000:6000], pcm[-7000:-2000]
    power = np.abs(np.fft.rfft(hiss)) ** 2
    middle_hz = float((power * np.fft.rfftfreq(len(hiss), 1 / RATE_HZ)).sum() / power.sum())
    assert 5000 < middle_hz < 8000
    assert -16 < level_db(hiss) - level_db(vowel) < -5


def test_it_lasts_as_long_as_reading_aloud_does() -> None:
    assert 11 < len(SENTENCE) / (len(babble(SENTENCE)) / RATE_HZ) < 15


@pytest.mark.parametrize(("point", "pause_s"), [(",", 0.18), (".", 0.35), ("?", 0.35)])
def test_it_pauses_at_points(point: str, pause_s: float) -> None:
    pcm = babble(f"mama{point} mama")
    quiet = np.convolve(np.abs(pcm) < 30, np.ones(480), "valid") == 480
    assert quiet.sum() / RATE_HZ == pytest.approx(pause_s, abs=0.06)


def test_a_statement_falls_and_a_question_rises() -> None:
    def pitch_hz(pcm: np.ndarray) -> float:
        part = pcm.astype(float)
        products = np.correlate(part, part, "full")[len(part) - 1 :]
        shortest, longest = RATE_HZ // 250, RATE_HZ // 80
        return float(RATE_HZ / (shortest + np.argmax(products[shortest:longest])))

    for text, changes in (("aaaaaaaaaaaa.", (0.75, 0.95)), ("aaaaaaaaaaaa?", (1.03, 1.3))):
        pcm = babble(text)
        first, last = pitch_hz(pcm[3000:5000]), pitch_hz(pcm[26_500:28_500])
        assert changes[0] < last / first < changes[1]


def test_the_mouth_opens_with_the_syllables_and_shuts_between_phrases() -> None:
    opened = openness(babble(SENTENCE))
    assert max(opened) > 0.7
    assert sum(before < 0.4 <= after for before, after in itertools.pairwise(opened)) >= 8
    # The pauses after "Hello" and "today" of 180 and 350 ms.
    assert sum(value < 0.05 for value in opened) >= 6


def test_nothing_clicks() -> None:
    pcm = babble("Aha, oh! Mama. Uh? Aha").astype(float)
    assert not pcm[0] and not pcm[-1]
    # Voices hold next to nothing above 8 kHz; a step would fill the whole spectrum.
    for start in range(0, len(pcm) - 240, 120):
        part = pcm[start : start + 240] * np.hanning(240)
        assert np.abs(np.fft.rfft(part))[90:].max() < 0.02 * 240 * 8192


def test_the_same_text_sounds_the_same() -> None:
    assert np.array_equal(babble(SENTENCE), babble(SENTENCE))


def test_digits_are_read_and_other_scripts_are_syllables() -> None:
    assert len(babble("7")) == len(babble("seven"))
    assert len(babble("你好世界")) / RATE_HZ > 0.5
    assert len(babble("é")) == len(babble("e"))


@pytest.mark.parametrize("text", ["", " ", "...", "?!", "()-\n"])
def test_nothing_to_say_is_no_sound(text: str) -> None:
    assert not len(babble(text))


@settings(max_examples=60)
@given(st.text(max_size=60))
def test_any_text_is_sound_within_its_peak(text: str) -> None:
    pcm = babble(text)
    assert pcm.dtype == np.int16
    assert not len(pcm) or np.abs(pcm.astype(int)).max() == pytest.approx(16_422, abs=1)
