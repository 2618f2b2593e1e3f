import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import resample
from benchmarks.resamplers import PEERS, Push


def every_second(rate_hz: int) -> Push:
    """Halves 48 kHz without any filter: everything above 12 kHz folds back as it is."""
    return lambda samples: samples[::2]


def late(rate_hz: int) -> Push:
    """As that, 10 ms late."""
    held = np.empty(0, np.int16)

    def push(samples: NDArray[np.int16]) -> NDArray[np.int16]:
        nonlocal held
        held = np.concatenate((held, samples))
        n_given = max(0, len(held) - 480)
        given, held = held[:n_given], held[n_given:]
        return given[::2]

    return push


@pytest.fixture(autouse=True)
def quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resample, "PERIOD_S", 1)
    monkeypatch.setattr(resample, "N_STOPBAND_TONES", 4)
    monkeypatch.setattr(resample, "N_PASSBAND_TONES", 5)


def test_what_has_no_filter_rejects_nothing_and_has_no_ripple() -> None:
    assert resample._rejection_db(every_second, 48_000) == pytest.approx(0, abs=0.01)
    assert resample._ripple_db(every_second(48_000), 48_000) < 0.001


def test_noise_is_that_of_rounding_once() -> None:
    # 6.02 dB for each of 16 bits, and 1.76 dB.
    assert resample._snr_db(every_second(48_000), 48_000) == pytest.approx(98.1, abs=0.2)


def test_delay_is_what_is_held_back() -> None:
    assert resample._delay_ms(every_second(48_000), 48_000) == 0
    assert resample._delay_ms(late(48_000), 48_000) == pytest.approx(10, abs=0.05)


@pytest.mark.parametrize("peer", PEERS)
def test_peers_make_24_khz_of_44_100(peer: str) -> None:
    push = PEERS[peer](44_100)
    n_out = sum(len(push(np.zeros(882, np.int16))) for _ in range(50))
    assert 22_500 < n_out <= 24_000
