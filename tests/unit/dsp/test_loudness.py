import numpy as np
import pytest
from numpy.typing import NDArray

from bridge.dsp.levels import FULL_SCALE
from bridge.dsp.loudness import MOST_DB, LoudnessControl
from bridge.media.clock import AVATAR_RATE_HZ
from tests.unit.dsp.voices import noise, silence, voice


def control(sound: NDArray[np.float64], target_lufs: float = -23.0, *, is_speech: bool = True) -> LoudnessControl:
    controlled = LoudnessControl(target_lufs)
    for start in range(0, len(sound), 480):
        controlled.push(sound[start : start + 480], is_speech=is_speech)
    return controlled


def sine(frequency_hz: float, peak_dbfs: float, duration_s: float = 5.0) -> NDArray[np.float64]:
    time_s = np.arange(round(duration_s * AVATAR_RATE_HZ)) / AVATAR_RATE_HZ
    return FULL_SCALE * 10 ** (peak_dbfs / 20) * np.sin(2 * np.pi * frequency_hz * time_s)


@pytest.mark.parametrize(
    # The response of BS.1770's two filters: its tables at 48 kHz, by scipy.signal.freqz.
    ("frequency_hz", "weight_db"),
    [(40, -5.5), (100, -1.1), (1_000, 0.7), (4_000, 4.0), (10_000, 4.0)],
)
def test_a_sine_counts_as_bs_1770_weights_it(frequency_hz: float, weight_db: float) -> None:
    assert control(sine(frequency_hz, 0.0)).short_term_lufs == pytest.approx(-3.01 - 0.691 + weight_db, abs=0.25)


def test_a_full_scale_sine_of_997_hz_has_minus_3() -> None:
    assert control(sine(997, 0.0)).short_term_lufs == pytest.approx(-3.01, abs=0.05)


@pytest.mark.parametrize("off_db", [-12.0, 0.0, 9.0])
def test_speech_comes_to_the_target(off_db: float) -> None:
    found = control(np.tile(voice(), 4) * 10 ** (off_db / 20))
    assert found.short_term_lufs is not None
    assert found.short_term_lufs + found.gain_db == pytest.approx(-23.0, abs=1.1)


def test_a_gain_moves_slowly_and_has_a_limit() -> None:
    assert control(sine(997, -40.0, 1.4)).gain_db == pytest.approx(6.0, abs=1.3)
    assert control(sine(997, -60.0, 10.0)).gain_db == pytest.approx(MOST_DB, abs=1.0)


def test_pauses_leave_the_gain_where_it_is() -> None:
    controlled = control(np.tile(voice(), 2) * 0.2)
    before = controlled.gain_db
    for piece in (noise(3.0), silence(3.0)):
        controlled.push(piece.astype(np.float64), is_speech=False)
    assert controlled.gain_db == before > 0
