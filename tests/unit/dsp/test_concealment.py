import numpy as np

from bridge.dsp.concealment import LONGEST_SAMPLES, Concealment
from bridge.media.clock import AVATAR_RATE_HZ
from tests.unit.dsp.voices import voice

N = 480
TONE = np.rint(8_000 * np.sin(2 * np.pi * 150 / AVATAR_RATE_HZ * np.arange(AVATAR_RATE_HZ))).astype(np.int16)


def test_what_comes_in_order_passes_as_it_is() -> None:
    concealment = Concealment()
    passed = [concealment.push(voice()[start : start + N]) for start in range(0, 9_600, N)]
    assert np.array_equal(np.concatenate(passed), voice()[:9_600])


def test_a_missing_message_of_a_steady_voice_is_hardly_noticed() -> None:
    concealment = Concealment()
    parts = [concealment.push(TONE[start : start + N]) for start in range(0, 4_800, N)]
    parts.append(concealment.make_up(N))
    parts.append(concealment.push(TONE[4_800 + N : 4_800 + 2 * N]))
    sound = np.concatenate(parts).astype(np.float64)
    error = sound[4_800 : 4_800 + N // 2] - TONE[4_800 : 4_800 + N // 2]
    assert np.abs(error).max() < 0.05 * 8_000
    assert np.abs(np.diff(sound)).max() < 1.5 * np.abs(np.diff(TONE.astype(np.float64))).max(), "no click at the joints"


def test_a_longer_gap_fades_to_silence() -> None:
    concealment = Concealment()
    concealment.push(TONE[:4_800])
    made = np.concatenate([concealment.make_up(N) for _ in range(4)]).astype(np.float64)
    levels = [np.abs(made[start : start + 240]).max() for start in range(0, LONGEST_SAMPLES, 240)]
    assert levels == sorted(levels, reverse=True)
    assert not made[LONGEST_SAMPLES:].any()
    assert concealment.is_spent


def test_without_a_past_nothing_is_made_up() -> None:
    concealment = Concealment()
    assert concealment.is_spent
    concealment.push(TONE[:4_800])
    assert not concealment.is_spent
    concealment.forget()
    assert concealment.is_spent
