import numpy as np
import pytest
from numpy.typing import NDArray

from bridge.dsp.levels import measure
from bridge.dsp.limiter import CEILING, LOOK_AHEAD_SAMPLES
from bridge.dsp.mix import Mix
from bridge.dsp.strip import Strip, StripSettings
from bridge.media.clock import AVATAR_RATE_HZ
from tests.unit.dsp.voices import noise, silence, voice

PIECE = 480


def mix(*inputs: tuple[StripSettings, NDArray[np.int16]]) -> NDArray[np.int16]:
    """All of the mix; what the limiter adds before it is taken off."""
    mixed = Mix([Strip(settings) for settings, _ in inputs])
    starts = range(0, len(inputs[0][1]), PIECE)
    pieces = [mixed.push([samples[start : start + PIECE] for _, samples in inputs], PIECE) for start in starts]
    end = mixed.push([None for _ in inputs], PIECE)
    return np.concatenate((*pieces, end))[LOOK_AHEAD_SAMPLES if len(end) else 0 :][: len(inputs[0][1])]


def tone(duration_s: float, amplitude: float = 8_000) -> NDArray[np.int16]:
    n_samples = round(duration_s * AVATAR_RATE_HZ)
    return np.rint(amplitude * np.sin(2 * np.pi * 3_000 / AVATAR_RATE_HZ * np.arange(n_samples))).astype(np.int16)


def rms_dbfs(samples: NDArray[np.int16], from_s: float, to_s: float) -> float:
    return measure(samples[round(from_s * AVATAR_RATE_HZ) : round(to_s * AVATAR_RATE_HZ)]).rms_dbfs


def test_one_input_alone_comes_out_as_it_went_in() -> None:
    loud = np.random.default_rng(1).integers(-32_768, 32_768, 4_800).astype(np.int16)
    assert np.array_equal(mix((StripSettings(), loud)), loud)


def test_gain_moves_the_level_by_its_decibels() -> None:
    assert measure(mix((StripSettings(gain_db=-6.0), tone(1.0)))).rms_dbfs == pytest.approx(
        measure(tone(1.0)).rms_dbfs - 6.0, abs=0.01
    )


def test_inputs_of_the_same_priority_are_summed() -> None:
    assert np.array_equal(mix((StripSettings(), voice()), (StripSettings(), tone(2.0, 500))), voice() + tone(2.0, 500))


def test_a_speaking_input_of_higher_priority_ducks_the_others_while_it_speaks() -> None:
    host = np.concatenate((silence(1.0), voice(), silence(3.0)))
    playlist = tone(6.0)
    mixed = mix((StripSettings(priority=10), host), (StripSettings(duck_db=-20.0), playlist))
    rest = mixed.astype(np.int64) - host
    before = measure(playlist).rms_dbfs
    assert rms_dbfs(rest, 0.0, 1.0) == pytest.approx(before, abs=0.1)
    assert rms_dbfs(rest, 1.15, 3.0) == pytest.approx(before - 20, abs=0.1), "within 150 ms"
    assert rms_dbfs(rest, 4.3, 6.0) == pytest.approx(before, abs=0.1)
    assert not np.any(np.abs(np.diff(rest)) > 8_000), "no click"


def test_a_room_of_higher_priority_ducks_nobody() -> None:
    assert np.array_equal(
        mix((StripSettings(priority=10), noise(2.0)), (StripSettings(), voice())), noise(2.0) + voice()
    )


def test_without_any_input_there_is_nothing() -> None:
    assert len(Mix([]).push([], PIECE)) == 0
    assert len(Mix([Strip(StripSettings())]).push([None], PIECE)) == 0


def test_what_is_missing_of_one_input_leaves_the_other() -> None:
    mixed = Mix([Strip(StripSettings()), Strip(StripSettings())])
    assert np.array_equal(
        mixed.push([None, noise(0.02)], PIECE)[LOOK_AHEAD_SAMPLES:], noise(0.02)[:-LOOK_AHEAD_SAMPLES]
    )


def test_a_sum_does_not_clip() -> None:
    loud = tone(1.0, 30_000)
    both = mix((StripSettings(), loud), (StripSettings(), loud))
    assert np.array_equal(np.abs(both).max(), np.rint(CEILING))


def test_a_constant_offset_can_be_taken_off() -> None:
    offset = np.clip(voice().astype(np.int64) + 3_000, -32_768, 32_767).astype(np.int16)
    mixed = mix((StripSettings(blocks_dc=True), offset))
    assert abs(mixed[24_000:].mean()) < 400


def test_a_soft_voice_can_be_brought_to_a_loudness() -> None:
    soft = np.tile(voice() // 8, 3)
    louder = mix((StripSettings(loudness_lufs=-23.0), soft))
    assert np.array_equal(louder[:4_800], soft[:4_800])
    assert measure(louder[-24_000:]).rms_dbfs > measure(soft[-24_000:]).rms_dbfs + 6
