"""The avatar goes away in every way it can, and the broadcast does not: live, held, slate, live, on one timeline."""

import asyncio
import contextlib
import subprocess
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.conftest import require_program
from tests.e2e.onair import SENT, matroska, n_more_pictures, publications, quiet, session_time_s, whole
from tests.e2e.processes import STREAM_KEY, Setting, Show
from tests.e2e.service import FaultRelay, StampedAvatar
from tests.interop.nginx_rtmp import NginxRtmp

pytestmark = pytest.mark.paired

# Live again, settled for 3 s, and three flashes that count.
BACK_PICTURES = 25 * 7
LIVE_AND_BACK = [True, False, True]
HELD = [True, True]


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
        to_slate_s, to_live_s = slate.start_s - live.end_s, again.start_s - slate.end_s
        back_s = again.start_s - session_time_s(live, answers_ns)
        show(
            f"{path.suffix}: last live picture to slate {to_slate_s:.3f} s,"
            f" service answers to live again {back_s:.2f} s, last of the slate to live {to_live_s:.3f} s"
        )
        assert to_slate_s <= 1.2
        assert back_s <= 3.0


# What happens to the first session at the service, in the terms of the local avatar, and what viewers may see then:
# reconnecting takes about a second, after which they would see a slate.
STRIKES_S = 5.0
TROUBLES = {
    "sessions that end": {
        "stalls": (f"media-stall:{STRIKES_S}", [LIVE_AND_BACK]),
        "drops": (f"ws-drop:{STRIKES_S}", [HELD, LIVE_AND_BACK]),
        "closes": (f"ws-close:{STRIKES_S}", [HELD, LIVE_AND_BACK]),
        "is-full": (f"gpu-full:{STRIKES_S}", [HELD, LIVE_AND_BACK]),
    },
    "sessions that go on": {
        # Offered anew at once, nothing is seen of it.
        "loses-media": (f"media-close:{STRIKES_S}", [[True], HELD]),
        # Silence says nothing for 2 s: longer than until the slate.
        "goes-silent": (f"media-lost:{STRIKES_S}", [LIVE_AND_BACK]),
        "changes-clock": (f"timestamp-reset:{STRIKES_S}", [[True]]),
        "changes-ssrc": (f"ssrc-change:{STRIKES_S}", [[True]]),
    },
}


@pytest.mark.parametrize("group", TROUBLES)
async def test_after_each_trouble_of_a_service_the_broadcast_is_live_again(
    group: str, tmp_path: Path, free_port: int, show: Show
) -> None:
    service, setting = StampedAvatar(tmp_path, free_port), Setting(tmp_path)
    recordings: dict[str, Path] = {}
    async with service, contextlib.AsyncExitStack() as stack:
        for name, (fault, _) in TROUBLES[group].items():
            faults = [[fault]]
            relay = FaultRelay(service.url, lambda faults=faults: faults.pop() if faults else ())
            setting.add_session(name, await stack.enter_async_context(relay.listening()))
            quiet(setting, tmp_path, name)
            recordings[name] = matroska(setting, name)
        daemon = await stack.enter_async_context(setting.daemon())
        await asyncio.gather(*(daemon.metric_reaches(5 * 25, SENT, session=name) for name in recordings))
        for name in recordings.keys() & {"stalls", "goes-silent"}:
            await daemon.logged("on_air_live", 2, session=name)
        await asyncio.gather(*(n_more_pictures(daemon, BACK_PICTURES, session=name) for name in recordings))
        metrics = await daemon.metrics()
        assert await daemon.stop() == 0

    assert metrics.total("output_reconnects_total") == 0
    for name, (_, shows) in TROUBLES[group].items():
        assert (metrics.total("provider_reconnects_total", session=name) > 0) == (group == "sessions that end"), name
        parts = await whole(recordings[name], show, *shows, anew_s=STRIKES_S if "go on" in group else None)
        if len(parts) > 1:
            show(f"{name}: {parts[-1].start_s - parts[0].end_s:.2f} s without the avatar")


async def test_a_balance_that_is_used_up_leaves_the_slate_on_air_until_the_end(
    nginx: NginxRtmp, tmp_path: Path, free_port: int, show: Show
) -> None:
    service = StampedAvatar(tmp_path, free_port, "--fault", "balance:4")
    setting = quiet(Setting(tmp_path, service.url), tmp_path).rtmp("live", nginx.rtmp_url)
    mkv = matroska(setting)
    async with service, setting.daemon() as daemon:
        rejected = await daemon.logged("avatar_rejected")
        await daemon.logged("on_air_slate")
        unready = await daemon.unreadiness()
        await asyncio.sleep(5.0)  # time in which something could end, or be tried again
        metrics = await daemon.metrics()
        assert await daemon.unreadiness() == unready
        assert await daemon.stop() == 1  # what only an operator can change

    assert "top up the account" in rejected["error"]
    assert "top up the account" in unready and "slate" in unready
    assert metrics.total("provider_reconnects_total") == 0
    assert metrics.total("slate_active") == 1
    for path in (await asyncio.to_thread(nginx.finished_recording, STREAM_KEY), mkv):
        _, slate = await whole(path, show, [True, False])
        assert slate.end_s - slate.start_s > 4


async def test_a_service_that_comes_back_without_h264_is_encoded_until_it_has_it(
    nginx: NginxRtmp, tmp_path: Path, free_port: int, show: Show
) -> None:
    service = StampedAvatar(tmp_path, free_port)
    setting = quiet(Setting(tmp_path, service.url), tmp_path).rtmp("live", nginx.rtmp_url)
    async with service, setting.daemon() as daemon:
        await daemon.metric_reaches(2 * 25, SENT, output="live")
        await service.kill()
        await service.start("--fault", "vp8-only")
        await daemon.metric_reaches(2 * 25, SENT, output="live", mode="encode")
        await service.kill()
        await service.start()
        await daemon.logged("on_air_live", 3)
        await n_more_pictures(daemon, 25 * 5, output="live")
        metrics = await daemon.metrics()
        assert await daemon.stop() == 0
    assert metrics.total("output_reconnects_total") == 0 and publications(nginx) == 1
    modes = [(event["mode"], event["reason"]) for event in daemon.events("output_mode", output="live")]
    assert modes == [("copy", "as_received"), ("encode", "codec"), ("copy", "as_received")]
    # Only what is copied has the avatar's stamps.
    await whole(await asyncio.to_thread(nginx.finished_recording, STREAM_KEY), show, LIVE_AND_BACK)


async def test_the_slate_has_the_size_that_the_pictures_have_changed_to(
    nginx: NginxRtmp, tmp_path: Path, free_port: int, show: Show
) -> None:
    service = StampedAvatar(tmp_path, free_port, "--fault", "size-change:3", "--fault", "media-stall:6")
    setting = quiet(Setting(tmp_path, service.url), tmp_path).rtmp("live", nginx.rtmp_url)
    matroska(setting)
    async with service, setting.daemon() as daemon:
        await daemon.logged("on_air_slate")
        await asyncio.sleep(2.0)  # some of it, before the avatar is reconnected
        metrics = await daemon.metrics()
        assert await daemon.stop() == 0
    assert metrics.total("output_reconnects_total") == 0
    first, second = sorted(setting.recordings.glob("leo*.mkv"), key=lambda path: path.stat().st_ctime)
    assert (await sizes(first), await sizes(second)) == ({(180, 320)}, {(320, 180)})
    await whole(first, show, [True])
    await whole(second, show, [True, False])
    # RTMP keeps its size: there the pictures are encoded from the change on.
    broadcast = await asyncio.to_thread(nginx.finished_recording, STREAM_KEY)
    assert await sizes(broadcast) == {(180, 320)}
    await whole(broadcast, show, [True, False])


async def test_each_kind_of_slate_stands_in_as_what_it_is(tmp_path: Path, free_port: int, show: Show) -> None:
    red, clip = tmp_path / "red.png", tmp_path / "clip.mp4"
    await asyncio.to_thread(make_file, "color=red:size=640x360", red, "-frames:v", "1")
    blink = "color=blue:size=180x320:rate=25:duration=1,drawbox=color=lime:t=fill:enable='lt(t,0.5)'"
    await asyncio.to_thread(make_file, blink, clip, "-pix_fmt", "yuv420p")
    slates = {"image": {"image": str(red)}, "clip": {"clip": str(clip)}, "last": {}}
    service, setting = StampedAvatar(tmp_path, free_port), Setting(tmp_path)
    recordings: dict[str, Path] = {}
    for name, file in slates.items():
        setting.add_session(name, service.url)
        quiet(setting, tmp_path, name).slate(session=name, picture=name, **file)
        recordings[name] = matroska(setting, name)
    async with service, setting.daemon() as daemon:
        await asyncio.gather(*(daemon.metric_reaches(2 * 25, SENT, session=name) for name in slates))
        await service.kill()
        await asyncio.gather(*(daemon.logged("on_air_slate", session=name) for name in slates))
        await asyncio.sleep(3.0)  # the clip's loop, more than twice
        await service.start()
        await asyncio.gather(*(daemon.logged("on_air_live", 2, session=name) for name in slates))
        await asyncio.gather(*(n_more_pictures(daemon, 25 * 4, session=name) for name in slates))
        assert await daemon.stop() == 0

    shown: dict[str, list[NDArray[np.float64]]] = {}
    for name, path in recordings.items():
        live, slate, _ = await whole(path, show, LIVE_AND_BACK)
        shown[name] = await colours(path, live.end_s, slate.end_s)
    before, *last = shown["last"]
    # Coding it once more costs 0.4 to 0.5 of 255 on average, and 3 to 4 at most.
    off = [np.abs(colour - before) for colour in last]
    assert max(map(np.mean, off)) < 1 and max(map(np.max, off)) < 6, "the last live picture, coded once more"
    _, *image = shown["image"]
    assert all(r > 2 * max(g, b) for r, g, b in map(middle, image))
    _, *clips = shown["clip"]
    names = ["blue" if b > max(r, g) else "lime" if g > max(r, b) else "?" for r, g, b in map(middle, clips)]
    assert set(names) == {"blue", "lime"}
    assert len([1 for name, later in pairwise(names) if name != later]) >= 4


async def sizes(path: Path) -> set[tuple[int, int]]:
    """Of all pictures, width and height."""

    def read() -> set[tuple[int, int]]:
        with av.open(str(path)) as container:
            return {(picture.width, picture.height) for picture in container.decode(video=0)}

    return await asyncio.to_thread(read)


def make_file(source: str, path: Path, *options: str) -> None:
    """By FFmpeg, of a filter that draws."""
    command = (require_program("ffmpeg"), "-v", "error", "-f", "lavfi", "-i", source, *options, path)
    subprocess.run(command, check=True, timeout=60)


async def colours(path: Path, first_s: float, last_s: float) -> list[NDArray[np.float64]]:
    """The pictures of that time, each scaled to 9x16 RGB: shape (16, 9, 3), 0 to 255."""

    def read() -> list[NDArray[np.float64]]:
        with av.open(str(path)) as container:
            return [
                picture.to_ndarray(format="rgb24", width=9, height=16).astype(np.float64)
                for picture in container.decode(video=0)
                # Live may come back a millisecond after the slate, which is also Matroska's unit.
                if picture.time is not None and first_s - 0.0005 <= picture.time <= last_s + 0.0005
            ]

    return await asyncio.to_thread(read)


def middle(picture: NDArray[np.float64]) -> tuple[float, float, float]:
    """The colour there; what fills the frame beside an image is darker."""
    red, green, blue = picture[8, 4]
    return red, green, blue
