"""How a daemon ends: asked to, asked twice, killed."""

import asyncio
import signal
import wave
from pathlib import Path

import numpy as np
import pytest

from tests.e2e import recorded
from tests.e2e.processes import STREAM_KEY, Avatar, Setting, Show, descendants, exists, faulty_avatar
from tests.interop.nginx_rtmp import NginxRtmp
from tests.interop.whip_endpoint import TOKEN, WhipEndpoint


async def test_sigterm_ends_everything_properly_within_its_time(nginx: NginxRtmp, tmp_path: Path) -> None:
    async with faulty_avatar(tmp_path) as (service, url):
        setting = Setting(tmp_path, url, drain_s=6).rtmp("live", nginx.rtmp_url).input(tone(tmp_path, 60))
        recording = setting.recording()
        async with setting.daemon() as daemon:
            await daemon.metric_reaches(50, "added_latency_seconds_count", output="live")
            started_s = asyncio.get_running_loop().time()
            assert await daemon.stop() == 0
            # A tone has no pause to end in, so that the whole time is used; a second is for a busy machine.
            assert asyncio.get_running_loop().time() - started_s < 6 + 1
        ended = await service.logged("avatar_session_ended")

    # It was said goodbye to: a WebSocket that only breaks off is "the connection was lost".
    assert ended["reason"] == "the client has left"
    assert daemon.events("utterance_cut")
    assert {event["output"] for event in daemon.events("output_closed")} == {"archive", "live", "preview"}
    assert '"daemon_stopped"' in daemon.stderr[-1]
    # on_publish_done was called: the server did not have to find out by itself.
    broadcast = await asyncio.to_thread(nginx.finished_recording, STREAM_KEY)
    assert nginx.publishing() == []
    assert "deleteStream" in nginx.log()
    for path in (recording, broadcast):
        picture, sound = recorded.tracks(path)
        assert recorded.n_pictures(path) == len(picture.packets)
        assert abs(picture.end_s - sound.end_s) < 0.2
    assert recording.read_bytes()[-12:-8] == MP4_LAST_BOX, "the MP4 was not closed"


@pytest.mark.serial
async def test_sigterm_ends_five_sessions_to_every_kind_of_output_within_their_time(
    nginx: NginxRtmp, tmp_path: Path, show: Show
) -> None:
    names = [f"leo-{number}" for number in range(5)]
    async with faulty_avatar(tmp_path) as (service, url), WhipEndpoint().serving() as endpoint:
        setting = Setting(tmp_path, drain_s=8)
        recordings = []
        for name in names:
            setting.add_session(name, url)
            setting.rtmp("live", nginx.rtmp_url, key=f"{STREAM_KEY}-{name}", session=name)
            setting.whip("studio", endpoint.url, token=TOKEN, session=name)
            recordings.append(setting.recording(session=name))
        async with setting.daemon() as daemon:
            for name in names:
                for output in ("live", "studio", "archive"):
                    await daemon.metric_reaches(25, "added_latency_seconds_count", session=name, output=output)
            family = {daemon.pid, *descendants(daemon.pid)}
            began_s = asyncio.get_running_loop().time()
            assert await daemon.stop() == 0
            took_s = asyncio.get_running_loop().time() - began_s
            show(f"SIGTERM to exit with 5 live sessions of 3 outputs each: {took_s:.1f} s (bound drain_s, 8 s)")
            assert took_s <= 8
        await service.logged("avatar_session_ended", n_times=5, reason="the client has left")
        assert endpoint.sessions == {} and len(endpoint.ended) == 5
        assert endpoint.methods().count("DELETE") == 5
    for name in names:
        broadcast = await asyncio.to_thread(nginx.finished_recording, f"{STREAM_KEY}-{name}")
        assert recorded.n_pictures(broadcast) >= 25
    assert nginx.publishing() == [] and nginx.log().count("deleteStream") >= 5
    closed = [event["output"] for event in daemon.events("output_closed")]
    assert len(closed) == 20 and closed.count("preview") == 5
    for recording in recordings:
        assert recorded.n_pictures(recording) >= 25
        assert recording.read_bytes()[-12:-8] == MP4_LAST_BOX, "the MP4 was not closed"
    assert not [pid for pid in family if exists(pid)]


async def test_a_second_sigterm_ends_it_at_once(avatar: Avatar, nginx: NginxRtmp, tmp_path: Path) -> None:
    setting = Setting(tmp_path, avatar.url, drain_s=60).rtmp("live", nginx.rtmp_url).input(tone(tmp_path, 100))
    recording = setting.recording()
    async with setting.daemon() as daemon:
        await daemon.metric_reaches(25, "added_latency_seconds_count", output="live")
        daemon.send(signal.SIGTERM)
        await daemon.logged("session_draining")
        assert (await daemon.get("/healthz")) == "ok\n"
        await asyncio.sleep(0.15)  # what comes within 0.1 s is the same signal
        await daemon.stop(timeout_s=6)
        assert daemon.events("daemon_aborting")
    # At once is not by halves.
    assert recorded.n_pictures(recording) >= 25
    assert recorded.n_pictures(await asyncio.to_thread(nginx.finished_recording, STREAM_KEY)) >= 25


async def test_a_recording_can_be_played_after_kill_9(avatar: Avatar, tmp_path: Path) -> None:
    setting = Setting(tmp_path, avatar.url)
    recording = setting.recording()
    async with setting.daemon() as daemon:
        await daemon.metric_reaches(100, "added_latency_seconds_count", output="archive")
        n_written = (await daemon.metrics()).total("added_latency_seconds_count", output="archive")
        daemon.send(signal.SIGKILL)
        assert await daemon.exit_status() == -signal.SIGKILL

    picture, sound = recorded.tracks(recording)
    assert recorded.n_pictures(recording) == len(picture.packets)
    # A fragment of 0.9 s was under way, and what waits for its place between the tracks: at most 0.2 s.
    assert len(picture.packets) >= n_written - 1.1 * 25
    assert sound.end_s > picture.end_s - 1.0


# ISO 14496-12 §8.8.11: a file with fragments ends with this box of 16 bytes; its type follows its length.
MP4_LAST_BOX = b"mfro"


def tone(directory: Path, seconds: float) -> Path:
    """Speech without a pause, as far as the bridge can tell."""
    path = directory / "tone.wav"
    n = np.arange(round(seconds * 24_000))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24_000)
        file.writeframes(np.rint(8000 * np.sin(2 * np.pi * 220 * n / 24_000)).astype("<i2").tobytes())
    return path
