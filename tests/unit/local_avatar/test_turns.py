"""Turns are found by energy, in audio time."""

import numpy as np
import pytest

from bridge.local_avatar.turns import RATE_HZ, SilenceGate, TurnDetector, TurnEnded, TurnStarted


def tone(seconds: float, dbfs: float = -20.0) -> bytes:
    """A sine of 200 Hz whose mean level is `dbfs`."""
    n = np.arange(round(seconds * RATE_HZ))
    amplitude = 32768 * 10 ** (dbfs / 20) * 2**0.5
    return np.rint(amplitude * np.sin(2 * np.pi * 200 * n / RATE_HZ)).astype("<i2").tobytes()


def silence(seconds: float) -> bytes:
    return bytes(2 * round(seconds * RATE_HZ))


def turns_in(pcm16: bytes, chunk_bytes: int = 3072) -> list[TurnStarted | TurnEnded]:
    detector = TurnDetector()
    return [
        event
        for start in range(0, len(pcm16), chunk_bytes)
        for event in detector.push(pcm16[start : start + chunk_bytes])
    ]


def test_speech_and_half_a_second_of_silence_make_a_turn() -> None:
    started, ended = turns_in(silence(1) + tone(2) + silence(0.6))
    assert started == TurnStarted()
    assert isinstance(ended, TurnEnded)


def test_a_turn_holds_the_speech_and_up_to_300_ms_before_it() -> None:
    ended = turns_in(silence(1) + tone(2) + silence(0.6))[1]
    assert isinstance(ended, TurnEnded)
    assert ended.duration_s == pytest.approx(2.3, abs=0.02)
    assert tone(2)[1000:-1000] in ended.pcm16


@pytest.mark.parametrize("chunk_bytes", [2, 1024, 3072, 16_384, 1_000_000])
def test_turns_do_not_depend_on_how_the_sound_is_cut(chunk_bytes: int) -> None:
    sound = silence(0.3) + tone(0.5) + silence(0.7) + tone(0.3) + silence(0.7)
    assert turns_in(sound, chunk_bytes) == turns_in(sound)


def test_a_pause_of_400_ms_does_not_end_a_turn() -> None:
    assert len(turns_in(tone(1) + silence(0.4) + tone(1) + silence(0.6))) == 2


def test_a_click_is_no_turn() -> None:
    assert turns_in(silence(0.5) + tone(0.04) + silence(1)) == []


def test_a_quiet_rooms_noise_is_no_turn() -> None:
    assert turns_in(tone(3, dbfs=-55)) == []


def test_soft_speech_is_a_turn() -> None:
    assert len(turns_in(tone(1, dbfs=-40) + silence(0.6))) == 2


def test_somebody_who_never_pauses_is_cut_off_after_30_s() -> None:
    ended = turns_in(tone(31))[1]
    assert isinstance(ended, TurnEnded)
    assert ended.duration_s == pytest.approx(30, abs=0.02)


def test_the_gate_passes_speech_and_its_pauses_and_stops_longer_silence() -> None:
    gate = SilenceGate()
    passed = [gate.passes(piece) for piece in [silence(0.02)] + [tone(0.02)] * 2 + [silence(0.02)] * 30]
    assert passed == [False] + [True] * 2 + [True] * 24 + [False] * 6
