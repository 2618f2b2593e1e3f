"""Encoders as a WebRTC sender runs them."""

import av
import numpy as np
import pytest

from bridge.local_avatar.coding import PACKET_NS, PACKET_SAMPLES, PictureEncoder, Profile, SoundEncoder
from bridge.local_avatar.drawing import Canvas
from bridge.media.h264 import NAL_IDR, NAL_SLICE, nal_type, parameter_sets, parse_sps, split_avcc
from bridge.media.opus import PRE_SKIP_SAMPLES, packet_duration_ns


def noise(seed: int) -> Canvas:
    canvas = Canvas(320, 240)
    canvas.data[...] = np.random.default_rng(seed).integers(60, 180, canvas.data.shape, np.uint8)
    return canvas


@pytest.mark.parametrize(("profile", "profile_idc"), [("baseline", 66), ("main", 77), ("high", 100)])
def test_a_keyframe_brings_its_parameter_sets_in_the_profile_asked_for(profile: Profile, profile_idc: int) -> None:
    payload, config = PictureEncoder(320, 240, 25, profile, 500_000).encode(noise(0), 0, keyframe=True)
    (sps,), (_,) = parameter_sets(config)
    found = parse_sps(sps)
    assert (found.profile_idc, found.width_px, found.height_px) == (profile_idc, 320, 240)
    assert [nal_type(nal) for nal in split_avcc(payload)] == [NAL_IDR]


def test_keyframes_come_only_when_asked_for_even_at_a_change_of_scene() -> None:
    encoder = PictureEncoder(320, 240, 25, "baseline", 500_000)
    kinds = []
    for index in range(300):
        payload, config = encoder.encode(noise(index // 100), index, keyframe=index in (0, 250))
        (nal,) = split_avcc(payload)
        kinds.append((nal_type(nal), bool(config)))
    keyframes = [index for index, kind in enumerate(kinds) if kind == (NAL_IDR, True)]
    assert keyframes == [0, 250]
    assert set(kinds) == {(NAL_IDR, True), (NAL_SLICE, False)}


def test_every_20_ms_of_sound_is_one_packet_of_20_ms() -> None:
    encoder = SoundEncoder()
    for index in range(10):
        assert packet_duration_ns(encoder.encode(np.zeros(PACKET_SAMPLES, np.int16), index)) == PACKET_NS


def test_decoded_sound_lags_its_input_by_the_look_ahead_and_no_more() -> None:
    encoder, decoder = SoundEncoder(), av.AudioCodecContext.create("libopus", "r")
    decoder.sample_rate, decoder.layout = 48_000, "mono"
    onset = 2400
    pcm = np.zeros(24_000, np.int16)
    pcm[onset:] = 12_000 * np.sin(2 * np.pi * 1000 * np.arange(24_000 - onset) / 24_000)
    heard = []
    for index in range(50):
        part = pcm[index * PACKET_SAMPLES : (index + 1) * PACKET_SAMPLES]
        for frame in decoder.decode(av.Packet(encoder.encode(part, index))):
            heard.append(frame.to_ndarray().reshape(-1))
    sound = np.concatenate(heard).astype(float)
    envelope = np.abs(sound)
    first = int(np.argmax(envelope > envelope.max() / 2))
    # Half the amplitude of a 1 kHz sine is passed 4 samples at 48 kHz after its zero.
    assert abs(first - 2 * onset - PRE_SKIP_SAMPLES - 4) <= 48
