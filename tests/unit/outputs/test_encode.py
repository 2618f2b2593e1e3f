"""Encoding: real pictures in, real pictures out, decoded again."""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from structlog.testing import capture_logs

from bridge.media.access_unit import AccessUnit, CaptureTime, Codec
from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.media.h264 import NAL_FILLER, nal_type, parameter_sets, parse_sps, split_avcc
from bridge.outputs.encode import INBOX_NS, OVERDUE_NS, REPEAT_BEHIND_NS, Transcoding
from bridge.outputs.encoder import PictureEncoder, Rendition
from bridge.outputs.overlay import OverlaySettings
from bridge.outputs.picture_decoder import open_decoder
from tests.unit.outputs.coded_media import FPS, PICTURE_NS, pictures, vp8_luma, vp8_pictures
from tests.unit.outputs.fakes import opus

SMALL = Rendition(width_px=160, height_px=96, fps=30, bit_rate=200_000, keyframe_s=0.5)


class Run:
    """A transcoding, and what came of it."""

    def __init__(self, rendition: Rendition = SMALL, **options: object) -> None:
        self.units: list[AccessUnit] = []
        self.dropped: Counter[str] = Counter()
        self.keyframe_requests = 0
        self.now_ns = 0
        self.transcoding = Transcoding(
            rendition,
            self.units.append,
            on_dropped=self._drop,
            request_keyframe=self._request,
            now_ns=lambda: self.now_ns,
            **options,  # type: ignore[arg-type]
        )

    async def of(self, units: Iterable[AccessUnit]) -> list[AccessUnit]:
        for unit in units:
            self.transcoding.put(unit)
        self.transcoding.finish()
        await self.transcoding.run()
        return self.units

    def _drop(self, reason: str, n: int) -> None:
        self.dropped[reason] += n

    def _request(self) -> None:
        self.keyframe_requests += 1


def frames(units: Sequence[AccessUnit]) -> list[av.VideoFrame]:
    decoder = open_decoder(units[0])
    shown = [frame for unit in units for frame in decoder.decode(av.Packet(unit.payload))]
    assert not any(frame.is_corrupt for frame in shown)
    return shown


def lumas(units: Sequence[AccessUnit]) -> list[float]:
    return [float(frame.to_ndarray(format="yuv420p")[: frame.height].mean()) for frame in frames(units)]


@pytest.mark.parametrize("keyframe_s", [0.5, 1.0])
async def test_pictures_come_at_a_constant_rate_with_closed_groups_of_exactly_one_length(keyframe_s: float) -> None:
    rendition = replace(SMALL, keyframe_s=keyframe_s)
    units = await Run(rendition).of(pictures(4 * FPS, starts_ns=5))
    assert [unit.pts_ns for unit in units] == [5 + n * NS_PER_S // 30 for n in range(len(units))]
    assert len(units) in (119, 120)
    keyframes = [unit.pts_ns for unit in units if unit.is_keyframe]
    assert keyframes == [5 + round(n * keyframe_s * 1e9) for n in range(round(4 / keyframe_s))]
    assert all(bool(unit.codec_config) == unit.is_keyframe for unit in units)
    # Each group decodes alone, and nothing is shown out of order.
    for first in (n for n, unit in enumerate(units) if unit.is_keyframe):
        assert len(frames(units[first : first + rendition.group_pictures])) == min(
            rendition.group_pictures, len(units) - first
        )


async def test_format_is_the_renditions_whatever_comes() -> None:
    source = [
        *pictures(FPS, width_px=320, height_px=240),
        *pictures(FPS, width_px=96, height_px=160, starts_ns=FPS * PICTURE_NS, profile="high"),
        *vp8_pictures(FPS, 181, 321, starts_ns=2 * FPS * PICTURE_NS),
    ]
    units = await Run(replace(SMALL, profile="baseline")).of(source)
    shown = frames(units)
    assert len(shown) == len(units) in (89, 90)
    assert {(frame.width, frame.height) for frame in shown} == {(160, 96)}
    (config,) = {unit.codec_config for unit in units if unit.codec_config}
    (sps,), _ = parameter_sets(config)
    assert parse_sps(sps).profile_idc == 66 and sps[2] & 0x40  # constrained: H.264 §A.2.1.1


async def test_vp8_shows_what_it_showed() -> None:
    units = await Run(replace(SMALL, fps=25)).of(vp8_pictures(20, 160, 96))
    assert lumas(units) == pytest.approx([vp8_luma(number) for number in range(20)], abs=3)


async def test_filler_makes_up_for_pictures_that_need_fewer_bits() -> None:
    still = [replace(unit, payload=unit.payload) for unit in pictures(6 * FPS, width_px=160, height_px=96)]
    constant = await Run(replace(SMALL, keyframe_s=2.0)).of(still)
    varying = await Run(replace(SMALL, keyframe_s=2.0, is_constant=False)).of(still)
    assert any(nal_type(nal) == NAL_FILLER for unit in constant for nal in split_avcc(unit.payload))
    assert not any(nal_type(nal) == NAL_FILLER for unit in varying for nal in split_avcc(unit.payload))
    for start in range(30, len(constant) - 60, 10):
        window = 8 * sum(len(unit.payload) for unit in constant[start : start + 60])
        assert window == pytest.approx(2 * SMALL.bit_rate, rel=0.05)
    assert 8 * sum(len(unit.payload) for unit in varying) < SMALL.bit_rate * 3


def test_cuts_between_keyframes_leave_the_bit_rate_within_five_percent_over_any_two_seconds() -> None:
    rendition = replace(SMALL, width_px=192, height_px=112, bit_rate=300_000, keyframe_s=2.0)
    encoder = PictureEncoder(rendition, matrix=1)
    shown = scenes(330, rendition.width_px, rendition.height_px, cuts=(138, 147, 198, 207, 318, 327))
    n_bits = [8 * len(encoder.encode(frame, number).payload) for number, frame in enumerate(shown)]
    # The buffer is full after two seconds.
    for start in range(60, len(n_bits) - 60):
        assert sum(n_bits[start : start + 60]) == pytest.approx(2 * rendition.bit_rate, rel=0.05)


def scenes(n: int, width_px: int, height_px: int, cuts: Collection[int]) -> Iterator[av.VideoFrame]:
    """Pictures of blocks that wander under noise; from each cut on they are others."""
    random = np.random.default_rng(1)
    for number in range(n):
        if number == 0 or number in cuts:
            tiles = random.integers(30, 220, (height_px // 8, width_px // 8)).repeat(8, 0).repeat(8, 1)
        planes = np.full((height_px * 3 // 2, width_px), 128, np.uint8)
        planes[:height_px] = np.clip(np.roll(tiles, 2 * number, 1) + random.normal(0, 3, tiles.shape), 0, 255)
        yield av.VideoFrame.from_ndarray(planes, format="yuv420p")


@pytest.mark.parametrize("rate", [1, 120])
async def test_sources_of_any_rate_become_the_rate_that_is_wanted(rate: int) -> None:
    times_ns = [n * NS_PER_S // rate for n in range(2 * rate)]
    source = [
        replace(unit, pts_ns=pts_ns)
        for unit, pts_ns in zip(pictures(len(times_ns), width_px=160, height_px=96), times_ns, strict=True)
    ]
    units = await Run().of(source)
    assert [unit.pts_ns for unit in units] == [n * NS_PER_S // 30 for n in range(len(units))]
    assert len(units) >= 31


@pytest.mark.parametrize("size_px", [(1, 1), (3, 1), (1, 719), (181, 321), (4096, 2)])
async def test_pictures_of_any_size_are_shown(size_px: tuple[int, int]) -> None:
    units = await Run(replace(SMALL, fps=25)).of(vp8_pictures(10, *size_px))
    shown = frames(units)
    assert len(shown) == 10 and {(frame.width, frame.height) for frame in shown} == {(160, 96)}
    # Its last rows or columns may be all that there is, between bars.
    levels = [int(frame.to_ndarray(format="yuv420p")[:96].max()) for frame in shown]
    assert levels == pytest.approx([vp8_luma(number) for number in range(10)], abs=6)


async def test_where_pictures_pause_the_last_one_is_shown_again_behind_the_sound() -> None:
    sound = [opus(pts_ms) for pts_ms in range(0, 2000, 20)]
    units = await Run().of([pictures(1, width_px=160, height_px=96)[0], *sound])
    assert 0 <= 1980 * NS_PER_MS - REPEAT_BEHIND_NS - units[-1].pts_ns < 34 * NS_PER_MS
    assert len(frames(units)) == len(units)
    assert [unit.is_keyframe for unit in units].count(True) == 4


async def test_latency_and_capture_are_those_of_the_picture_that_is_shown_and_repeats_have_none() -> None:
    captured = CaptureTime(3, "capture")
    source = [replace(unit, arrival_ns=7 + n, captured=captured) for n, unit in enumerate(pictures(10))]
    units = await Run().of(source)
    assert [unit.arrival_ns for unit in units if unit.arrival_ns] == [7 + n for n in range(10)]
    assert {unit.captured for unit in units if unit.arrival_ns} == {captured}
    assert len([unit for unit in units if not unit.arrival_ns]) == len(units) - 10 > 0


@pytest.mark.parametrize("codec", [Codec.H264, Codec.VP8])
async def test_what_cannot_be_decoded_is_not_shown_nor_what_refers_to_it(codec: Codec) -> None:
    make = {Codec.H264: pictures(40, keyframe_every=20), Codec.VP8: vp8_pictures(40, 160, 96, keyframe_every=20)}
    source = make[codec]
    source[5] = replace(source[5], payload=b"\0\0\0\4\x41\xff\xff\xff" if codec is Codec.H264 else b"\1")
    run = Run(replace(SMALL, fps=25))
    units = await run.of(source)
    assert len(units) == 40 and len(frames(units)) == 40
    assert run.dropped["undecodable"] == 15 and run.keyframe_requests > 0
    levels = lumas(units)
    assert max(levels[5:20]) - min(levels[5:20]) < 2, "the last good one stands"
    assert len(set(map(round, levels[20:]))) > 4


async def test_nothing_is_shown_before_a_keyframe_and_noise_breaks_nothing() -> None:
    noise = np.random.default_rng(1)
    source = [
        AccessUnit(codec, noise.bytes(200), n * PICTURE_NS, is_keyframe=n % 3 == 1, codec_config=noise.bytes(20))
        for n, codec in enumerate([Codec.VP8, Codec.H264] * 20)
    ]
    run = Run()
    assert await run.of([*source, *pictures(3, starts_ns=40 * PICTURE_NS)])
    assert run.dropped["undecodable"] >= 39


async def test_encoding_begins_between_two_keyframes_with_what_was_on_air_since_the_last() -> None:
    source = vp8_pictures(20, 160, 96)
    units = await Run(replace(SMALL, fps=25), group=source[:10]).of(source[10:])
    assert units[0].is_keyframe and units[0].pts_ns == source[10].pts_ns
    assert lumas(units) == pytest.approx([vp8_luma(number) for number in range(10, 20)], abs=3)


async def test_pictures_that_wait_too_long_are_left_out_for_newer_ones() -> None:
    run = Run(replace(SMALL, fps=25, keyframe_s=4.0))
    source = pictures(100)
    for n, unit in enumerate(source):
        run.now_ns = n * PICTURE_NS
        run.transcoding.put(unit)  # nobody encodes meanwhile
        if run.now_ns > OVERDUE_NS + PICTURE_NS and n < 40:
            assert run.dropped["overload"] > 0
        if n == 40:
            break
    assert run.dropped["overload"] == pytest.approx(40 - OVERDUE_NS / PICTURE_NS, abs=2)
    units = await run.of(())
    assert len(units) == 41 - run.dropped["overload"] and units[-1].pts_ns == 40 * PICTURE_NS
    assert len(frames(units)) == len(units)
    assert run.keyframe_requests == 0


async def test_keyframes_keep_their_places_when_others_are_left_out() -> None:
    run = Run(replace(SMALL, fps=25, keyframe_s=0.4))
    for n, unit in enumerate(pictures(30)):
        run.now_ns = n * PICTURE_NS  # nobody encodes meanwhile
        run.transcoding.put(unit)
    units = await run.of(())
    numbers = [unit.pts_ns // PICTURE_NS for unit in units]
    keyframes = [number for number, unit in zip(numbers, units, strict=True) if unit.is_keyframe]
    assert keyframes == [0, 10, 20] and numbers[-3:] == [27, 28, 29] and len(numbers) < 8


async def test_what_has_waited_for_seconds_is_forgotten_up_to_the_next_keyframe() -> None:
    run = Run(replace(SMALL, fps=25))
    source = pictures(75, keyframe_every=70)
    for n, unit in enumerate(source):
        run.now_ns = n * PICTURE_NS
        run.transcoding.put(unit)
        if run.now_ns > INBOX_NS and n < 70:
            assert run.keyframe_requests > 0
    units = await run.of(())
    assert [unit.pts_ns for unit in units][-1] == source[-1].pts_ns
    assert units[0].pts_ns >= source[70].pts_ns and len(frames(units)) == len(units)


async def test_an_overlay_is_painted_on_every_picture_once_and_not_on_what_others_refer_to() -> None:
    rendition = replace(SMALL, width_px=640, height_px=360, bit_rate=2_000_000)
    overlay = OverlaySettings(text="Live from here", text_corner="top-left", captions=True)
    source = pictures(2, width_px=640, height_px=360)
    sound = [opus(pts_ms) for pts_ms in range(0, 1000, 20)]
    plain = frames(await Run(rendition).of([*source, *sound]))
    run = Run(replace(rendition, overlay=overlay))
    run.transcoding.show_caption("Good morning.")
    painted = [frame.to_ndarray(format="gray").astype(int) for frame in frames(await run.of([*source, *sound]))]
    assert len(plain) == len(painted) > 15
    changed = [np.abs(a.to_ndarray(format="gray") - b) > 30 for a, b in zip(plain, painted, strict=True)]
    assert all(each[:60].sum() > 20 for each in changed), "the line above"
    assert any(each[280:].sum() > 20 for each in changed), "the caption below"
    assert not any(each[150:200].any() for each in changed)
    shades = [float(each[16:38, 20:60].mean()) for each in painted]
    assert max(shades) - min(shades) < 6, "it is not painted on itself"


async def test_an_overlay_whose_file_is_gone_is_left_out(tmp_path: Path) -> None:
    overlay = OverlaySettings(logo_file=tmp_path / "gone.png")
    with capture_logs() as logs:
        assert await Run(replace(SMALL, overlay=overlay)).of(pictures(3))
    assert [entry["event"] for entry in logs] == ["overlay_lost"]


async def test_a_run_that_is_cancelled_ends() -> None:
    run = Run()
    running = asyncio.create_task(run.transcoding.run())
    run.transcoding.put(pictures(1)[0])
    async with asyncio.timeout(5):
        while not run.units:  # noqa: ASYNC110  the thread tells the loop
            await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
