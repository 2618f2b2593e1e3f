import numpy as np
import pytest

from bridge.dsp.chain import SpeechChain
from bridge.errors import SourceRejected
from bridge.media.audio import AudioBlock


def block(rate_hz: int, n_samples: int, n_channels: int = 1, value: int = 10_000) -> AudioBlock:
    return AudioBlock(np.full((n_samples, n_channels), value, np.int16), rate_hz, 0)


def test_every_block_becomes_24_khz_mono() -> None:
    chain = SpeechChain()
    pcm = np.concatenate([chain.push(block(48_000, 960, 2)) for _ in range(50)] + [chain.flush()])
    assert pcm.dtype == np.int16
    assert pcm.shape == (24_000,)
    assert pcm[12_000] == 10_000


@pytest.mark.parametrize(("rate_hz", "n_channels"), [(16_000, 1), (48_000, 2)])
def test_change_of_format_loses_no_sound(rate_hz: int, n_channels: int) -> None:
    chain = SpeechChain()
    before = chain.push(block(48_000, 48_000))
    after = chain.push(block(rate_hz, rate_hz, n_channels))
    assert len(before) + len(after) + len(chain.flush()) == 48_000


def test_format_that_cannot_be_converted_is_refused() -> None:
    with pytest.raises(SourceRejected, match="4000 Hz"):
        SpeechChain().push(block(4_000, 100))


def test_flush_before_any_sound_gives_none() -> None:
    assert len(SpeechChain().flush()) == 0
