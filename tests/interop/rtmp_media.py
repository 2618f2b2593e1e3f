"""Small coded media for publishing: a moving picture in H.264 without B-pictures, and a tone in AAC-LC."""

import heapq
from fractions import Fraction
from functools import cache

import av
import numpy as np

from bridge.media import h264
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_S

FRAME_RATE_HZ = 25
SAMPLE_RATE_HZ = 48_000
SAMPLES_PER_FRAME = 1024


@cache
def units(
    seconds: float, width_px: int = 320, height_px: int = 180, bit_rate: int = 400_000, gop: int = FRAME_RATE_HZ
) -> tuple[AccessUnit, ...]:
    """Interleaved access units that start at 0 ns."""
    video = _video(seconds, width_px, height_px, bit_rate, gop)
    return tuple(heapq.merge(video, _audio(seconds), key=lambda unit: unit.pts_ns))


def _video(seconds: float, width_px: int, height_px: int, bit_rate: int, gop: int) -> list[AccessUnit]:
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width_px, height_px, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, FRAME_RATE_HZ), Fraction(FRAME_RATE_HZ)
    encoder.bit_rate, encoder.gop_size, encoder.thread_count = bit_rate, gop, 1
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "scenecut": "0"}
    noise = np.random.default_rng(1).integers(0, 255, (height_px, width_px, 3), np.uint8)
    found: list[AccessUnit] = []
    for index in range(round(seconds * FRAME_RATE_HZ) + 1):
        packets = []
        if index < round(seconds * FRAME_RATE_HZ):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, index * 3, axis=1), "rgb24")
            frame.pts = index
            packets = encoder.encode(frame)
        else:
            packets = encoder.encode(None)
        for packet in packets:
            nals = list(h264.split_annexb(bytes(packet)))
            parameter_sets = {h264.nal_type(n): n for n in nals if h264.nal_type(n) in (h264.NAL_SPS, h264.NAL_PPS)}
            pictures = [n for n in nals if h264.nal_type(n) in (h264.NAL_SLICE, h264.NAL_IDR)]
            is_keyframe = h264.NAL_SPS in parameter_sets
            config = b""
            if is_keyframe:
                config = h264.decoder_configuration(parameter_sets[h264.NAL_SPS], parameter_sets[h264.NAL_PPS])
            assert packet.pts is not None
            pts_ns = packet.pts * NS_PER_S // FRAME_RATE_HZ
            found.append(
                AccessUnit(Codec.H264, h264.join_avcc(pictures), pts_ns, is_keyframe=is_keyframe, codec_config=config)
            )
    return found


def _audio(seconds: float) -> list[AccessUnit]:
    encoder = av.CodecContext.create("aac", "w")
    encoder.sample_rate, encoder.layout, encoder.format = SAMPLE_RATE_HZ, "stereo", "fltp"
    encoder.bit_rate, encoder.thread_count = 128_000, 1
    found: list[AccessUnit] = []
    n_frames = int(seconds * SAMPLE_RATE_HZ) // SAMPLES_PER_FRAME
    for index in range(n_frames + 1):
        packets = []
        if index < n_frames:
            time_s = (np.arange(SAMPLES_PER_FRAME) + index * SAMPLES_PER_FRAME) / SAMPLE_RATE_HZ
            tone = (0.3 * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(np.stack([tone, tone]), "fltp", "stereo")
            frame.sample_rate, frame.pts = SAMPLE_RATE_HZ, index * SAMPLES_PER_FRAME
            packets = encoder.encode(frame)
        else:
            packets = encoder.encode(None)
        for packet in packets:
            pts_ns = len(found) * SAMPLES_PER_FRAME * NS_PER_S // SAMPLE_RATE_HZ
            duration_ns = SAMPLES_PER_FRAME * NS_PER_S // SAMPLE_RATE_HZ
            config = bytes(encoder.extradata or b"")
            found.append(AccessUnit(Codec.AAC, bytes(packet), pts_ns, duration_ns, codec_config=config))
    return found
