"""Which pictures outputs get as what is on air changes, through the hub, with real encoders."""

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS
from bridge.media.picture_format import PictureSize, stream_format
from bridge.media.slate_pictures import SlatePictures
from bridge.outputs import encode
from bridge.outputs.choice import PictureWants
from bridge.outputs.hub import Hub
from bridge.presets import find_preset
from tests.unit.outputs.coded_media import FPS, PICTURE_NS, pictures, vp8_pictures
from tests.unit.outputs.fakes import Rig, opus, publish, settle
from tests.unit.stage import until

SIZE = {"width_px": 160, "height_px": 96}
SQUARE = PictureSize(64, 64)
TURNED = {"width_px": 96, "height_px": 160}
RTMP = PictureWants(needs_one_size=True, longest_group_s=1.0, keyframe_s=0.4, fps=None)


class Air:
    """A hub with outputs that want pictures in some way, and what is on air."""

    def __init__(self, *wants: PictureWants) -> None:
        self.rigs = [Rig(publish, name=f"out{n}", wants=each) for n, each in enumerate(wants)]
        self.slate: SlatePictures | None = None
        self.hub = Hub([rig.runner for rig in self.rigs], slate=lambda: self.slate)
        self.now_ns = 0

    @asynccontextmanager
    async def on(self) -> AsyncIterator["Air"]:
        running = asyncio.create_task(self.hub.run())
        await settle()
        yield self
        self.hub.finish()
        async with asyncio.timeout(10):
            await running

    async def show(self, units: Iterable[AccessUnit], *, live: bool = True) -> None:
        """Pictures of a session, one after the other, as fast as all is encoded."""
        for unit in units:
            unit = replace(unit, pts_ns=self.now_ns, arrival_ns=1 + self.now_ns if live else 0)
            self.now_ns += PICTURE_NS
            self.hub.put(unit)
            await asyncio.sleep(0.004)

    def modes(self, output: int = 0) -> list[str]:
        """Of one output, in turn, what was said of it."""
        said = [f"{status.mode} {status.mode_reason}" for status in self.rigs[output].changes if status.mode]
        return [mode for before, mode in zip(["", *said], said, strict=False) if mode != before]

    def sizes(self, output: int = 0) -> list[tuple[int, int]]:
        """Of one output, those of its keyframes, each change once. All that it got grows in time and can be decoded."""
        written = self.rigs[output].written
        times_ns = [unit.pts_ns for unit in written]
        assert times_ns == sorted(set(times_ns)) and written[0].is_keyframe
        assert {unit.codec for unit in written} == {Codec.H264}
        found = [tuple(stream_format(unit).size) for unit in written if unit.is_keyframe]
        return [size for before, size in zip([(0, 0), *found], found, strict=False) if size != before]


async def test_what_can_be_copied_is_copied_as_it_is() -> None:
    air = Air(RTMP, PictureWants())
    source = pictures(20, **SIZE)
    async with air.on():
        await air.show(source)
    assert [unit.payload for unit in air.rigs[0].written] == [unit.payload for unit in source]
    assert air.modes() == ["copy as_received"]


async def test_an_output_goes_to_encoding_and_back_when_the_size_changes() -> None:
    air = Air(RTMP, PictureWants())
    async with air.on():
        await air.show(pictures(20, **SIZE))
        await air.show(pictures(20, **TURNED))
        await air.show(pictures(20, **SIZE))
    assert air.modes() == ["copy as_received", "encode size", "copy as_received"]
    assert air.sizes() == [(160, 96)]
    assert {stream_format(unit).profile_idc for unit in air.rigs[0].written if unit.is_keyframe} == {66}
    assert air.modes(1) == ["copy as_received"] and air.sizes(1) == [(160, 96), (96, 160), (160, 96)]


async def test_vp8_is_encoded_for_those_who_may_and_the_slate_for_who_only_copies() -> None:
    air = Air(RTMP, PictureWants(video="copy"))
    slate = pictures(4, **SIZE, keyframe_every=2)
    payloads = tuple(unit.payload for unit in slate)
    air.slate = SlatePictures(slate[0].codec_config, payloads, 40 * NS_PER_MS, frozenset({0, 2}))
    async with air.on():
        await air.show(pictures(10, **SIZE))
        with capture_logs() as logs:
            await air.show(vp8_pictures(30, 160, 96, keyframe_every=15))
        await air.show(pictures(10, **SIZE))
    assert air.modes() == ["copy as_received", "encode codec", "copy as_received"]
    assert air.modes(1) == ["copy configured", "slate codec", "copy configured"]
    assert air.sizes() == air.sizes(1) == [(160, 96)]
    slated = [unit for unit in air.rigs[1].written if 10 * PICTURE_NS <= unit.pts_ns < 40 * PICTURE_NS]
    assert [unit.payload for unit in slated] == [payloads[n % 4] for n in range(30)]
    assert [entry["log_level"] for entry in logs if entry["event"] == "output_mode"] == ["info", "warning"]


async def test_who_only_copies_waits_for_the_slate() -> None:
    air = Air(PictureWants(video="copy"))
    async with air.on():
        await air.show(vp8_pictures(5, 160, 96))
        assert not air.rigs[0].written
        air.slate = SlatePictures(b"config", (b"idr", b"p"), 40 * NS_PER_MS)
        await air.show(vp8_pictures(5, 160, 96))
    assert [unit.payload for unit in air.rigs[0].written] == [b"idr", b"p", b"idr", b"p", b"idr"]


async def test_one_encoder_serves_all_who_want_the_same_and_ends_with_the_last() -> None:
    small = PictureWants(video="encode", size=SQUARE, keyframe_s=0.4)
    large = replace(small, size=PictureSize(96, 64))
    air = Air(small, small, large)
    async with air.on():
        await air.show(pictures(20, **SIZE))
        assert {name for name in thread_names() if name.startswith("encode")} == {"encode 64x64", "encode 96x64"}
        await air.hub.stop("out2")
        await until(lambda: not [name for name in thread_names() if name == "encode 96x64"])
        await air.show(pictures(10, **SIZE))
    first, second = (rig.written for rig in air.rigs[:2])
    assert len(first) == len(second) and all(a is b for a, b in zip(first, second, strict=True))
    await until(lambda: not [name for name in thread_names() if name.startswith("encode")])


def thread_names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


async def test_keyframes_that_do_not_come_are_made_until_they_come() -> None:
    air = Air(RTMP)
    async with air.on():
        await air.show(pictures(60, **SIZE, keyframe_every=60))
        assert air.modes() == ["copy as_received", "encode keyframes"]
        await air.show(pictures(60, **SIZE, keyframe_every=20))
    assert air.modes() == ["copy as_received", "encode keyframes", "copy as_received"]
    keyframes = [unit.pts_ns for unit in air.rigs[0].written if unit.is_keyframe]
    assert max(b - a for a, b in itertools.pairwise(keyframes)) < 60 * PICTURE_NS


async def test_the_avatar_s_keyframes_are_needed_for_copies_and_to_copy_again_and_not_for_what_is_encoded() -> None:
    air = Air(PictureWants(video="encode", size=SQUARE))
    assert air.hub.keyframe_s == 2.0
    async with air.on():
        await air.show(pictures(2, **SIZE))
        assert air.hub.keyframe_s is None
    air = Air(RTMP)
    async with air.on():
        await air.show(pictures(60, **SIZE, keyframe_every=60))
        assert air.modes()[-1] == "encode keyframes" and air.hub.keyframe_s == 2.0
        await air.show(pictures(2, **TURNED))
        assert air.modes()[-1] == "encode size" and air.hub.keyframe_s is None
        await air.show(pictures(2, **SIZE))
        assert air.hub.keyframe_s == 2.0


async def test_slates_go_through_the_encoder_as_live_does() -> None:
    air = Air(PictureWants(video="encode", size=SQUARE, keyframe_s=0.4))
    async with air.on():
        await air.show(pictures(10, **SIZE), live=False)
        await air.show(vp8_pictures(10, 160, 96))
        await air.show(pictures(10, **TURNED), live=False)
    assert air.sizes() == [(64, 64)]
    assert len(air.rigs[0].written) >= 34


async def test_the_size_of_an_output_is_that_of_the_first_live_pictures_not_of_the_slate_before() -> None:
    air = Air(RTMP)
    async with air.on():
        await air.show(pictures(10, **TURNED), live=False)
        await air.show(pictures(10, **SIZE))
    assert air.modes() == ["copy as_received"] and air.sizes() == [(96, 160), (160, 96)]


async def test_a_size_that_changes_every_second_never_reaches_viewers() -> None:
    air = Air(RTMP)
    async with air.on():
        await air.show(pictures(FPS, **SIZE))
        for n in range(1, 5):
            await air.show(pictures(FPS, width_px=64 + 32 * n, height_px=96))
    assert air.sizes() == [(160, 96)]
    assert air.modes()[:2] == ["copy as_received", "encode size"]


async def test_pictures_too_large_to_be_decoded_are_copied() -> None:
    air = Air(PictureWants(video="encode"))
    (huge,) = pictures(1, width_px=7680, height_px=4320)
    async with air.on():
        await air.show([huge, replace(huge, is_keyframe=False, codec_config=b"")])
    assert air.modes() == ["copy too_large"] and len(air.rigs[0].written) == 2


async def test_an_output_that_starts_between_keyframes_has_pictures_at_once_where_it_encodes() -> None:
    air = Air(PictureWants(), PictureWants(video="encode", size=SQUARE))
    await air.hub.stop("out1")
    source = pictures(20, **SIZE)
    async with air.on():
        await air.show(source[:10])
        air.hub.start("out1")
        await settle()
        await air.show(source[10:])
    assert air.rigs[1].written[0].pts_ns == 10 * PICTURE_NS


async def test_what_an_encoder_leaves_out_is_counted_at_its_outputs() -> None:
    air = Air(PictureWants(video="encode", size=SQUARE))
    source = pictures(10, **SIZE)
    source[4] = replace(source[4], payload=b"\0\0\0\4\x41\xff\xff\xff")
    async with air.on():
        await air.show(source)
    assert air.rigs[0].runner.status().dropped_units["undecodable"] == 6


async def test_an_encoder_that_cannot_keep_up_leaves_out_pictures_and_no_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    air = Air(PictureWants(video="encode", size=SQUARE))
    rig = air.rigs[0]
    async with air.on():
        await air.show(pictures(10, **SIZE))
        await until(lambda: bool(rig.written))
        n_before, work = len(rig.written), encode.PictureTranscoder.work

        def slow(transcoder: encode.PictureTranscoder, jobs: Iterable[encode._Job]) -> encode._Coded:
            time.sleep(0.15)
            return work(transcoder, jobs)

        monkeypatch.setattr(encode.PictureTranscoder, "work", slow)
        for n, unit in enumerate(pictures(100, **SIZE)):
            await air.show([unit])
            air.hub.put(opus(400 + 40 * n))
            air.hub.put(opus(420 + 40 * n))
        await settle()
        sound = [unit.pts_ns for unit in rig.written if unit.codec is Codec.OPUS]
        assert sound == [(400 + 20 * n) * NS_PER_MS for n in range(200)]
    dropped = Counter(rig.runner.status().dropped_units)
    assert dropped["overload"] > 20 and set(+dropped) == {"overload"}
    assert n_before < len([unit for unit in rig.written if unit.codec is Codec.H264]) < 100


async def test_what_a_preset_rejects_is_encoded_to_what_it_takes() -> None:
    ivs = PictureWants(preset=find_preset("ivs"), scheme="rtmps", profiles=("baseline",), keyframe_s=0.4)
    air = Air(ivs, replace(ivs, video="copy"))
    async with air.on():
        await air.show(pictures(10, width_px=320, height_px=240, profile="main"))
        await air.show(pictures(10, width_px=320, height_px=240))
    assert air.modes() == ["encode preset_video_profile", "copy as_received"]
    assert air.modes(1) == ["copy configured"]
    assert {stream_format(unit).profile_idc for unit in air.rigs[0].written if unit.is_keyframe} == {66}


async def test_a_bug_in_an_encoder_ends_the_outputs_that_it_feeds(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("bug")

    monkeypatch.setattr(encode.PictureTranscoder, "work", broken)
    air = Air(PictureWants(video="encode", size=SQUARE), PictureWants())
    with pytest.raises(ExceptionGroup, match="a bug ended an output"):
        async with air.on():
            await air.show(pictures(10, **SIZE))
    assert len(air.rigs[1].written) == 10
