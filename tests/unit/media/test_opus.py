from collections.abc import Sequence

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from bridge.media.clock import NS_PER_MS
from bridge.media.opus import SILENCE_20_MS, packet_duration_ns, redundancy_ns
from bridge.samples import SPEECH
from tests.unit.outputs.coded_media import opus_units


def toc(configuration: int, code: int = 0) -> int:
    return configuration << 3 | code


@pytest.mark.parametrize(
    ("configuration", "duration_ms"),
    [
        pytest.param(0, 10, id="SILK narrowband"),
        pytest.param(9, 20, id="SILK wideband"),
        pytest.param(11, 60, id="SILK wideband, longest"),
        pytest.param(12, 10, id="hybrid"),
        pytest.param(15, 20, id="hybrid fullband"),
        pytest.param(16, 2.5, id="CELT narrowband, shortest"),
        pytest.param(31, 20, id="CELT fullband"),
    ],
)
def test_the_first_byte_tells_how_long_a_frame_plays(configuration: int, duration_ms: float) -> None:
    assert packet_duration_ns(bytes([toc(configuration), 1, 2])) == duration_ms * NS_PER_MS


@pytest.mark.parametrize("code", [1, 2])
def test_two_frames_play_twice_as_long(code: int) -> None:
    assert packet_duration_ns(bytes([toc(31, code), 1, 2])) == 40 * NS_PER_MS


def test_a_counted_number_of_frames_is_read_from_the_second_byte() -> None:
    assert packet_duration_ns(bytes([toc(31, 3), 0x80 | 0x40 | 3])) == 60 * NS_PER_MS


def test_a_packet_without_frames_is_the_silence_of_dtx() -> None:
    assert packet_duration_ns(bytes([toc(9)])) == 20 * NS_PER_MS


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"", id="empty"),
        pytest.param(bytes([toc(31, 3)]), id="frame count missing"),
        pytest.param(bytes([toc(31, 3), 0]), id="no frames"),
        pytest.param(bytes([toc(31, 3), 7]), id="more than 120 ms"),
        pytest.param(bytes([toc(11, 3), 3]), id="more than 120 ms of long frames"),
    ],
)
def test_a_packet_that_breaks_the_rules_has_no_duration(packet: bytes) -> None:
    assert packet_duration_ns(packet) == 0


def loud_speech() -> NDArray[np.int16]:
    """The sample at full scale: 48 kHz stereo, shape (n_samples, 2)."""
    resampler = av.AudioResampler("s16", "stereo", 48_000)
    with av.open(str(SPEECH)) as file:
        frames = [part for frame in file.decode(audio=0) for part in resampler.resample(frame)]
    samples = np.concatenate([frame.to_ndarray().reshape(-1, 2) for frame in frames]).astype(np.float64)
    return (samples * (32_000 / np.abs(samples).max())).astype(np.int16)


def decoded(packets: Sequence[bytes]) -> NDArray[np.int32]:
    """What libopus makes of them, the left channel, packet by packet: shape (n_packets, 960)."""
    decoder = av.AudioCodecContext.create("libopus", "r")
    decoder.sample_rate, decoder.layout = 48_000, "stereo"
    sound = [decoder.decode(av.Packet(packet))[0].to_ndarray().reshape(-1, 2)[:, 0] for packet in packets]
    return np.array(sound, np.int32)


@pytest.mark.parametrize("application", ["voip", "audio"])
def test_a_decoder_fades_by_itself_from_loud_speech_to_the_constant_silence_and_back(application: str) -> None:
    """The overlap of CELT's windows does it, and libopus' own fade between its modes."""
    speech = [unit.payload for unit in opus_units(loud_speech(), application=application, bits_per_s=64_000)]
    whole = decoded(speech)
    largest_step = np.abs(np.diff(whole.ravel())).max()
    # Cut where the decoder has to come down from highest: behind the packets whose last sample is the loudest.
    cuts = [cut for cut in np.argsort(-np.abs(whole[:, -1]))[:20] if 10 < cut < len(speech) - 15]
    assert min(abs(whole[cut, -1]) for cut in cuts) > 10_000

    for cut in cuts:
        before, silence, after = speech[cut - 9 : cut + 1], [SILENCE_20_MS] * 10, speech[cut + 11 : cut + 15]
        sound = decoded([*before, *silence, *after])
        to_silence, back = sound[9:12].ravel()[959:], sound[19:21].ravel()[959:]
        assert np.abs(np.diff(to_silence)).max() <= largest_step
        assert np.abs(np.diff(back)).max() <= largest_step
        # It is silent after a third of the first packet.
        assert not sound[10, 320:].any() and not sound[11:20].any()


# Configuration 9: SILK, one frame of 20 ms, whose voice activity flag comes first.
@pytest.mark.parametrize(
    ("packet", "restores_ms"),
    [
        pytest.param(bytes([toc(9), 0x40]), 20, id="flag behind one SILK frame's"),
        pytest.param(bytes([toc(9), 0xBF]), 0, id="every bit but the flag"),
        pytest.param(bytes([toc(8), 0x40]), 10, id="10 ms"),
        pytest.param(bytes([toc(11), 0x10]), 60, id="60 ms: the flag is behind three SILK frames'"),
        pytest.param(bytes([toc(11), 0xEF]), 0, id="60 ms without"),
        pytest.param(bytes([toc(9) | 4, 0x10]), 20, id="of the second channel"),
        pytest.param(bytes([toc(13), 0x40]), 20, id="hybrid"),
        pytest.param(bytes([toc(17), 0x40]), 0, id="CELT has none"),
        pytest.param(bytes([toc(9, 1), 0x40, 0x00]), 20, id="two frames: the first one's"),
        pytest.param(bytes([toc(9, 2), 1, 0x40, 0x00]), 20, id="two frames of different lengths"),
        pytest.param(bytes([toc(9, 2), 0, 0x40]), 0, id="an empty first frame"),
        pytest.param(bytes([toc(9, 3), 0x40 | 1, 2, 0x40, 0, 0]), 20, id="padding"),
        pytest.param(bytes([toc(9, 3), 0x40 | 1, 1, 0x40]), 0, id="padding only"),
        pytest.param(bytes([toc(9, 3), 0x80 | 2, 1, 0x40, 0]), 20, id="counted frames of different lengths"),
        pytest.param(bytes([toc(9)]), 0, id="nothing sent (DTX)"),
        pytest.param(bytes([toc(9, 3), 7]), 0, id="more than 120 ms"),
        pytest.param(b"", 0, id="empty"),
    ],
)
def test_a_flag_tells_how_much_of_the_sound_before_a_packet_restores(packet: bytes, restores_ms: int) -> None:
    assert redundancy_ns(packet) == restores_ms * NS_PER_MS
