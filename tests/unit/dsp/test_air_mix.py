"""What viewers hear: the avatar untouched while it is alone, and with others never too loud."""

import numpy as np
import pytest
from numpy.typing import NDArray

from bridge.dsp.air_mix import AirMix, AirSettings
from bridge.media.clock import OPUS_CLOCK_HZ
from bridge.media.opus_decoder import Samples

PIECE = 960


def mix(
    avatar: Samples, *inputs: tuple[AirSettings, Samples | None], gain: float = 1.0
) -> tuple[Samples, NDArray[np.bool_]]:
    """All of the mix, in the avatar's time, and for each piece whether an input was used in it."""
    mixed = AirMix([settings for settings, _ in inputs])
    avatar = np.concatenate((avatar, np.zeros((2, PIECE), np.float32)), axis=1)
    made, used = [], []
    for start in range(0, avatar.shape[1], PIECE):
        pieces = [None if sound is None else sound[:, start : start + PIECE] for _, sound in inputs]
        pieces = [None if piece is None or piece.shape[1] < PIECE else piece for piece in pieces]
        samples, is_used = mixed.push(avatar[:, start : start + PIECE], pieces, [gain] * len(inputs))
        made.append(samples)
        used.append(is_used)
    return np.concatenate(made, axis=1)[:, mixed.look_ahead_samples :], np.array(used)


def tone(duration_s: float, amplitude: float = 0.25, hz: float = 3_000) -> Samples:
    wave = amplitude * np.sin(2 * np.pi * hz * np.arange(round(duration_s * OPUS_CLOCK_HZ)) / OPUS_CLOCK_HZ)
    return np.stack([wave, wave]).astype(np.float32)


def silence(duration_s: float) -> Samples:
    return np.zeros((2, round(duration_s * OPUS_CLOCK_HZ)), np.float32)


def level_db(sound: Samples, from_s: float, to_s: float) -> float:
    part = sound[0, round(from_s * OPUS_CLOCK_HZ) : round(to_s * OPUS_CLOCK_HZ)].astype(np.float64)
    return float(10 * np.log10(np.mean(part**2)))


@pytest.mark.parametrize("beside", [None, silence(2.0), tone(2.0, 0.0005)])
def test_the_avatar_alone_comes_out_bit_for_bit_however_loud(beside: Samples | None) -> None:
    loud = np.random.default_rng(1).uniform(-1, 1, (2, 2 * OPUS_CLOCK_HZ)).astype(np.float32)
    mixed, used = mix(loud, (AirSettings(), beside))
    assert mixed[:, : loud.shape[1]].tobytes() == loud.tobytes()
    assert not used.any()


def test_an_input_is_added_with_its_gain_and_used_for_a_second_longer() -> None:
    question = np.concatenate((silence(0.5), tone(0.5), silence(2.0)), axis=1)
    mixed, used = mix(silence(3.0), (AirSettings(), question), gain=0.5)
    assert np.allclose(mixed[:, 48_000 * 6 // 10 : 48_000], question[:, 48_000 * 6 // 10 : 48_000] * 0.5, atol=1e-6)
    assert np.flatnonzero(used).tolist() == list(range(25, 99))


def test_inputs_step_back_while_the_avatar_speaks_and_return_after_it() -> None:
    avatar = np.concatenate((silence(1.0), tone(1.0, 0.3, 500), silence(2.0)), axis=1)
    bed = tone(4.0, 0.1)
    mixed, _ = mix(avatar, (AirSettings(duck_db=-12.0), bed))
    heard = mixed[:, : avatar.shape[1]] - avatar
    before = level_db(bed, 0.0, 1.0)
    assert level_db(heard, 0.1, 0.99) == pytest.approx(before, abs=0.1)
    assert level_db(heard, 1.05, 2.0) == pytest.approx(before - 12, abs=0.1)
    assert level_db(heard, 3.0, 3.9) == pytest.approx(before, abs=0.1), "0.3 s of pause, and half a second"
    assert np.abs(np.diff(heard[0])).max() < 0.1 * 2 * np.pi * 3_000 / OPUS_CLOCK_HZ * 1.01, "no click"


def test_music_steps_back_for_a_host_and_the_host_not_for_music() -> None:
    host = np.concatenate((silence(1.0), tone(1.0, 0.2, 500)), axis=1)
    music = tone(2.0, 0.1)
    mixed, _ = mix(silence(2.0), (AirSettings(priority=5), host), (AirSettings(duck_db=-20.0), music))
    heard = mixed[:, : host.shape[1]] - host
    assert level_db(heard, 1.1, 1.9) == pytest.approx(level_db(music, 0, 1) - 20, abs=0.1)


def test_the_sum_never_clips() -> None:
    mixed, _ = mix(tone(1.0, 0.9, 500), (AirSettings(duck_db=0.0), tone(1.0, 0.9)), gain=4.0)
    assert np.abs(mixed).max() <= 10 ** (-1 / 20) + 1e-6


def test_the_limiter_leaves_no_mark_on_what_comes_after_the_input() -> None:
    avatar = tone(4.0, 0.97, 500)
    mixed, used = mix(avatar, (AirSettings(), np.concatenate((tone(0.5, 0.9), silence(3.5)), axis=1)))
    ended_s = 0.02 * (np.flatnonzero(used)[-1] + 1) + 0.3  # and the limiter's release
    start = round(ended_s * OPUS_CLOCK_HZ)
    assert mixed[:, start : avatar.shape[1]].tobytes() == avatar[:, start:].tobytes()
    assert np.abs(np.diff(mixed[0])).max() < 0.26


def test_without_a_gain_nothing_is_heard_and_it_goes_without_a_click() -> None:
    music = tone(0.04)
    mixed = AirMix([AirSettings()])
    before = mixed.push(silence(0.02), [music[:, :PIECE]], [1.0]).samples
    after = mixed.push(silence(0.02), [music[:, PIECE:]], [0.0]).samples
    last = mixed.push(silence(0.02), [music[:, :PIECE]], [0.0]).samples
    heard = np.concatenate((before, after, last), axis=1)[0]
    assert not heard[2 * PIECE + 240 :].any()
    assert np.abs(np.diff(heard)).max() < 0.25 * 2 * np.pi * 3_000 / OPUS_CLOCK_HZ * 1.01
