import numpy as np
import pytest
from numpy.typing import NDArray

from bridge.dsp.voice import VoiceDetector
from bridge.media.clock import AVATAR_RATE_HZ
from tests.unit.dsp.voices import noise, silence, voice


def changes_s(samples: NDArray[np.int16], n_samples: int = 480, hang_over_s: float = 0.3) -> list[float]:
    """When speech begins and ends, in turn."""
    detector, found = VoiceDetector(hang_over_s), list[float]()
    for start in range(0, len(samples), n_samples):
        detector.push(samples[start : start + n_samples].astype(np.float64))
        if detector.is_speaking != len(found) % 2:
            found.append(min(start + n_samples, len(samples)) / AVATAR_RATE_HZ)
    return found


def test_speech_is_found_within_120_ms_and_ends_after_the_hang_over() -> None:
    began_s, ended_s = changes_s(np.concatenate((noise(1.0), voice(), noise(2.0))))
    assert 1.0 < began_s <= 1.12
    assert ended_s == pytest.approx(3.3, abs=0.15)


def test_the_same_is_found_in_pieces_of_any_length() -> None:
    sound = np.concatenate((noise(0.5), voice(), noise(0.5), voice(), noise(1.0)))
    finely = changes_s(sound)
    assert len(finely) == 4
    for n_samples in (240, 1_536):
        assert changes_s(sound, n_samples) == pytest.approx(finely, abs=n_samples / AVATAR_RATE_HZ)


@pytest.mark.parametrize("sound", [silence(3.0), noise(3.0), noise(3.0, -56)], ids=["silence", "room", "louder room"])
def test_a_quiet_room_does_not_speak(sound: NDArray[np.int16]) -> None:
    assert changes_s(sound) == []


def test_a_click_is_no_speech() -> None:
    click = np.concatenate((noise(1.0), noise(0.02, -12), noise(1.0)))
    assert changes_s(click) == []


def test_who_is_known_to_speak_or_to_have_finished_is_not_waited_for() -> None:
    detector = VoiceDetector(0.5)
    detector.begin()
    assert detector.is_speaking and detector.onsets == 1
    detector.push(voice()[:4_800].astype(np.float64))
    detector.end()
    assert not detector.is_speaking and detector.onsets == 1
