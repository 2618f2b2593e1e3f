"""Flash and beep begin at the same instant of media time."""

import numpy as np
import pytest

from bridge.local_avatar.flash import BEEP_SAMPLES, beep_over, is_flash

RATE_HZ = 24_000


def beeps(n_samples: int, packet: int) -> np.ndarray:
    pcm = np.zeros(n_samples, np.int16)
    for start in range(0, n_samples, packet):
        beep_over(pcm[start : start + packet], start)
    return pcm


@pytest.mark.parametrize("packet", [480, 960, 1000, 30_000])
def test_beeps_begin_with_every_second_but_the_first_for_every_packet_size(packet: int) -> None:
    pcm = beeps(60_000, packet)
    loud = np.flatnonzero(pcm)
    starts = loud[np.flatnonzero(np.diff(loud, prepend=-RATE_HZ) > 1000)]
    # A sine begins at zero: the first sample that is heard is the second one.
    assert starts.tolist() == [RATE_HZ + 1, 2 * RATE_HZ + 1]
    assert loud[-1] < 2 * RATE_HZ + BEEP_SAMPLES


@pytest.mark.parametrize("fps", [24, 25, 30, 60])
def test_flashes_are_the_pictures_at_whole_seconds(fps: int) -> None:
    assert [index / fps for index in range(3 * fps) if is_flash(index, fps)] == [1.0, 2.0]
