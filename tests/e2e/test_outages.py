"""A broadcast whose far ends go away and come back, or never were any good."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from tests.e2e import recorded
from tests.e2e.processes import STREAM_KEY, Avatar, Setting
from tests.interop.nginx_rtmp import NginxRtmp

# Pictures are 40 ms apart, sound 21 ms; a machine that is busy with other tests holds back some.
NO_GAP_S = 0.3


async def test_a_server_that_is_killed_for_five_seconds_gets_the_broadcast_back(
    avatar: Avatar, nginx: NginxRtmp, tmp_path: Path
) -> None:
    setting = Setting(tmp_path, avatar.url).rtmp("live", nginx.rtmp_url)
    recording = setting.recording()
    async with setting.daemon() as daemon:
        await daemon.logged("output_publishing", output="live")
        await daemon.logged("recording_started")
        await daemon.metric_reaches(25, "added_latency_seconds_count", output="live")
        await asyncio.to_thread(nginx.kill)
        await daemon.logged("output_lost", output="live")
        await asyncio.sleep(5.0)  # the outage that is promised to be survived
        await asyncio.to_thread(nginx.restart)
        await daemon.logged("output_publishing", 2, output="live")
        before = (await daemon.metrics()).total("added_latency_seconds_count", output="live")
        await daemon.metric_reaches(before + 25, "added_latency_seconds_count", output="live")
        metrics = await daemon.metrics()
        assert await daemon.stop() == 0

    assert len(daemon.events("session_connecting")) == 1
    assert metrics.total("output_reconnects_total", output="live") >= 1
    assert metrics.total("output_reconnect_seconds_count", output="live") == 1
    again = await asyncio.to_thread(nginx.finished_recording, STREAM_KEY)
    assert recorded.n_pictures(again) >= 25
    assert_whole(recording)


async def test_a_publisher_that_is_thrown_out_comes_back(avatar: Avatar, nginx: NginxRtmp, tmp_path: Path) -> None:
    setting = Setting(tmp_path, avatar.url).rtmp("live", nginx.rtmp_url)
    recording = setting.recording()
    async with setting.daemon() as daemon:
        await daemon.metric_reaches(25, "added_latency_seconds_count", output="live")
        await asyncio.to_thread(nginx.drop, "live", STREAM_KEY)
        await daemon.logged("output_publishing", 2, output="live")
        before = (await daemon.metrics()).total("added_latency_seconds_count", output="live")
        await daemon.metric_reaches(before + 25, "added_latency_seconds_count", output="live")
        assert await daemon.stop() == 0

    assert len(publications(nginx)) == 2
    assert_whole(recording)


async def test_servers_that_stall_or_stay_mute_hold_up_nobody_else(
    avatar: Avatar, nginx: NginxRtmp, tmp_path: Path
) -> None:
    setting = Setting(tmp_path, avatar.url).rtmp("healthy", nginx.rtmp_url)
    async with mute_server() as mute_url, stalling_relay(nginx.rtmp_port) as (stalled_url, stall):
        setting.rtmp("mute", mute_url).rtmp("stalled", stalled_url, key="stalled_key")
        async with setting.daemon() as daemon:
            await daemon.logged("output_publishing", output="stalled")
            await daemon.metric_reaches(25, "added_latency_seconds_count", output="healthy")
            stall()
            await daemon.metric_reaches(0.5, "output_queue_seconds", output="stalled")
            before = (await daemon.metrics()).total("added_latency_seconds_count", output="healthy")
            await daemon.metric_reaches(before + 25, "added_latency_seconds_count", output="healthy")
            metrics = await daemon.metrics()
            assert await daemon.stop() == 0

    assert metrics.total("output_state", output="healthy", state="publishing") == 1
    assert metrics.total("output_dropped_units_total", output="healthy") == 0
    assert metrics.total("output_state", output="mute", state="publishing") == 0
    picture, sound = recorded.tracks(await asyncio.to_thread(nginx.finished_recording, STREAM_KEY))
    assert picture.longest_gap_s < NO_GAP_S
    assert sound.longest_gap_s < NO_GAP_S


async def test_a_refused_key_ends_that_output_and_no_other(avatar: Avatar, nginx: NginxRtmp, tmp_path: Path) -> None:
    setting = Setting(tmp_path, avatar.url).rtmp("live", nginx.rtmp_url, key=f"wrong-{STREAM_KEY}")
    recording = setting.recording()
    async with setting.daemon() as daemon:
        refusal = await daemon.logged("output_rejected", output="live")
        await daemon.metric_reaches(50, "added_latency_seconds_count", output="archive")
        metrics = await daemon.metrics()
        assert await daemon.stop() == 0

    assert "stream key" in refusal["error"]
    assert nginx.rtmp_url in refusal["error"]
    assert metrics.total("output_state", output="live", state="rejected") == 1
    assert len(publications(nginx)) == 1
    assert_whole(recording)


async def test_a_server_that_comes_later_gets_the_broadcast_from_then_on(
    avatar: Avatar, nginx: NginxRtmp, tmp_path: Path
) -> None:
    await asyncio.to_thread(nginx.kill)
    setting = Setting(tmp_path, avatar.url).rtmp("live", nginx.rtmp_url)
    recording = setting.recording()
    async with setting.daemon() as daemon:
        absent = await daemon.logged("output_lost", output="live")
        await asyncio.to_thread(nginx.restart)
        await daemon.metric_reaches(25, "added_latency_seconds_count", output="live")
        assert await daemon.stop() == 0

    assert nginx.rtmp_url in absent["error"]
    assert "cannot connect" in absent["error"]
    assert recorded.n_pictures(await asyncio.to_thread(nginx.finished_recording, STREAM_KEY)) >= 25
    assert_whole(recording)


def publications(nginx: NginxRtmp) -> list[dict[str, str]]:
    return [fields for fields in nginx.requests if fields["call"] == "publish"]


def assert_whole(recording: Path) -> None:
    picture, sound = recorded.tracks(recording)
    assert recorded.n_pictures(recording) == len(picture.packets)
    assert picture.longest_gap_s < NO_GAP_S
    assert sound.longest_gap_s < NO_GAP_S


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def rtmp_server(serve: Serve) -> AsyncIterator[str]:
    """The URL of a server on loopback whose clients are served by `serve`, and left when the block ends."""
    serving: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())  # type: ignore[arg-type]
        try:
            await serve(reader, writer)
        except (asyncio.CancelledError, OSError):
            pass
        finally:
            writer.transport.abort()

    listening = socket.create_server(("127.0.0.1", 0))
    # Taken over by every connection: little fits in, so that who is not read from notices soon.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    server = await asyncio.start_server(accept, sock=listening, limit=4096)
    try:
        yield f"rtmp://127.0.0.1:{listening.getsockname()[1]}/live"
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


def mute_server() -> contextlib.AbstractAsyncContextManager[str]:
    """Accepts connections and says nothing, ever."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    return rtmp_server(serve)


@contextlib.asynccontextmanager
async def stalling_relay(target_port: int) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """Stands before a server until it is told to stall: from then on it reads nothing."""
    may_read = asyncio.Event()
    may_read.set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await may_read.wait() and (data := await reader.read(4096)):
            writer.write(data)
            await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection("127.0.0.1", target_port)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(copy(reader, target_writer))
                tasks.create_task(copy(target_reader, writer))
        finally:
            target_writer.transport.abort()

    async with rtmp_server(serve) as url:
        yield url, may_read.clear
