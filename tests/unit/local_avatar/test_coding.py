"""Encoders as a WebRTC sender runs them."""

import struct

import av
import numpy as np
import pytest
from av.video.frame import PictureType

from bridge.local_avatar.coding import (
    PACKET_NS,
    PACKET_SAMPLES,
    CodedPicture,
    H264Encoder,
    PictureEncoder,
    Profile,
    SoundEncoder,
    Vp8Encoder,
)
from bridge.local_avatar.drawing import Canvas
from bridge.media.h264 import NAL_IDR, NAL_SLICE, avcc_to_annexb, nal_type, parameter_sets, parse_sps, split_avcc
from bridge.media.opus import PRE_SKIP_SAMPLES, packet_duration_ns


def noise(seed: int) -> Canvas:
    canvas = Canvas(320, 240)
    canvas.data[...] = np.random.default_rng(seed).integers(60, 180, canvas.data.shape, np.uint8)
    return canvas


def decoded(codec: str, pictures: list[CodedPicture]) -> list[av.VideoFrame]:
    decoder = av.VideoCodecContext.create(codec, "r")
    decoder.thread_count = 1
    data = [
        avcc_to_annexb(picture.payload, picture.codec_config) if codec == "h264" else picture.payload
        for picture in pictures
    ]
    return [frame for packet in [*map(av.Packet, data), None] for frame in decoder.decode(packet)]


def moving(index: int) -> Canvas:
    """A bright bar that wanders over a slope."""
    canvas = Canvas(320, 240)
    canvas.data[...] = 128
    canvas.luma[...] = np.linspace(40, 160, 320, dtype=np.uint8)
    canvas.luma[:, 4 * index : 4 * index + 24] = 220
    return canvas


def encoder_of(codec: str) -> PictureEncoder:
    return Vp8Encoder(320, 240, 25, 500_000) if codec == "vp8" else H264Encoder(320, 240, 25, "baseline", 500_000)


@pytest.mark.parametrize(("profile", "profile_idc"), [("baseline", 66), ("main", 77), ("high", 100)])
def test_a_keyframe_brings_its_parameter_sets_in_the_profile_asked_for(profile: Profile, profile_idc: int) -> None:
    picture = H264Encoder(320, 240, 25, profile, 500_000).encode(noise(0), 0, keyframe=True)
    (sps,), (_,) = parameter_sets(picture.codec_config)
    found = parse_sps(sps)
    assert (found.profile_idc, found.width_px, found.height_px) == (profile_idc, 320, 240)
    assert [nal_type(nal) for nal in split_avcc(picture.payload)] == [NAL_IDR]


@pytest.mark.parametrize("profile", ["baseline", "main", "high"])
def test_no_picture_refers_to_a_later_one(profile: Profile) -> None:
    encoder = H264Encoder(320, 240, 25, profile, 500_000)
    frames = decoded("h264", [encoder.encode(moving(index), index, keyframe=False) for index in range(50)])
    assert [PictureType(frame.pict_type).name for frame in frames] == ["I"] + ["P"] * 49


@pytest.mark.parametrize("codec", ["h264", "vp8"])
def test_keyframes_come_only_when_asked_for_even_at_a_change_of_scene(codec: str) -> None:
    encoder = encoder_of(codec)
    pictures = [encoder.encode(noise(index // 100), index, keyframe=index == 250) for index in range(300)]
    assert [index for index, picture in enumerate(pictures) if picture.is_keyframe] == [0, 250]


def test_only_keyframes_are_instantaneous_refreshes_with_parameter_sets() -> None:
    encoder = H264Encoder(320, 240, 25, "baseline", 500_000)
    pictures = [encoder.encode(noise(0), index, keyframe=index == 5) for index in range(10)]
    for picture in pictures:
        (nal,) = split_avcc(picture.payload)
        assert nal_type(nal) == (NAL_IDR if picture.is_keyframe else NAL_SLICE)
        assert bool(picture.codec_config) == picture.is_keyframe


def test_vp8_says_of_itself_which_pictures_are_keyframes_and_of_what_size() -> None:
    encoder = Vp8Encoder(320, 240, 25, 500_000)
    for index in range(10):
        picture = encoder.encode(noise(0), index, keyframe=index == 5)
        # RFC 6386 §9.1: the lowest bit of the first byte is 0 in keyframes, which hold a start code and their size.
        assert picture.is_keyframe == (not picture.payload[0] & 1) == (index in (0, 5))
        if picture.is_keyframe:
            assert picture.payload[3:6] == b"\x9d\x01\x2a"
            assert struct.unpack("<HH", picture.payload[6:10]) == (320, 240)


@pytest.mark.parametrize("codec", ["h264", "vp8"])
def test_what_was_coded_is_decoded_from_each_keyframe_on(codec: str) -> None:
    encoder = encoder_of(codec)
    pictures = [encoder.encode(moving(index), index, keyframe=index == 15) for index in range(30)]
    for first in (0, 15):
        frames = decoded(codec, pictures[first:])
        assert len(frames) == 30 - first
        for index, frame in enumerate(frames, first):
            assert np.abs(frame.to_ndarray().astype(int) - moving(index).data).mean() < 6


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
