"""What an operator can get wrong: the error names the thing and who must act, and everything else goes on."""

import asyncio
import shutil
import socket
import wave
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.conftest import require_program
from tests.e2e import recorded
from tests.e2e.processes import LICENSE, SPEECH, STREAM_KEY, Avatar, Daemon, Setting, is_root
from tests.interop.nginx_rtmp import NginxRtmp
from tests.unit.inputs.web import Request, web

# A recording of 180x320 takes some 40 kB a second.
FULL_AFTER_BYTES = 160_000


# ---------------------------------------------------------------------------------------------- the input


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing.wav", "No such file"), ("text.wav", "not a media file"), ("folder.wav", "not a file")],
)
async def test_an_input_that_cannot_be_played_ends_the_session(
    name: str, reason: str, avatar: Avatar, tmp_path: Path
) -> None:
    (tmp_path / "text.wav").write_text("Good evening.\n" * 100)
    (tmp_path / "folder.wav").mkdir()
    setting = Setting(tmp_path, avatar.url).input(tmp_path / name)
    setting.recording()
    async with setting.daemon() as daemon:
        assert await daemon.exit_status() == 1
    (ended,) = daemon.events("session_ended", session="leo", level="error")
    assert ended["error"].startswith(f"input speech: {tmp_path / name} ")
    assert reason in ended["error"]


async def test_an_input_that_may_not_be_read_ends_the_session(avatar: Avatar, tmp_path: Path) -> None:
    # Root may read everything, unless that is taken away.
    as_nobody_special: tuple[str, ...] = ()
    if is_root():
        capabilities = "--bounding-set=-dac_override,-dac_read_search"
        as_nobody_special = (require_program("setpriv", "util-linux"), capabilities)
    unreadable = tmp_path / "secret.flac"
    shutil.copy(SPEECH, unreadable)
    unreadable.chmod(0)
    setting = Setting(tmp_path, avatar.url).input(unreadable)
    setting.recording()
    async with setting.daemon(*as_nobody_special) as daemon:
        assert await daemon.exit_status() == 1
    (ended,) = daemon.events("session_ended", level="error")
    assert ended["error"] == f"input speech: {unreadable} cannot be read (Permission denied)"


async def test_a_silent_input_and_a_truncated_one_are_played_with_a_warning(avatar: Avatar, tmp_path: Path) -> None:
    silent, truncated = tmp_path / "silent.wav", tmp_path / "truncated.flac"
    with wave.open(str(silent), "wb") as file:
        file.setparams((1, 2, 24_000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 24_000))
    truncated.write_bytes(SPEECH.read_bytes()[:40_000])
    setting = Setting(tmp_path, avatar.url).input(silent)
    setting.recording()
    setting.add_session("mia", avatar.url)
    setting.input(truncated, session="mia").recording(session="mia")
    async with setting.daemon() as daemon:
        silence = await daemon.logged("input_silent", level="warning")
        incomplete = await daemon.logged("input_incomplete", level="warning")
        await daemon.logged("recording_started", 2)
        assert await daemon.stop() == 0
    assert silence["path"] == str(silent)
    assert incomplete["path"] == str(truncated)
    assert 0 < incomplete["played_s"] < incomplete["announced_s"] == 11.9


async def test_a_station_that_leads_to_a_private_address_is_named_and_the_session_stays_up(
    avatar: Avatar, tmp_path: Path
) -> None:
    async def answer(request: Request) -> None:
        await request.say("HTTP/1.1 302 Found", f"Location: {site.url('/private', host='127.0.0.2')}")

    async with web(answer) as site:
        setting = Setting(tmp_path, avatar.url).hears(site.url("/radio"))
        recording = setting.recording()
        async with setting.daemon() as daemon:
            refused = await daemon.logged("input_refused", level="error", session="leo")
            await daemon.logged("recording_started")
            await asyncio.sleep(1)
            assert await daemon.stop() == 0
        assert [request.path for request in site.requests] == ["/radio"]
    assert refused["input"] == "speech"
    assert refused["error"].startswith(f"input speech: {site.url('/radio')}: the server leads elsewhere, where the URL")
    assert recorded.n_pictures(recording) > 20


# ---------------------------------------------------------------------------------------------- the service


@pytest.mark.parametrize(
    ("mistake", "complaint"),
    [
        ({"license": f"{LICENSE}-of-yesterday"}, "Invalid license key"),
        ({"name": "navtalk.Nobody"}, "Avatar not found"),
    ],
)
async def test_a_wrong_licence_or_avatar_ends_the_session_but_no_other(
    mistake: dict[str, str], complaint: str, avatar: Avatar, tmp_path: Path
) -> None:
    setting = Setting(tmp_path, avatar.url)
    setting.recording()
    setting.add_session("mia", avatar.url, **mistake)  # type: ignore[arg-type]
    setting.recording(session="mia")
    async with setting.daemon() as daemon:
        ended = await daemon.logged("session_ended", level="error", session="mia")
        await daemon.metric_reaches(25, "added_latency_seconds_count", session="leo")
        metrics = await daemon.metrics()
        # That one session failed is told at the end, too.
        assert await daemon.stop() == 1
    assert complaint in ended["error"]
    assert "check the licence, avatar.name" in ended["error"]
    assert metrics.total("session_state", session="mia", state="failed") == 1
    assert metrics.total("session_state", session="leo", state="live") == 1


async def test_the_last_session_that_fails_ends_the_daemon(avatar: Avatar, tmp_path: Path) -> None:
    setting = Setting(tmp_path, avatar.url)
    setting.add_session("leo", avatar.url, license="sk_of_somebody_else")
    setting.recording()
    async with setting.daemon() as daemon:
        assert await daemon.exit_status() == 1
    assert "sk_of_somebody_else" not in daemon.everything()


# ---------------------------------------------------------------------------------------------- the disk


async def test_a_full_disk_ends_the_recording_and_not_the_broadcast(
    avatar: Avatar, nginx: NginxRtmp, tmp_path: Path
) -> None:
    setting = Setting(tmp_path, avatar.url).rtmp("live", nginx.rtmp_url)
    recording = setting.recording()
    within = (require_program("prlimit", "util-linux"), f"--fsize={FULL_AFTER_BYTES}")
    rejection = await _broadcast_with_a_disk_that_fills_up(setting.daemon(*within))
    assert str(recording) in rejection
    assert "raise the limit of file sizes" in rejection
    # The disk cut off what was being written; everything before it is there.
    assert len(recorded.tracks(recording)[0].packets) > 25
    assert recorded.n_pictures(nginx.finished_recording(STREAM_KEY)) >= 50


@pytest.mark.skipif(not is_root(), reason="only root can mount a file system")
async def test_a_file_system_without_space_ends_the_recording_and_not_the_broadcast(
    avatar: Avatar, nginx: NginxRtmp, tmp_path: Path
) -> None:
    setting = Setting(tmp_path, avatar.url).rtmp("live", nginx.rtmp_url)
    recording = setting.recording()
    recording.parent.mkdir()
    # Gone with the process: nothing has to be unmounted.
    mount = f'mount -t tmpfs -o size={FULL_AFTER_BYTES} none "{recording.parent}" && exec "$@"'
    within = (require_program("unshare", "util-linux"), "--mount", "sh", "-c", mount, "sh")
    rejection = await _broadcast_with_a_disk_that_fills_up(setting.daemon(*within))
    assert str(recording) in rejection
    assert "make room on that disk" in rejection
    assert recorded.n_pictures(nginx.finished_recording(STREAM_KEY)) >= 50


async def _broadcast_with_a_disk_that_fills_up(program: Daemon) -> str:
    async with program as daemon:
        rejected = await daemon.logged("output_rejected", output="archive")
        shown = (await daemon.metrics()).total("added_latency_seconds_count", output="live")
        await daemon.metric_reaches(shown + 25, "added_latency_seconds_count", output="live")
        metrics = await daemon.metrics()
        assert await daemon.stop() == 0
    assert metrics.total("output_state", output="archive", state="rejected") == 1
    assert metrics.total("output_state", output="live", state="publishing") == 1
    return str(rejected["error"])


# ---------------------------------------------------------------------------------------------- the configuration


async def test_a_port_in_use_is_status_2_and_named(avatar: Avatar, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        setting = Setting(tmp_path, avatar.url, http={"listen": address})
        setting.recording()
        async with setting.daemon() as daemon:
            assert await daemon.exit_status() == 2
    (line,) = daemon.stderr
    assert address in line
    assert "http.listen" in line


async def test_two_sessions_of_one_name_are_status_2_with_both_lines(avatar: Avatar, tmp_path: Path) -> None:
    setting = Setting(tmp_path, avatar.url)
    setting.recording()
    path = setting.write()
    text = path.read_text()
    session = text[text.index("  leo:") :]
    path.write_text(text + session)
    first, second = (number for number, line in enumerate(path.read_text().splitlines(), 1) if line == "  leo:")
    async with Daemon(path) as daemon:
        assert await daemon.exit_status() == 2
    (line,) = daemon.stderr
    assert f"{path}:{second}" in line
    assert "leo" in line
    assert f"line {first}" in line


# ---------------------------------------------------------------------------------------------- clients


@pytest.mark.serial
async def test_a_thousand_clients_that_ask_for_nothing_keep_nobody_out(avatar: Avatar, tmp_path: Path) -> None:
    prlimit = require_program("prlimit", "util-linux")
    setting = Setting(tmp_path, avatar.url)
    recording = setting.recording()
    async with setting.daemon(prlimit, "--nofile=1024") as daemon, AsyncExitStack() as held:
        await daemon.metric_reaches(25, "added_latency_seconds_count", output="archive")
        host, _, port = (await daemon.logged("http_listening"))["address"].rpartition(":")
        for _ in range(1000):
            _, writer = await asyncio.open_connection(host, int(port))
            held.callback(lambda writer=writer: writer.transport.abort())
        assert await daemon.get("/healthz") == "ok\n"
        written = (await daemon.metrics()).total("added_latency_seconds_count", output="archive")
        await daemon.metric_reaches(written + 25, "added_latency_seconds_count", output="archive")
        assert (await daemon.metrics()).total("freezes_total") == 0
        await held.aclose()
        assert await daemon.stop() == 0
    assert recorded.n_pictures(recording) >= 50
