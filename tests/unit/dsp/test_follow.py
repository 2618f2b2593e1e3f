import numpy as np
import pytest
from numpy.typing import NDArray

from bridge.dsp.follow import FillServo, FollowingResampler
from bridge.dsp.resample import StreamResampler
from bridge.errors import SourceRejected
from bridge.media.clock import AVATAR_RATE_HZ

TARGET_S = 0.05
TONE_HZ = 997.0


def snr_db(samples: NDArray, frequency_hz: float = TONE_HZ) -> float:
    """Of a sine to everything else."""
    angle = 2 * np.pi * frequency_hz / AVATAR_RATE_HZ * np.arange(len(samples))
    basis = np.stack((np.sin(angle), np.cos(angle), np.ones(len(angle))), axis=1)
    wave = basis @ np.linalg.lstsq(basis, samples.astype(np.float64), rcond=None)[0]
    return float(10 * np.log10(np.mean(wave**2) / np.mean((samples - wave) ** 2)))


def tone(rate_hz: float, first: int, n_samples: int, frequency_hz: float = TONE_HZ) -> NDArray:
    """A tone of the real world, as a source hears it whose clock makes `rate_hz`."""
    return (0.8 * np.sin(2 * np.pi * frequency_hz / rate_hz * np.arange(first, first + n_samples)))[:, None].astype(
        "f4"
    )


def test_a_drifting_source_keeps_the_fill_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    drift_ppm = -450.0
    # A loop three times as fast need not be watched for ten minutes.
    monkeypatch.setattr(FillServo, "NATURAL_RATE_PER_S", 1 / 10)
    monkeypatch.setattr(FillServo, "SMOOTHING_S", 1.0)
    resampler, rate_hz, chunk = FollowingResampler(8_000, 1, TARGET_S), 8_000, 160
    true_rate_hz = rate_hz * (1 + drift_ppm * 1e-6)
    pieces, pitches_hz, fills = [], [], []
    given_s, taken_from_s = 0.0, float("inf")
    for first in range(0, 110 * rate_hz, chunk):
        now_s = (first + chunk) / true_rate_hz
        if given_s >= TARGET_S:
            taken_from_s = min(taken_from_s, now_s)
        fills.append(given_s - max(0.0, now_s - taken_from_s))
        pieces.append(resampler.push(tone(true_rate_hz, first, chunk), fills[-1]))
        pitches_hz.append(TONE_HZ * (1 + resampler.drift_ppm * 1e-6) * rate_hz / true_rate_hz)
        given_s += len(pieces[-1]) / AVATAR_RATE_HZ
    assert resampler.drift_ppm == pytest.approx(drift_ppm, abs=1)
    assert fills[-1] == pytest.approx(TARGET_S, abs=0.0005)
    assert TARGET_S - 0.01 < min(fills[5:]) <= max(fills) < TARGET_S + 0.01
    # A dropped or inserted sample would be a click of 20 dB; what is left is the ratio's change from push to push.
    clean_db = [
        snr_db(np.concatenate((before, after)), pitch_hz)
        for before, after, pitch_hz in zip(pieces[5::4], pieces[6::4], pitches_hz[6::4], strict=False)
    ]
    assert min(clean_db) > 60
    assert clean_db[-1] > 90


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("drift", [0.0, 300e-6, -500e-6])
def test_a_steady_ratio_is_as_clean_as_16_bits(rate_hz: int, drift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FillServo, "update", lambda servo, *_: setattr(servo, "drift", drift))
    resampler, chunk = FollowingResampler(rate_hz, 1, TARGET_S), rate_hz // 50
    for frequency_hz in (TONE_HZ, 0.44 * min(rate_hz, AVATAR_RATE_HZ)):
        wave = tone(rate_hz, 0, rate_hz, frequency_hz)
        out = np.concatenate([resampler.push(wave[at : at + chunk], 0.0) for at in range(0, rate_hz, chunk)])
        assert snr_db(out[2_000:], frequency_hz * (1 + drift)) > 94


def test_without_drift_it_is_the_exact_resampler() -> None:
    samples = np.random.default_rng(3).integers(-20_000, 20_000, (9_600, 2), dtype=np.int16)
    following, exact = FollowingResampler(48_000, 2, TARGET_S), StreamResampler(48_000, 2)
    followed = np.concatenate([following.push(samples[at : at + 480], TARGET_S) for at in range(0, 9_600, 480)])
    whole = exact.push(samples)[: len(followed)]
    assert len(followed) > 4_700
    assert np.abs(followed.astype(int) - whole).max() <= 1


def test_jitter_of_arrivals_hardly_moves_the_pitch() -> None:
    servo, jitter = FillServo(TARGET_S), np.random.default_rng(4)
    fill_s, drifts = TARGET_S, []
    for _ in range(20_000):
        servo.update(fill_s - abs(jitter.normal(0, 0.01)), 0.01)
        fill_s += 0.01 * (200e-6 - servo.drift)
        drifts.append(servo.drift * 1e6)
    assert np.mean(drifts[-5_000:]) == pytest.approx(200, abs=10)
    assert np.std(drifts[-5_000:]) < 25


def test_the_correction_is_bounded_and_nothing_winds_up() -> None:
    servo = FillServo(TARGET_S)
    for _ in range(1_000):
        servo.update(1.0, 0.02)
        assert servo.drift <= 500e-6
    # Once the fill has been right for longer than it is smoothed, the correction goes.
    for _ in range(1_500):
        servo.update(TARGET_S, 0.02)
    assert abs(servo.drift) < 50e-6


@pytest.mark.parametrize(("rate_hz", "n_channels"), [(7_999, 1), (192_001, 1), (48_000, 9)])
def test_what_cannot_be_converted_is_refused(rate_hz: int, n_channels: int) -> None:
    with pytest.raises(SourceRejected):
        FollowingResampler(rate_hz, n_channels, TARGET_S)
