"""The avatar goes away in every way it can, and the broadcast does not: live, held, slate, live, on one timeline."""

import asyncio
import contextlib
import subprocess
from pathlib import Path

import pytest

from benchmarks.lipsync import write_tone
from benchmarks.stretches import Recorded, Stretch, offsets, read_recording, stretches
from tests.conftest import require_program
from tests.e2e.processes import STREAM_KEY, Daemon, Setting, Show
from tests.e2e.service import FaultRelay, StampedAvatar
from tests.interop.nginx_rtmp import NginxRtmp

pytestmark = pytest.mark.serial

SENT = "added_latency_seconds_count"
# Live again, settled for 3 s, and three flashes that count.
BACK_PICTURES = 25 * 7
LIVE_AND_BACK = [True, False, True]


async def test_an_avatar_service_that_is_killed_is_a_slate_until_it_is_back(
    nginx: NginxRtmp, tmp_path: Path, free_port: int, show: Show
) -> None:
    service = StampedAvatar(tmp_path, free_port)
    setting = quiet(Setting(tmp_path, service.url), tmp_path).rtmp("live", nginx.rtmp_url)
    mp4, mkv = setting.recording("mp4"), matroska(setting)
    async with service, setting.daemon() as daemon:
        await daemon.metric_reaches(4 * 25, SENT, output="live")
        await service.kill()
        await daemon.logged("on_air_slate")
        await asyncio.sleep(4.0)  # a slate with a keyframe in its middle, and retries that fail
        answers_ns = await service.start()
        await daemon.logged("on_air_live", 2)
        await n_more_pictures(daemon, BACK_PICTURES, output="live")
        metrics = await daemon.metrics()
        assert await daemon.get("/readyz") == "ready\n"
        assert await daemon.stop() == 0

    assert metrics.total("output_reconnects_total") == 0
    assert metrics.total("slate_seconds_total", reason="avatar") > 4
    assert publications(nginx) == 1
    for path in (await asyncio.to_thread(nginx.finished_recording, STREAM_KEY), mkv, mp4):
        live, slate, again = await whole(path, show, LIVE_AND_BACK)
        to_slate_s = slate.start_s - live.end_s
        back_s = again.start_s - session_time_s(live, answers_ns)
        show(
            f"{path.suffix}: last live picture to slate {to_slate_s:.3f} s,"
            f" service answers to live again {back_s:.2f} s, last of the slate to live {again.start_s - slate.end_s:.3f} s"
        )
        assert to_slate_s <= 1.2
        assert back_s <= 3.0


# How the first session at the service ends, in the terms of the local avatar, and whether viewers see a slate.
TROUBLES = {
    "stalls": ("media-stall:5", LIVE_AND_BACK),
    "drops": ("ws-drop:5", [True, True]),
    "closes": ("ws-close:5", [True, True]),
    "is-full": ("gpu-full:5", [True, True]),
    # The same session offers media again at once.
    "loses-media": ("media-close:5", [True, True]),
}


async def test_after_each_trouble_of_a_service_the_broadcast_is_live_again(
    tmp_path: Path, free_port: int, show: Show
) -> None:
    service, setting = StampedAvatar(tmp_path, free_port), Setting(tmp_path)
    recordings: dict[str, Path] = {}
    async with service, contextlib.AsyncExitStack() as stack:
        for name, (fault, _) in TROUBLES.items():
            faults = [[fault]]
            relay = FaultRelay(service.url, lambda faults=faults: faults.pop() if faults else ())
            setting.add_session(name, await stack.enter_async_context(relay.listening()))
            quiet(setting, tmp_path, name)
            recordings[name] = matroska(setting, name)
        daemon = await stack.enter_async_context(setting.daemon())
        await daemon.logged("on_air_slate", session="stalls")
        await daemon.logged("on_air_live", 2, session="stalls")
        await n_more_pictures(daemon, BACK_PICTURES, session="stalls")
        metrics = await daemon.metrics()
        assert await daemon.stop() == 0

    assert metrics.total("output_reconnects_total") == 0
    assert metrics.total("provider_reconnects_total", session="loses-media") == 0
    for name, (_, kinds) in TROUBLES.items():
        parts = await whole(recordings[name], show, kinds)
        away_s = parts[-1].start_s - parts[0].end_s
        show(f"{name}: {away_s:.2f} s without the avatar")


def quiet(setting: Setting, directory: Path, session: str = "leo") -> Setting:
    """With an input that says nothing for long: speech has tones like a beep."""
    return setting.input(write_tone(directory / "tone.wav"), session=session)


def matroska(setting: Setting, session: str = "leo") -> Path:
    """Record, in a container that keeps Opus as it is, and the file's path."""
    return setting.recording("mkv", session=session, url=f"file:{session}.mkv").with_name(f"{session}.mkv")


async def n_more_pictures(daemon: Daemon, n_pictures: int, **labels: str) -> None:
    """Wait until so many more live ones have been sent to an output."""
    before = (await daemon.metrics()).total(SENT, **labels)
    await daemon.metric_reaches(before + n_pictures, SENT, **labels)


def publications(nginx: NginxRtmp) -> int:
    return len([fields for fields in nginx.requests if fields["call"] == "publish"])


def session_time_s(live: Stretch, monotonic_ns: int) -> float:
    """When it was in the recording, by the stamps of a live stretch of it."""
    first = live.pictures[0]
    assert first.stamp is not None
    return first.time_s + (monotonic_ns - first.stamp[1]) / 1e9


async def whole(path: Path, show: Show, kinds: list[bool]) -> list[Stretch]:
    """Hold a recording to what holds for all of them, whatever has happened; its stretches."""
    found = await asyncio.to_thread(read_recording, path)
    parts = stretches(found.pictures)
    assert [part.is_live for part in parts] == kinds, path.name
    await asyncio.to_thread(assert_plays, path)
    assert_goes_on(path, found)
    offsets_ms = [1000 * offset_s for offset_s in await asyncio.to_thread(offsets, path, parts[1:])]
    show(f"{path.name}: sound against picture, live again: {', '.join(f'{o:+.1f}' for o in offsets_ms)} ms")
    assert offsets_ms or not any(kinds[1:])
    assert all(abs(offset_ms) <= 10 for offset_ms in offsets_ms)
    return parts


def assert_goes_on(path: Path, found: Recorded) -> None:
    assert found.timestamps_back == 0, path.name
    # Opus has packets of 20 ms and AAC of 21.3 ms; FLV and Matroska count milliseconds.
    assert found.longest_silence_s <= 0.040, path.name


def assert_plays(path: Path) -> None:
    """FFmpeg, which stops at the first error, does not complain of anything."""
    command = (require_program("ffmpeg"), "-v", "error", "-xerror", "-i", path, "-f", "null", "-")
    played = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (played.returncode, played.stderr) == (0, ""), path.name
