import numpy as np

from bridge.media.audio import AudioBlock


def test_duration_counts_samples_and_not_channels() -> None:
    assert AudioBlock(np.zeros((480, 2), np.int16), 48_000, 0).duration_s == 0.01
