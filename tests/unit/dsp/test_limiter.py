import numpy as np
import pytest
from numpy.typing import NDArray

from bridge.dsp.limiter import CEILING, LOOK_AHEAD_SAMPLES, Limiter
from tests.unit.dsp.voices import voice


def limit(sound: NDArray[np.float64], n_samples: int = 480) -> NDArray[np.float64]:
    limiter = Limiter()
    sound = np.concatenate((sound, np.zeros(LOOK_AHEAD_SAMPLES)))
    pieces = [limiter.push(sound[start : start + n_samples]) for start in range(0, len(sound), n_samples)]
    assert not limiter.holds_sound
    return np.concatenate(pieces)[LOOK_AHEAD_SAMPLES:]


def test_what_stays_below_the_ceiling_is_left_as_it_is() -> None:
    sound = voice().astype(np.float64)
    assert np.array_equal(limit(sound), sound)


def test_nothing_exceeds_the_ceiling() -> None:
    loud = np.random.default_rng(1).standard_normal(24_000) * 20_000
    assert np.abs(limit(loud)).max() <= CEILING * (1 + 1e-9)
    step = np.concatenate((np.zeros(1_000), np.full(5_000, 60_000.0)))
    assert np.abs(limit(step)).max() <= CEILING * (1 + 1e-9)


def test_loud_speech_keeps_its_shape_where_clipping_would_bend_it() -> None:
    loud = voice().astype(np.float64) * 4
    limited = limit(loud)
    audible = np.flatnonzero(np.abs(loud) > 1_000)
    gain = limited[audible] / loud[audible]
    assert np.abs(np.diff(gain))[np.diff(audible) == 1].max() < 0.01, "no step in the gain"
    assert gain.max() <= 1 + 1e-9


def test_a_peak_is_forgotten_after_the_release() -> None:
    sound = np.full(24_000, 1_000.0)
    sound[4_800] = 2 * CEILING
    limited = limit(sound)
    assert np.array_equal(limited[: 4_800 - 2 * LOOK_AHEAD_SAMPLES], sound[: 4_800 - 2 * LOOK_AHEAD_SAMPLES])
    assert limited[4_800] == pytest.approx(CEILING)
    assert limited[4_900] < 700
    assert np.array_equal(limited[10_000:], sound[10_000:])


@pytest.mark.parametrize("n_samples", [37, 1_536])
def test_the_result_does_not_depend_on_the_pieces(n_samples: int) -> None:
    loud = voice().astype(np.float64) * 3
    assert limit(loud, n_samples) == pytest.approx(limit(loud, 480), rel=1e-9)
