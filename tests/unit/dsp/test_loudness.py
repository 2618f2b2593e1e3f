import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import freqz

from bridge.dsp.levels import FULL_SCALE
from bridge.dsp.loudness import MOST_DB, LoudnessControl, _Weighting
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


def test_the_weighting_is_that_of_bs_1770_at_48_khz() -> None:
    # Tables 1 and 2 of the recommendation.
    shelf = [1.53512485958697, -2.69169618940638, 1.19839281085285], [1.0, -1.69065929318241, 0.73248077421585]
    high_pass = [1.0, -2.0, 1.0], [1.0, -1.99004745483398, 0.99007225036621]
    frequencies_hz = [30, 60, 100, 300, 1_000, 2_000, 4_000, 6_000]
    expected = freqz(*shelf, frequencies_hz, fs=48_000)[1] * freqz(*high_pass, frequencies_hz, fs=48_000)[1]
    weighting = _Weighting()
    found = freqz(weighting.b, weighting.a, frequencies_hz, fs=AVATAR_RATE_HZ)[1]
    assert 20 * np.log10(np.abs(found / expected)) == pytest.approx(0, abs=0.1)


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
