import numpy as np
import pytest

from bridge.media.clock import OPUS_CLOCK_HZ
from bridge.media.opus import PRE_SKIP_SAMPLES, packet_duration_ns
from bridge.media.opus_encoder import FRAME_SAMPLES, OpusEncoder
from bridge.media.opus_sound import open_decoder
from tests.unit.media.speech import speech


@pytest.mark.parametrize("bit_rate", [32_000, 128_000, 320_000])
def test_speech_comes_back_as_late_as_that_of_webrtc_senders_at_about_its_bit_rate(bit_rate: int) -> None:
    sound = (speech(2.0).T / np.float32(32_768)).astype(np.float32)
    encoder, decoder = OpusEncoder(bit_rate), open_decoder()
    packets = [
        encoder.encode(sound[:, start : start + FRAME_SAMPLES])
        for start in range(0, sound.shape[1] - FRAME_SAMPLES + 1, FRAME_SAMPLES)
    ]
    assert {packet_duration_ns(packet) for packet in packets} == {20_000_000}
    assert 8 * sum(map(len, packets)) / 2.0 == pytest.approx(bit_rate, rel=0.25)
    heard = np.concatenate([decoder.decode(packet) for packet in packets], axis=1)[:, PRE_SKIP_SAMPLES:]
    error = heard - sound[:, : heard.shape[1]]
    assert 10 * np.log10(np.mean(sound**2) / np.mean(error[:, :OPUS_CLOCK_HZ] ** 2)) > (3 if bit_rate < 64_000 else 15)
