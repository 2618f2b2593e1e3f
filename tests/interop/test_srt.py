"""SrtOutput against srt-live-transmit and FFmpeg, by the system's FFmpeg."""

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import av
import pytest

from bridge.errors import ConfigError, OutputLost, OutputRejected
from bridge.media.access_unit import AccessUnit
from bridge.media.clock import NS_PER_S
from bridge.media.live_queue import LiveQueue
from bridge.outputs import srt
from bridge.outputs.runner import OutputRunner
from bridge.outputs.srt import SrtDeadlines, SrtOutput, TransportStream, find_program
from bridge.outputs.srt_sender import DATAGRAM_BYTES
from bridge.outputs.status import OutputState
from bridge.redact import Secret
from tests.conftest import require_program
from tests.e2e.processes import arguments_of, descendants
from tests.interop import rtmp_media
from tests.interop.ffmpeg import ffmpeg
from tests.interop.test_slate_players import run
from tests.unit.outputs.coded_media import pictures

pytestmark = pytest.mark.peer

UNITS = rtmp_media.units(3.0)
PASSPHRASE = "canary-Passphrase=1 é"
PATIENCE_S = 15.0
LATENCY_MS = 50
DEADLINES = SrtDeadlines(connect_s=1.0)


@pytest.fixture
def port() -> int:
    """A UDP port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


def output(
    port: int,
    parameters: str = "",
    passphrase: str | None = None,
    program: str | None = None,
    latency_ms: int = LATENCY_MS,
) -> SrtOutput:
    require_program("ffmpeg")
    secret = Secret(passphrase) if passphrase else None
    url = f"srt://127.0.0.1:{port}?latency={latency_ms}{parameters}"
    return SrtOutput(url, secret, program=program or find_program(), deadlines=DEADLINES)


class Listener:
    def __init__(self) -> None:
        self._published = asyncio.Event()
        self.written: list[AccessUnit] = []

    def on_published(self) -> None:
        self._published.set()

    def on_written(self, unit: AccessUnit) -> None:
        self.written.append(unit)

    @property
    def is_published(self) -> bool:
        return self._published.is_set()

    async def published(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self._published.wait()

    def on_replaced(self, reason: str) -> None:
        pass

    def on_keyframe_request(self) -> None:
        pass


def waiting(units: Sequence[AccessUnit], *, is_finished: bool = True) -> LiveQueue:
    queue = LiveQueue(3600.0)
    for unit in units:
        queue.put(unit)
    if is_finished:
        queue.finish()
    return queue


@contextlib.asynccontextmanager
async def receiver(url: str, path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """srt-live-transmit, from there to a file."""
    program = require_program("srt-live-transmit", "srt-tools")
    with path.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(program, "-autoreconnect:no", "-loglevel:fatal", "-statsout:/dev/null", url, "file://con"),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.DEVNULL,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()


def listening(port: int, parameters: str = "") -> str:
    return f"srt://127.0.0.1:{port}?mode=listener&latency={LATENCY_MS}{parameters}"


async def until(is_so: Callable[[], bool]) -> None:
    """Sockets and files of other processes announce nothing."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def is_bound(port: int) -> bool:
    wanted = f":{port:04X}"
    return any(wanted in line.split()[1] for line in Path("/proc/net/udp").read_text().splitlines()[1:])


def times_s(path: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"video": [], "audio": []}
    with av.open(str(path)) as media:
        for packet in media.demux():
            if packet.size and packet.pts is not None and packet.time_base is not None:
                found[packet.stream.type].append(float(packet.pts * packet.time_base))
    return found


def programs() -> list[int]:
    return [pid for pid in descendants(os.getpid()) if b"-progress" in arguments_of(pid).encode()]


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE], ids=["plain", "encrypted"])
async def test_every_picture_and_every_sound_arrives_at_its_time(
    passphrase: str | None, port: int, tmp_path: Path
) -> None:
    path = tmp_path / "received.ts"
    key = f"&passphrase={passphrase}" if passphrase else ""
    async with receiver(listening(port, key), path) as process:
        await until(lambda: is_bound(port))
        sending, listener = output(port, passphrase=passphrase), Listener()
        await sending.run(waiting(UNITS), listener)
        async with asyncio.timeout(PATIENCE_S):
            await process.wait()

    found = times_s(path)
    for kind in ("video", "audio"):
        sent = [unit.pts_ns / 1e9 for unit in UNITS if unit.codec.kind == kind]
        start_s = found[kind][0]
        assert [time_s - start_s for time_s in found[kind]] == pytest.approx(sent, abs=0.001)
    assert found["video"][0] == pytest.approx(found["audio"][0], abs=0.001)
    # A picture leaves with the next one.
    for kind in ("video", "audio"):
        assert [unit for unit in listener.written if unit.codec.kind == kind] == [
            unit for unit in UNITS if unit.codec.kind == kind
        ]
    assert sending.progress().bytes_total == path.stat().st_size
    await run(ffmpeg("distribution"), "-v", "error", "-xerror", "-i", path, "-f", "null", "-")


async def test_the_end_of_a_broadcast_is_played_before_the_connection_ends(port: int, tmp_path: Path) -> None:
    """A receiver holds back what it gets for the latency, and drops it when the connection ends before that."""
    queue, listener = waiting((), is_finished=False), Listener()
    running = asyncio.create_task(output(port, "&mode=listener", latency_ms=400).run(queue, listener))
    await until(lambda: is_bound(port))
    path = tmp_path / "received.ts"
    async with receiver(f"srt://127.0.0.1:{port}?mode=caller&latency=400", path) as process:
        await listener.published()
        began_ns = time.monotonic_ns()
        for unit in UNITS:
            await asyncio.sleep((began_ns + unit.pts_ns - time.monotonic_ns()) / NS_PER_S)
            queue.put(unit)
        queue.finish()
        async with asyncio.timeout(PATIENCE_S):
            await running
            await process.wait()
    assert len(times_s(path)["video"]) == 75


async def test_another_size_of_the_picture_goes_on_in_the_same_connection(port: int, tmp_path: Path) -> None:
    path = tmp_path / "received.ts"
    second = pictures(50, starts_ns=2_000_000_000, width_px=640, height_px=360, profile="high")
    async with receiver(listening(port), path) as process:
        await until(lambda: is_bound(port))
        async with asyncio.timeout(PATIENCE_S):
            await output(port).run(waiting([*pictures(50), *second]), Listener())
            await process.wait()

    with av.open(str(path)) as media:
        sizes = [(frame.width, frame.height) for frame in media.decode(video=0)]
    assert sizes == [(320, 240)] * 50 + [(640, 360)] * 50


@pytest.mark.parametrize("theirs", [f"&passphrase={PASSPHRASE}x", ""], ids=["another", "none"])
async def test_a_wrong_passphrase_is_refused_and_said_without_it(theirs: str, port: int, tmp_path: Path) -> None:
    async with receiver(listening(port, theirs), tmp_path / "received.ts"):
        await until(lambda: is_bound(port))
        with pytest.raises(
            OutputRejected, match=rf"srt://127\.0\.0\.1:{port}: refused: .*[Pp]ass(word|phrase)"
        ) as caught:
            await output(port, passphrase=PASSPHRASE).run(waiting(UNITS), Listener())
    assert "anary" not in str(caught.value)
    assert not programs()


async def test_nobody_there_is_found_out_in_time(port: int) -> None:
    listener = Listener()
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(OutputLost, match=rf"srt://127\.0\.0\.1:{port}: "):
            await output(port).run(waiting(UNITS), listener)
    assert not listener.is_published


async def test_no_secret_stands_among_the_arguments(port: int, tmp_path: Path) -> None:
    async with receiver(listening(port, f"&passphrase={PASSPHRASE}"), tmp_path / "received.ts"):
        await until(lambda: is_bound(port))
        sending, listener = output(port, "&streamid=%23canary-id", PASSPHRASE), Listener()
        running = asyncio.create_task(sending.run(waiting(UNITS, is_finished=False), listener))
        await listener.published()
        (pid,) = programs()
        assert "anary" not in arguments_of(pid)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert not programs()


@contextlib.asynccontextmanager
async def on_air(opener: Callable[[], SrtOutput]) -> AsyncIterator[OutputRunner]:
    """A runner, and live media for it."""
    queue = LiveQueue(2.0)
    runner = OutputRunner("srt", opener, queue, protocol="srt")
    loop = asyncio.get_running_loop()

    async def feed() -> None:
        start_s = loop.time()
        for number in itertools.count():
            for unit in rtmp_media.units(1.0):
                placed = replace(unit, pts_ns=unit.pts_ns + number * NS_PER_S)
                await asyncio.sleep(start_s + placed.pts_ns / NS_PER_S - loop.time())
                queue.put(placed)

    feeding, running = asyncio.create_task(feed()), asyncio.create_task(runner.run())
    try:
        yield runner
    finally:
        feeding.cancel()
        runner.finish()
        async with asyncio.timeout(PATIENCE_S):
            await running
        await asyncio.wait((feeding,))
    assert not programs()


async def test_a_program_that_was_killed_comes_back_and_a_listener_that_went_is_missed(
    port: int, tmp_path: Path
) -> None:
    async with on_air(lambda: output(port)) as runner:
        async with receiver(listening(port), tmp_path / "first.ts"):
            await until(lambda: runner.state is OutputState.PUBLISHING)
            (pid,) = programs()
            os.kill(pid, signal.SIGKILL)
        async with receiver(listening(port), tmp_path / "second.ts"):
            await until(lambda: runner.status().accepted == 2)
            await until(lambda: (tmp_path / "second.ts").stat().st_size > 50 * DATAGRAM_BYTES)
        # SRT misses one that was killed after 5 s without a word.
        await until(lambda: runner.state is OutputState.BACKING_OFF)
    assert runner.state is OutputState.CLOSED
    assert runner.status().retries >= 1


async def test_a_stream_that_cannot_be_ended_properly_is_ended_all_the_same(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(stream: TransportStream) -> bytes:
        raise av.FFmpegError(1, "cannot be muxed")

    monkeypatch.setattr(TransportStream, "finish", broken)
    async with receiver(listening(port), tmp_path / "received.ts"):
        await until(lambda: is_bound(port))
        async with asyncio.timeout(PATIENCE_S):
            await output(port).run(waiting(UNITS), Listener())
    assert not programs()


async def test_a_program_that_hangs_takes_nothing_and_is_ended_all_the_same(port: int, tmp_path: Path) -> None:
    async with receiver(listening(port), tmp_path / "received.ts"):
        await until(lambda: is_bound(port))
        sending, listener = output(port), Listener()
        queue = waiting([], is_finished=False)
        running = asyncio.create_task(sending.run(queue, listener))
        await listener.published()
        (pid,) = programs()
        os.kill(pid, signal.SIGSTOP)
        for unit in rtmp_media.units(3.0, 640, 360, 4_000_000):
            queue.put(unit)
        await until(lambda: sending.progress().backlog_bytes > 0 and queue.lag_s > 0.5)
        running.cancel()
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(asyncio.CancelledError):
                await running
    assert not programs()


async def test_a_listener_waits_for_its_caller_in_one_program_after_the_other(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(srt, "_LISTEN_S", 1.0)
    sending, listener = output(port, "&mode=listener", PASSPHRASE), Listener()
    running = asyncio.create_task(sending.run(waiting(UNITS), listener))
    await until(lambda: is_bound(port))
    first = programs()
    monkeypatch.setattr(srt, "_LISTEN_S", PATIENCE_S)
    await until(lambda: programs() not in (first, []) and is_bound(port))
    assert not listener.is_published
    caller = f"srt://127.0.0.1:{port}?mode=caller&latency=50&passphrase={PASSPHRASE}"
    async with receiver(caller, tmp_path / "received.ts") as process, asyncio.timeout(PATIENCE_S):
        await running
        await process.wait()
    assert len(times_s(tmp_path / "received.ts")["video"]) == 75


async def test_what_a_program_says_last_is_told_without_secrets(port: int, tmp_path: Path) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text(f"#!/bin/sh\necho 'it broke at {PASSPHRASE}' >&2; exit 1\n")
    program.chmod(0o755)
    with pytest.raises(OutputLost, match=r"it broke at \*\*\*"):
        await output(port, passphrase=PASSPHRASE, program=str(program)).run(waiting(UNITS), Listener())


async def test_a_program_without_srt_is_the_operator_s_to_replace(port: int, tmp_path: Path) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho \"Invalid option or argument: 'passphrase=canary'\" >&2; exit 1\n")
    program.chmod(0o755)
    with pytest.raises(OutputRejected, match="has no SRT; install an FFmpeg that has libsrt") as caught:
        await output(port, program=str(program)).run(waiting(UNITS), Listener())
    assert "canary" not in str(caught.value)


def test_without_the_program_the_configuration_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"needs the program ffmpeg, with libsrt .*apt-get install ffmpeg"):
        find_program()


def test_datagrams_are_whole_and_begin_with_a_keyframe() -> None:
    stream = TransportStream()
    assert stream.push(UNITS[1:10]) == b""
    pieces = [stream.push(UNITS[start : start + 4]) for start in range(0, len(UNITS), 4)]
    pieces.append(stream.finish())
    assert not any(len(piece) % DATAGRAM_BYTES for piece in pieces)
    assert {piece[start] for piece in pieces for start in range(0, len(piece), 188)} == {0x47}
