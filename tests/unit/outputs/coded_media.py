"""Real coded sound and pictures for the tests of the outputs: clicks and flashes at known times."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_S, ns_to_ticks, ticks_to_ns
from bridge.media.h264 import (
    NAL_IDR,
    NAL_PPS,
    NAL_SLICE,
    NAL_SPS,
    decoder_configuration,
    join_avcc,
    nal_type,
    parameter_sets,
    split_annexb,
    split_avcc,
)

RATE_HZ = 48_000
FPS = 25
PICTURE_NS = NS_PER_S // FPS
CLICK_SAMPLES = 96  # four periods of 2 kHz
_CLICK = np.sin(2 * np.pi * 2_000 * np.arange(CLICK_SAMPLES) / RATE_HZ)


def clicks(duration_s: float, at_s: Iterable[float]) -> NDArray[np.int16]:
    """Stereo sound, shape (n_samples, 2): silence with a click that starts at each of `at_s`."""
    samples = np.zeros((round(duration_s * RATE_HZ), 2), np.int16)
    for start_s in at_s:
        start = round(start_s * RATE_HZ)
        samples[start : start + CLICK_SAMPLES] = (20_000 * _CLICK)[:, None].astype(np.int16)
    return samples


def click_times_s(samples: NDArray[np.float32], starts_s: float) -> list[float]:
    """Where the clicks of a mono signal start, found by correlation."""
    match = np.abs(np.correlate(samples, _CLICK, "valid"))
    times_s: list[float] = []
    while match.size and (peak := int(np.argmax(match))) >= 0 and match[peak] > 8:
        times_s.append(starts_s + peak / RATE_HZ)
        match[max(0, peak - RATE_HZ // 10) : peak + RATE_HZ // 10] = 0
    return sorted(times_s)


def opus_units(
    samples: NDArray[np.int16],
    *,
    starts_ns: int = 0,
    application: str = "voip",
    n_packet_samples: int = 960,
    layout: str = "stereo",
    bits_per_s: int = 96_000,
    expected_loss_percent: int = 0,
) -> list[AccessUnit]:
    """Opus packets stamped as WebRTC senders stamp them: with the time of the encoder's input.

    expected_loss_percent: above 0 they have in-band FEC.
    """
    encoder = av.AudioCodecContext.create("libopus", "w")
    encoder.sample_rate = RATE_HZ
    encoder.layout = layout
    encoder.format = "s16"
    encoder.bit_rate = bits_per_s
    encoder.options = {"application": application, "frame_duration": str(n_packet_samples * 1000 // RATE_HZ)}
    if expected_loss_percent:
        encoder.options |= {"fec": "1", "packet_loss": str(expected_loss_percent)}
    units: list[AccessUnit] = []
    n_channels = encoder.layout.nb_channels
    for start in range(0, len(samples) - n_packet_samples + 1, n_packet_samples):
        block = samples[start : start + n_packet_samples, :n_channels].reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="s16", layout=layout)
        frame.sample_rate = RATE_HZ
        frame.pts = start
        for packet in encoder.encode(frame):
            pts_ns = starts_ns + ticks_to_ns(len(units) * n_packet_samples, RATE_HZ)
            duration_ns = ticks_to_ns(n_packet_samples, RATE_HZ)
            units.append(AccessUnit(Codec.OPUS, bytes(packet), pts_ns, duration_ns, arrival_ns=1 + pts_ns))
    return units


def without(units: Sequence[AccessUnit], lost: Iterable[int]) -> list[AccessUnit]:
    """The units but those of these numbers; the next one each time knows how much was lost."""
    lost, lost_ns, kept = set(lost), 0, []
    for number, unit in enumerate(units):
        if number in lost:
            lost_ns += unit.duration_ns
        else:
            kept.append(replace(unit, is_discontinuity=lost_ns > 0, lost_ns=lost_ns))
            lost_ns = 0
    return kept


def pictures(
    n_pictures: int,
    *,
    starts_ns: int = 0,
    flash_at: Sequence[int] = (),
    keyframe_every: int = 50,
    width_px: int = 320,
    height_px: int = 240,
    profile: str = "baseline",
    n_references: int = 1,
) -> list[AccessUnit]:
    """H.264 at 25 pictures a second, dark but for the pictures whose numbers are in `flash_at`."""
    encoder = av.VideoCodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width_px, height_px, "yuv420p"
    encoder.time_base = Fraction(1, FPS)
    encoder.framerate = Fraction(FPS, 1)
    encoder.thread_count = 1
    # The fastest preset has none of the tools that make a stream main or high.
    preset = "ultrafast" if profile == "baseline" else "superfast"
    encoder.options = {"preset": preset, "tune": "zerolatency", "g": str(keyframe_every), "profile": profile}
    encoder.options |= {"x264-params": f"ref={n_references}"}
    packets: list[av.Packet] = []
    for number in range(n_pictures):
        luma = np.full((height_px * 3 // 2, width_px), 128, np.uint8)
        luma[:height_px] = 235 if number in flash_at else 20 + number % 8
        frame = av.VideoFrame.from_ndarray(luma, format="yuv420p")
        frame.pts = number
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    return [_picture(packet, starts_ns + number * PICTURE_NS) for number, packet in enumerate(packets)]


def vp8_luma(number: int) -> int:
    """Of picture `number` of `vp8_pictures`, in all of it."""
    return 60 + 10 * (number % 10)


def vp8_pictures(
    n_pictures: int, width_px: int, height_px: int, *, starts_ns: int = 0, keyframe_every: int = 50
) -> list[AccessUnit]:
    """VP8 at 25 pictures a second."""
    encoder = av.VideoCodecContext.create("libvpx", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width_px, height_px, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, FPS), Fraction(FPS)
    encoder.thread_count, encoder.bit_rate, encoder.gop_size = 1, 1_000_000, keyframe_every
    encoder.options = {"deadline": "realtime", "cpu-used": "-12", "lag-in-frames": "0", "auto-alt-ref": "0"}
    units: list[AccessUnit] = []
    for number in range(n_pictures):
        frame = av.VideoFrame(width_px, height_px, "yuv420p")
        for plane, value in zip(frame.planes, (vp8_luma(number), 128, 128), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.pts = number
        for packet in encoder.encode(frame):
            pts_ns = starts_ns + number * PICTURE_NS
            units.append(
                AccessUnit(Codec.VP8, bytes(packet), pts_ns, is_keyframe=packet.is_keyframe, arrival_ns=1 + pts_ns)
            )
    return units


def _picture(packet: av.Packet, pts_ns: int) -> AccessUnit:
    nals = list(split_annexb(bytes(packet)))
    sps = [nal for nal in nals if nal_type(nal) == NAL_SPS]
    pps = [nal for nal in nals if nal_type(nal) == NAL_PPS]
    return AccessUnit(
        Codec.H264,
        join_avcc(nal for nal in nals if nal_type(nal) not in (NAL_SPS, NAL_PPS)),
        pts_ns,
        is_keyframe=packet.is_keyframe,
        codec_config=decoder_configuration(sps[0], pps[0]) if sps else b"",
    )


def with_changing_ids(units: Iterable[AccessUnit]) -> list[AccessUnit]:
    """The same pictures from an encoder that takes new parameter set ids at each keyframe, as OpenH264 can."""
    renumbered: list[AccessUnit] = []
    number = -1
    for unit in units:
        if unit.codec is not Codec.H264:
            renumbered.append(unit)
            continue
        codec_config = unit.codec_config
        if codec_config:
            number += 1
            (sps,), (pps,) = parameter_sets(codec_config)
            codec_config = decoder_configuration(with_sps_id(sps, number), _with_fields(pps, 0, [number, number]))
        payload = join_avcc(_with_pps_id(nal, number) for nal in split_avcc(unit.payload))
        renumbered.append(replace(unit, payload=payload, codec_config=codec_config))
    return renumbered


def with_sps_id(sps: bytes, sps_id: int) -> bytes:
    """H.264 §7.3.2.1.1: profile, constraints and level stand before the id."""
    return _with_fields(sps, 3, [sps_id])


def _with_pps_id(nal: bytes, pps_id: int) -> bytes:
    """§7.3.3: the id follows the first macroblock's number, 0 here, and the type. For CAVLC, which is not aligned."""
    if nal_type(nal) not in (NAL_SLICE, NAL_IDR):
        return nal
    slice_type = f"{nal[1]:08b}"[1:].index("1")
    kind = int(f"{nal[1]:08b}{nal[2]:08b}"[1 + slice_type : 2 + 2 * slice_type], 2) - 1
    return _with_fields(nal, 0, [0, kind, pps_id])


def _with_fields(nal: bytes, n_fixed_bytes: int, values: Sequence[int]) -> bytes:
    """Other Exp-Golomb numbers (§9.1) for the first ones behind a NAL unit's header and so many bytes."""
    start = 1 + n_fixed_bytes
    bits = "".join(f"{byte:08b}" for byte in nal[start:].replace(b"\0\0\3", b"\0\0")).rstrip("0")
    for _ in values:
        n_zeros = bits.index("1")
        bits = bits[2 * n_zeros + 1 :]
    codes = (f"{value + 1:b}" for value in values)
    bits = "".join("0" * (len(code) - 1) + code for code in codes) + bits
    bits += "0" * (-len(bits) % 8)
    rbsp = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return nal[:start] + re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", rbsp)


def decode_aac(units: Iterable[AccessUnit]) -> tuple[NDArray[np.float32], float]:
    """Mono sound with every frame at its pts, and the time of the first sample; frames must join without a gap."""
    placed = list(_decoded_aac(units))
    first_ns = placed[0][0]
    end = max(ns_to_ticks(pts_ns - first_ns, RATE_HZ) + len(sound) for pts_ns, sound in placed)
    samples = np.zeros(end, np.float32)
    for pts_ns, sound in placed:
        start = ns_to_ticks(pts_ns - first_ns, RATE_HZ)
        samples[start : start + len(sound)] = sound
    return samples, first_ns / NS_PER_S


def _decoded_aac(units: Iterable[AccessUnit]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    decoder: av.AudioCodecContext | None = None
    for unit in units:
        if decoder is None:
            decoder = av.AudioCodecContext.create("aac", "r")
            decoder.extradata = unit.codec_config
        # An AAC decoder has no delay: a frame's output belongs to the frame's time.
        for frame in decoder.decode(av.Packet(unit.payload)):
            yield unit.pts_ns, frame.to_ndarray()[0]
