"""An avatar service that is late, leaves, falls silent or does as it likes: outputs stay, the session goes on."""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from bridge.local_avatar.options import LocalAvatarOptions
from bridge.local_avatar.server import LocalAvatar
from bridge.net.aiortc_sender import RtpOrigin
from bridge.net.peer import SendingPeer
from tests.e2e import recorded
from tests.e2e.onair import SENT, n_more_pictures
from tests.e2e.processes import STREAM_KEY, Avatar, Setting, faulty_avatar
from tests.interop.nginx_rtmp import NginxRtmp

NO_GAP_S = 0.3
_SILENT = logging.Logger("relay", level=logging.CRITICAL + 1)


class SocketRelay:
    """Stands before an avatar service: every connection passes on what `n_messages` says, then closes.

    n_messages  of the service's messages, one number for each connection; all of them once the numbers are used up.
    """

    def __init__(self, target: str, *n_messages: int) -> None:
        self._target = target
        self._plan = list(n_messages)
        self._clients: list[ServerConnection] = []

    @contextlib.asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator[str]:
        async with serve(self._relay, "127.0.0.1", port, compression=None, logger=_SILENT) as server:
            listening_port = next(iter(server.sockets)).getsockname()[1]
            yield f"ws://127.0.0.1:{listening_port}/wss/v2/realtime-chat"

    def reset(self) -> None:
        """Reset the newest connection, as a network does."""
        self._clients[-1].transport.abort()

    async def _relay(self, client: ServerConnection) -> None:
        self._clients.append(client)
        limit = self._plan.pop(0) if self._plan else None
        assert client.request is not None
        query = client.request.path.partition("?")[2]
        async with connect(f"{self._target}?{query}", compression=None, logger=_SILENT) as service:
            upwards = asyncio.create_task(self._copy(client, service))
            with contextlib.suppress(ConnectionClosed):
                n_passed = 0
                while n_passed != limit:
                    await client.send(await service.recv())
                    n_passed += 1
            upwards.cancel()
            await asyncio.wait({upwards})

    async def _copy(self, source: ServerConnection, target: "connect") -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in source:
                await target.send(message)


async def test_a_service_that_is_down_at_the_start_is_used_once_it_is_there(
    avatar: Avatar, tmp_path: Path, free_port: int
) -> None:
    setting = Setting(tmp_path, f"ws://127.0.0.1:{free_port}/wss/v2/realtime-chat")
    recording = setting.recording()
    async with setting.daemon() as daemon:
        lost = await daemon.logged("avatar_lost", level="warning")
        with pytest.raises(Exception, match="503"):
            await daemon.get("/readyz")
        async with SocketRelay(avatar.url).listening(free_port):
            await daemon.metric_reaches(25, "added_latency_seconds_count")
            assert await daemon.stop() == 0
    assert f"127.0.0.1:{free_port}" in lost["error"]
    assert "cannot be reached" in lost["error"]
    assert recorded.n_pictures(recording) >= 25


async def test_a_service_that_closes_at_each_step_of_the_hand_shake_is_tried_again(
    avatar: Avatar, tmp_path: Path
) -> None:
    async with SocketRelay(avatar.url, 0, 1, 2, 3).listening() as url:
        setting = Setting(tmp_path, url)
        setting.add_session("leo", url, role="conversation")
        recording = setting.recording()
        async with setting.daemon() as daemon:
            await daemon.metric_reaches(4, "provider_reconnects_total")
            await daemon.metric_reaches(25, "added_latency_seconds_count")
            metrics = await daemon.metrics()
            assert await daemon.stop() == 0
    lost = daemon.events("avatar_lost")
    # Warnings that follow each other within a second are summed up, and the last of them stands for all.
    assert sum(event.get("repeated", 1) for event in lost) == 4
    awaited = [event["error"].partition("ended the session while ")[2].partition(" was awaited")[0] for event in lost]
    steps = ["conversation.connected.success", "realtime.session.created", "realtime.session.updated"]
    assert awaited == sorted(awaited, key=steps.index)
    assert (awaited[0], awaited[-1]) == (steps[0], steps[-1])
    assert metrics.total("provider_reconnects_total", reason="disconnected") == 4
    assert recorded.n_pictures(recording) >= 25


async def test_a_websocket_that_drops_costs_neither_the_broadcast_nor_the_recording(
    avatar: Avatar, nginx: NginxRtmp, tmp_path: Path
) -> None:
    relay = SocketRelay(avatar.url)
    async with relay.listening() as url:
        setting = Setting(tmp_path, url).rtmp("live", nginx.rtmp_url)
        recording = setting.recording()
        async with setting.daemon() as daemon:
            for _ in range(2):
                before = (await daemon.metrics()).total("added_latency_seconds_count", output="live")
                await daemon.metric_reaches(before + 40, "added_latency_seconds_count", output="live")
                relay.reset()
                await daemon.logged("avatar_lost", len(daemon.events("avatar_lost")) + 1)
            before = (await daemon.metrics()).total("added_latency_seconds_count", output="live")
            await daemon.metric_reaches(before + 40, "added_latency_seconds_count", output="live")
            metrics = await daemon.metrics()
            assert await daemon.stop() == 0

    assert metrics.total("provider_reconnects_total") == 2
    assert metrics.total("output_reconnects_total") == 0
    assert len([fields for fields in nginx.requests if fields["call"] == "publish"]) == 1
    assert len(list(recording.parent.iterdir())) == 1
    for path in (recording, await asyncio.to_thread(nginx.finished_recording, STREAM_KEY)):
        picture, sound = recorded.tracks(path)
        assert recorded.n_pictures(path) == len(picture.packets) >= 120
        assert picture.shortest_gap_s > 0
        assert sound.shortest_gap_s > 0
        # Reconnecting takes half a second of backoff and the hand-shake; the clock of the broadcast goes on.
        assert 0.3 < picture.longest_gap_s < 4
        assert abs(picture.end_s - sound.end_s) < 0.2


async def test_media_that_stalls_is_asked_for_and_leaves_the_outputs_alone(nginx: NginxRtmp, tmp_path: Path) -> None:
    async with faulty_avatar(tmp_path, "media-stall:1") as (_, url):
        setting = Setting(tmp_path, url).rtmp("live", nginx.rtmp_url)
        recording = setting.recording()
        async with setting.daemon() as daemon:
            await daemon.metric_reaches(2, "pli_total", reason="stall")
            metrics = await daemon.metrics()
            assert await daemon.stop() == 0
    assert metrics.total("output_state", output="live", state="publishing") == 1
    assert not daemon.events("output_lost")
    for path in (recording, nginx.finished_recording(STREAM_KEY)):
        assert recorded.n_pictures(path) >= 20


async def test_a_service_that_ignores_keyframe_requests_is_told_of_and_platforms_get_keyframes_all_the_same(
    nginx: NginxRtmp, tmp_path: Path
) -> None:
    async with faulty_avatar(tmp_path, "ignore-pli") as (_, url):
        setting = Setting(tmp_path, url).rtmp("live", nginx.rtmp_url)
        archive = setting.recording()
        async with setting.daemon() as daemon:
            warning = await daemon.logged("keyframe_requests_ignored", level="warning")
            await daemon.logged("output_mode", output="live", mode="encode", reason="keyframes")
            await n_more_pictures(daemon, 3 * 25, output="live", mode="encode")  # a keyframe, and the next one
            metrics = await daemon.metrics()
            assert await daemon.stop() == 0
    assert warning["session"] == "leo"
    assert warning["n_requests"] == 3
    assert metrics.of('output_mode{output="live",mode="encode",reason="keyframes"}') == 1
    assert metrics.of('output_mode{output="archive",mode="copy",reason="as_received"}') == 1
    picture, _ = recorded.tracks(await asyncio.to_thread(nginx.finished_recording, STREAM_KEY))
    first_s, *later_s = picture.keyframe_spacings_s
    assert 4.0 < first_s < 5.5 and set(round(spacing_s, 3) for spacing_s in later_s) == {2.0}
    assert picture.longest_gap_s < 0.3
    copied, _ = recorded.tracks(archive)
    assert copied.keyframe_spacings_s == []


async def test_an_avatar_of_vp8_alone_is_encoded(nginx: NginxRtmp, tmp_path: Path) -> None:
    async with faulty_avatar(tmp_path, "vp8-only") as (_, url):
        setting = Setting(tmp_path, url).rtmp("live", nginx.rtmp_url)
        recording = setting.recording()
        copied = setting.recording("copied", video="copy")
        async with setting.daemon() as daemon:
            await daemon.metric_reaches(75, SENT, output="live", mode="encode")
            metrics = await daemon.metrics()
            assert await daemon.stop() == 0
    assert metrics.of('output_mode{output="live",mode="encode",reason="codec"}') == 1
    assert metrics.of('output_mode{output="copied",mode="slate",reason="codec"}') == 1
    assert metrics.total("slate_seconds_total") == 0 and not daemon.events("avatar_lost")
    for path in (recording, copied, await asyncio.to_thread(nginx.finished_recording, STREAM_KEY)):
        picture, sound = recorded.tracks(path)
        assert picture.codec == "h264"
        assert recorded.n_pictures(path) == len(picture.packets) >= 40
        assert sound.longest_gap_s < NO_GAP_S
        if path != copied:
            assert {round(spacing_s, 3) for spacing_s in picture.keyframe_spacings_s} == {2.0}


async def test_a_broadcast_goes_on_evenly_across_the_wraps_of_rtp(
    nginx: NginxRtmp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ten seconds before each: 250 pictures of two packets at least, and 500 packets of sound.
    origins = {
        "video_origin": RtpOrigin(sequence_number=2**16 - 500, timestamp=2**32 - 10 * 90_000),
        "audio_origin": RtpOrigin(sequence_number=2**16 - 500, timestamp=2**32 - 10 * 48_000),
    }
    monkeypatch.setattr("bridge.local_avatar.transmission.SendingPeer", functools.partial(SendingPeer, **origins))
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    service = asyncio.create_task(LocalAvatar(LocalAvatarOptions(size_px=(180, 320)), listening.set_result).run())
    try:
        setting = Setting(tmp_path, await listening).rtmp("live", nginx.rtmp_url)
        recording = setting.recording()
        async with setting.daemon() as daemon:
            await daemon.metric_reaches(12 * 25, "added_latency_seconds_count", output="live")
            metrics = await daemon.metrics()
            assert await daemon.stop() == 0
    finally:
        service.cancel()
        await asyncio.wait({service})

    assert metrics.total("rtp_packets_total", kind="video", result="received") > 500
    assert metrics.total("rtp_packets_total", result="lost") == 0
    for path in (recording, await asyncio.to_thread(nginx.finished_recording, STREAM_KEY)):
        for track in recorded.tracks(path):
            assert track.end_s - track.start_s > 11
            assert track.shortest_gap_s > 0
            assert track.longest_gap_s < NO_GAP_S
