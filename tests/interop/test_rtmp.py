"""RtmpOutput against nginx-rtmp, FFmpeg and servers that misbehave."""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import av
import pytest

from bridge.errors import OutputLost, OutputRejected, OutputWedged, RemoteProtocolError
from bridge.media.access_unit import AccessUnit
from bridge.media.live_queue import LiveQueue
from bridge.net.tls import Trust
from bridge.outputs.rtmp import RtmpDeadlines, RtmpOutput
from bridge.outputs.runner import reconnect_reason
from bridge.protocols import amf
from bridge.protocols.rtmp_chunks import ChunkWriter, Message, MessageType
from bridge.redact import Secret
from tests.interop import rtmp_media
from tests.interop.certificates import make_certificate
from tests.interop.nginx_rtmp import NginxRtmp, why_unavailable
from tests.interop.rtmp_server import ScriptedRtmp
from tests.unit.outputs.coded_media import with_changing_ids

# A test that hangs is a bug found; no step here takes a tenth of this.
TEST_S = 30.0
SHORT = RtmpDeadlines(connect_s=2.0, handshake_s=0.3, publish_s=5.0, wedged_s=0.6, close_s=1.0)
KEY = "canary-7f3a9"


@pytest.fixture
def nginx_is_there() -> None:
    if reason := why_unavailable():
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@pytest.fixture
def nginx(tmp_path: Path, nginx_is_there: None) -> Iterator[NginxRtmp]:
    with NginxRtmp(tmp_path / "nginx") as server:
        yield server


def output_to(port: int, deadlines: RtmpDeadlines = SHORT) -> RtmpOutput:
    return RtmpOutput(f"rtmp://127.0.0.1:{port}/live/{KEY}", deadlines=deadlines)


class Listener:
    """Remembers what an output said."""

    def __init__(self) -> None:
        self.published = asyncio.Event()
        self.written: list[AccessUnit] = []
        self._waiting: list[tuple[int, asyncio.Event]] = []

    def on_published(self) -> None:
        assert not self.published.is_set(), "on_published is called once"
        self.published.set()

    def on_written(self, unit: AccessUnit) -> None:
        self.written.append(unit)
        for n_units, event in self._waiting:
            if len(self.written) >= n_units:
                event.set()

    async def wrote(self, n_units: int) -> None:
        event = asyncio.Event()
        if len(self.written) >= n_units:
            return
        self._waiting.append((n_units, event))
        await event.wait()


def queue_of(units: Sequence[AccessUnit], *, is_finished: bool = True) -> LiveQueue:
    queue = LiveQueue(max_s=1000.0)
    for unit in units:
        queue.put(unit)
    if is_finished:
        queue.finish()
    return queue


async def publish(output: RtmpOutput, units: Sequence[AccessUnit]) -> Listener:
    listener = Listener()
    async with asyncio.timeout(TEST_S):
        await output.run(queue_of(units), listener)
    return listener


@contextlib.asynccontextmanager
async def live(output: RtmpOutput, units: Sequence[AccessUnit]) -> AsyncIterator[tuple[asyncio.Task[None], Listener]]:
    """An output that has written `units` and waits for more."""
    listener = Listener()
    async with asyncio.timeout(TEST_S):
        run = asyncio.create_task(output.run(queue_of(units, is_finished=False), listener))
        wrote = asyncio.create_task(listener.wrote(len(units)))
        await asyncio.wait((run, wrote), return_when=asyncio.FIRST_COMPLETED)
        try:
            yield run, listener
        finally:
            run.cancel()
            wrote.cancel()
            await asyncio.gather(run, wrote, return_exceptions=True)


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def server_that(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server of our own that treats every connection by `serve`; yields its port, leaves no task behind."""
    running: dict[asyncio.Task[None], asyncio.Task[None]] = {}

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        wrapper = asyncio.current_task()
        assert wrapper is not None
        running[task] = wrapper
        await asyncio.wait((task,))
        writer.transport.abort()

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, *running.values(), return_exceptions=True)


def read_flv(path: Path | str) -> dict[str, list[tuple[float, int]]]:
    """Seconds and size of every packet by track, after decoding all pictures and all sound."""
    packets: dict[str, list[tuple[float, int]]] = {"video": [], "audio": []}
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.pts is None or packet.stream.type not in packets:
                continue  # the latter: metadata in the middle of a file
            packets[packet.stream.type].append((float(packet.pts * packet.time_base), packet.size))
            packet.decode()
    return packets


def steps(packets: Sequence[tuple[float, int]]) -> list[float]:
    times = [time_s for time_s, _ in packets]
    return [round(b - a, 6) for a, b in itertools.pairwise(times)]


async def recording(nginx: NginxRtmp, name: str) -> Path:
    return await asyncio.to_thread(nginx.finished_recording, name)


# ---------------------------------------------------------------------------------------------- nginx-rtmp


async def test_nginx_records_every_picture_and_all_sound(nginx: NginxRtmp) -> None:
    units = rtmp_media.units(3.0)

    listener = await publish(RtmpOutput(nginx.rtmp_url, Secret(KEY)), units)

    packets = read_flv(await recording(nginx, KEY))
    assert listener.written == list(units)
    assert len(packets["video"]) == 75
    assert set(steps(packets["video"])) == {0.04}
    assert len(packets["audio"]) == sum(u.codec.kind == "audio" for u in units)
    assert set(steps(packets["audio"])) <= {0.021, 0.022}
    assert packets["video"][0][0] == packets["audio"][0][0] == 0.0


async def test_nginx_records_pictures_whose_parameter_sets_change_at_each_keyframe(nginx: NginxRtmp) -> None:
    await publish(RtmpOutput(nginx.rtmp_url, Secret(KEY)), with_changing_ids(rtmp_media.units(3.0)))

    with av.open(str(await recording(nginx, KEY))) as container:
        assert len([frame for frame in container.decode(video=0) if not frame.is_corrupt]) == 75


async def test_progress_ends_at_all_that_was_written(nginx: NginxRtmp) -> None:
    output = RtmpOutput(nginx.rtmp_url, Secret(KEY))

    await publish(output, rtmp_media.units(3.0))

    media_bytes = sum(len(unit.payload) for unit in rtmp_media.units(3.0))
    assert media_bytes < output.progress().bytes_total < 1.1 * media_bytes
    assert output.progress().backlog_bytes <= 1  # our own end of the connection counts as a byte until acknowledged


async def test_a_wrong_key_is_refused_in_an_error_that_names_the_output_but_not_the_key(nginx: NginxRtmp) -> None:
    with pytest.raises(OutputRejected) as caught:
        await publish(RtmpOutput(nginx.rtmp_url, Secret("wrong-canary")), rtmp_media.units(1.0))

    assert f"127.0.0.1:{nginx.rtmp_port}/live" in str(caught.value)
    assert "stream key" in str(caught.value)
    assert "canary" not in repr(caught.value)


async def test_a_name_that_is_taken_is_worth_another_try(nginx: NginxRtmp) -> None:
    async with live(RtmpOutput(f"{nginx.rtmp_url}/{KEY}"), rtmp_media.units(1.0)):
        with pytest.raises(OutputLost, match="Already publishing") as caught:
            await publish(RtmpOutput(f"{nginx.rtmp_url}/{KEY}"), rtmp_media.units(1.0))

    assert KEY not in str(caught.value)


async def test_an_unknown_application_ends_in_an_error_that_names_the_step(nginx: NginxRtmp) -> None:
    with pytest.raises(OutputLost, match="before the answer to connect"):
        await publish(RtmpOutput(f"rtmp://127.0.0.1:{nginx.rtmp_port}/nosuchapp/{KEY}"), rtmp_media.units(1.0))


async def test_a_publisher_thrown_out_by_the_server_is_lost(nginx: NginxRtmp) -> None:
    async with live(RtmpOutput(nginx.rtmp_url, Secret(KEY)), rtmp_media.units(1.0)) as (run, _):
        nginx.drop("live", KEY)
        with pytest.raises(OutputLost, match="closed the connection"):
            await run


async def test_a_server_that_dies_and_comes_back_takes_the_next_connection(nginx: NginxRtmp) -> None:
    async with live(RtmpOutput(nginx.rtmp_url, Secret(KEY)), rtmp_media.units(1.0)) as (run, _):
        nginx.kill()
        with pytest.raises(OutputLost):
            await run
    with pytest.raises(OutputLost, match="cannot connect"):
        await publish(RtmpOutput(nginx.rtmp_url, Secret(KEY)), rtmp_media.units(1.0))

    nginx.restart()

    await publish(RtmpOutput(nginx.rtmp_url, Secret("after")), rtmp_media.units(1.0))
    assert len(read_flv(await recording(nginx, "after"))["video"]) == 25


async def test_a_cancelled_output_leaves_the_server_properly(nginx: NginxRtmp) -> None:
    units = rtmp_media.units(1.0)
    async with live(RtmpOutput(nginx.rtmp_url, Secret(KEY)), units) as (run, _):
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    assert len(read_flv(await recording(nginx, KEY))["video"]) == 25


async def test_pings_of_the_server_are_answered_while_nothing_is_sent(tmp_path: Path, nginx_is_there: None) -> None:
    async with (
        NginxRtmp(tmp_path, ping_timeout_s=1) as server,
        live(RtmpOutput(server.rtmp_url, Secret(KEY)), rtmp_media.units(1.0)) as (run, _),
    ):
        done, _ = await asyncio.wait((run,), timeout=2.5)

        assert not done
        assert server.publishing() == [KEY]


@pytest.mark.parametrize("chunk_bytes", [65_536, 1_000])
@pytest.mark.parametrize("crossing_ms", [2**24, 2**31, 2**32])
async def test_nginx_records_evenly_across_a_timestamp_limit(
    nginx: NginxRtmp, crossing_ms: int, chunk_bytes: int
) -> None:
    output = RtmpOutput(nginx.rtmp_url, Secret(KEY), first_timestamp_ms=crossing_ms - 1500, chunk_bytes=chunk_bytes)

    await publish(output, rtmp_media.units(3.0))

    packets = read_flv(await recording(nginx, KEY))
    assert len(packets["video"]) == 75
    assert set(steps(packets["video"])) == {0.04}
    assert set(steps(packets["audio"])) <= {0.021, 0.022}


# ---------------------------------------------------------------------------------------------- FFmpeg

_FFMPEG_LISTENER = """
import av, contextlib, json, sys
packets = []
with av.open(sys.argv[1], options={"listen": "1", "timeout": "20"}) as container:
    # FFmpeg reports the end of a broadcast that it listened to as an input/output error.
    with contextlib.suppress(av.error.OSError):
        for packet in container.demux():
            if packet.pts is not None:
                packets.append((packet.stream.type, float(packet.pts * packet.time_base), packet.size))
print(json.dumps(packets))
"""


@pytest.fixture
def ffmpeg_listener() -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """FFmpeg in a process of its own that takes one broadcast and prints its packets; with its URL."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"rtmp://127.0.0.1:{port}/live/{KEY}"
    with subprocess.Popen([sys.executable, "-c", _FFMPEG_LISTENER, url], stdout=subprocess.PIPE) as process:
        yield url, process
        process.kill()


@pytest.mark.parametrize("chunk_bytes", [65_536, 1_000])
@pytest.mark.parametrize("first_timestamp_ms", [0, 2**24 - 1500, 2**31 - 1500, 2**32 - 1500])
async def test_ffmpeg_reads_evenly_across_a_timestamp_limit(
    ffmpeg_listener: tuple[str, "subprocess.Popen[bytes]"], first_timestamp_ms: int, chunk_bytes: int
) -> None:
    url, process = ffmpeg_listener
    async with asyncio.timeout(TEST_S):
        is_listening = False
        while not is_listening:
            output = RtmpOutput(url, first_timestamp_ms=first_timestamp_ms, chunk_bytes=chunk_bytes)
            try:
                await publish(output, rtmp_media.units(3.0))
                is_listening = True
            except OutputLost as error:
                # FFmpeg has no way to say that it listens now.
                assert "cannot connect" in str(error)
                await asyncio.sleep(0.05)
        text, _ = await asyncio.to_thread(process.communicate)

    packets = json.loads(text)
    video = [(time_s, size) for kind, time_s, size in packets if kind == "video"]
    audio = [(time_s, size) for kind, time_s, size in packets if kind == "audio"]
    assert len(video) == 75
    assert set(steps(video)) == {0.04}
    assert len(audio) == sum(unit.codec.kind == "audio" for unit in rtmp_media.units(3.0))
    assert set(steps(audio)) <= {0.021, 0.022}


# ---------------------------------------------------------------------------------------------- servers that misbehave


async def test_a_server_that_is_absent_is_lost() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"rtmp://127.0.0.1:{unused.getsockname()[1]}/live/{KEY}"
        with pytest.raises(OutputLost, match="cannot connect") as caught:
            await publish(RtmpOutput(url), rtmp_media.units(1.0))
    assert KEY not in str(caught.value)


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> str:
    """A name with these addresses, in this order."""
    families = [socket.AF_INET6 if ":" in host else socket.AF_INET for host, _ in addresses]
    found = [(f, socket.SOCK_STREAM, 6, "", address) for f, address in zip(families, addresses, strict=True)]

    async def getaddrinfo(*args: object, **kwargs: object) -> object:
        return found

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    return "several.test"


async def test_a_server_that_is_refused_at_all_its_addresses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused, socket.socket() as unused_too:
        for closed in (unused, unused_too):
            closed.bind(("127.0.0.1", 0))
        name = resolve_to(monkeypatch, unused.getsockname(), unused_too.getsockname())
        with pytest.raises(OutputLost, match="cannot connect: Connection refused") as caught:
            await publish(RtmpOutput(f"rtmp://{name}/live/{KEY}"), rtmp_media.units(1.0))
    assert reconnect_reason(caught.value) == "refused"


async def test_an_address_that_does_not_answer_costs_a_fraction_of_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()

    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as waiting:
        waiting.enter_context(socket.create_connection(full.getsockname()))
        async with server_that(serve) as port:
            name = resolve_to(monkeypatch, full.getsockname(), ("127.0.0.1", port))
            # The system gives the first address up after minutes.
            with pytest.raises(OutputLost, match=r"closed the connection|reset by peer"):
                await publish(RtmpOutput(f"rtmp://{name}/live/{KEY}"), rtmp_media.units(1.0))
    assert reached.is_set()


async def test_a_server_that_does_not_accept_is_lost_at_the_connect_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as waiting:
        # One connection fills a queue of length 0; the kernel ignores who comes after it.
        waiting.enter_context(socket.create_connection(full.getsockname()))
        output = output_to(full.getsockname()[1], dataclasses.replace(SHORT, connect_s=0.3))
        with pytest.raises(OutputLost, match=r"no connection within 0\.3 s"):
            await publish(output, rtmp_media.units(1.0))


async def test_a_host_name_that_cannot_be_one_is_the_operators_mistake() -> None:
    with pytest.raises(OutputRejected, match="host name is malformed"):
        await publish(RtmpOutput(f"rtmp://{'x' * 64}.test/live/{KEY}"), rtmp_media.units(1.0))


async def test_a_connection_that_is_reset_at_the_publish_request_is_worth_another_try() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1537)
        writer.write(b"\3" + bytes(3072))
        chunks = ChunkWriter()
        for transaction in (1.0, 4.0):
            body = amf.encode("_result", transaction, None, 1.0)
            writer.write(chunks.write(3, Message(MessageType.COMMAND_AMF0, 0, 0, body)))
        await reader.readuntil(b"publish")
        tcp = writer.get_extra_info("socket")
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with server_that(serve) as port:
        with pytest.raises(OutputLost, match="reset by peer before the answer to publish"):
            await publish(output_to(port), rtmp_media.units(1.0))


@pytest.mark.parametrize("waits", [True, False], ids=["from the queue", "at once"])
async def test_a_unit_is_reported_written_only_once_the_kernel_has_all_of_it(waits: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1537)
        writer.write(b"\3" + bytes(3072))
        chunks = ChunkWriter()
        for transaction in (1.0, 4.0):
            body = amf.encode("_result", transaction, None, 1.0)
            writer.write(chunks.write(3, Message(MessageType.COMMAND_AMF0, 0, 0, body)))
        await reader.readuntil(b"publish")
        started = amf.encode("onStatus", 0.0, None, {"level": "status", "code": "NetStream.Publish.Start"})
        writer.write(chunks.write(3, Message(MessageType.COMMAND_AMF0, 1, 0, started)))
        await asyncio.Event().wait()  # and reads nothing any more

    left_over: list[int] = []

    class Kernel(Listener):
        def on_written(self, unit: AccessUnit) -> None:
            assert output._link is not None and output._link._transport is not None
            left_over.append(output._link._transport.get_write_buffer_size())

    async with server_that(serve) as port:
        output, listener = output_to(port), Kernel()
        units = rtmp_media.units(4.0, bit_rate=8_000_000)
        if waits:
            with pytest.raises(OutputWedged):
                await output.run(queue_of(units), listener)
        else:
            queue = queue_of([], is_finished=False)
            running = asyncio.create_task(output.run(queue, listener))
            await listener.published.wait()
            await asyncio.sleep(0)  # it waits for units now
            for unit in units:
                queue.put(unit)
                await asyncio.sleep(0)
            with pytest.raises(OutputWedged):
                await running

    assert output.progress().backlog_bytes > 0
    assert left_over and set(left_over) == {0}
    assert len(left_over) < len(units)


async def test_a_picture_is_written_within_put_and_sound_in_its_turn() -> None:
    units = rtmp_media.units(1.0)
    keyframe, *pictures = [unit for unit in units if unit.codec.kind == "video"]
    sound = next(unit for unit in units if unit.codec.kind == "audio")
    async with ScriptedRtmp() as server:
        listener, queue = Listener(), queue_of([keyframe], is_finished=False)
        running = asyncio.create_task(RtmpOutput(f"{server.url}/{KEY}").run(queue, listener))
        await listener.published.wait()
        await listener.wrote(1)
        await asyncio.sleep(0)  # it waits for units now
        queue.put(pictures[0])
        assert listener.written == [keyframe, pictures[0]]
        queue.put(sound)
        queue.put(pictures[1])
        assert listener.written == [keyframe, pictures[0]], "it is not to overtake the sound"
        await listener.wrote(4)
        assert listener.written[2:] == [sound, pictures[1]]
        queue.finish()
        await running
        await server.until(lambda: len(server.publications[0].pictures) == 3)


async def test_a_server_that_accepts_and_stays_mute_is_lost_at_the_handshake_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"rtmp://127.0.0.1:{mute.getsockname()[1]}/live/{KEY}"
        with pytest.raises(OutputLost, match=r"the handshake did not come within 0\.3 s"):
            await publish(RtmpOutput(url, deadlines=SHORT), rtmp_media.units(1.0))


async def test_a_server_that_falls_mute_after_the_handshake_is_lost_at_the_publish_deadline() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1537)
        writer.write(b"\3" + bytes(3072))
        await reader.read()

    async with server_that(serve) as port:
        output = output_to(port, dataclasses.replace(SHORT, publish_s=0.3))
        with pytest.raises(OutputLost, match=r"the answer to connect did not come within 0\.3 s"):
            await publish(output, rtmp_media.units(1.0))


async def test_a_web_server_is_named_as_none_for_rtmp() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async with server_that(serve) as port:
        with pytest.raises(OutputLost, match="does not speak RTMP") as caught:
            await publish(output_to(port), rtmp_media.units(1.0))
    assert isinstance(caught.value.__cause__, RemoteProtocolError)


class Relay:
    """Stands between an output and nginx; can stop reading, or reset the connection."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._client: asyncio.Transport | None = None

    def stop_reading(self) -> None:
        assert self._client is not None
        self._client.pause_reading()

    def reset(self) -> None:
        assert self._client is not None
        tcp = self._client.get_extra_info("socket")
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._client.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._client = writer.transport
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        back = asyncio.ensure_future(self._copy(server_reader, writer))
        try:
            await self._copy(reader, server_writer)
        finally:
            server_writer.close()
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)


async def test_a_connection_that_is_reset_while_live_is_lost(nginx: NginxRtmp) -> None:
    relay = Relay(nginx.rtmp_port)
    async with server_that(relay.serve) as port, live(output_to(port), rtmp_media.units(1.0)) as (run, _):
        relay.reset()
        with pytest.raises(OutputLost, match="reset") as caught:
            await run
    # The runner's metric tells a reset from other losses by it.
    assert isinstance(caught.value.__cause__, ConnectionResetError)


@contextlib.asynccontextmanager
async def wedged(
    nginx: NginxRtmp, tls: ssl.SSLContext | None, trust: Trust | None
) -> AsyncIterator[tuple[asyncio.Task[None], RtmpOutput, LiveQueue]]:
    """A live output with more to send than the sockets hold, whose server just stopped reading."""
    relay = Relay(nginx.rtmp_port)
    queue, listener = LiveQueue(max_s=1000.0), Listener()
    large = rtmp_media.units(4.0, 1280, 720, 20_000_000)
    async with server_that(relay.serve, tls) as port, asyncio.timeout(TEST_S):
        scheme = "rtmps" if trust else "rtmp"
        output = RtmpOutput(f"{scheme}://127.0.0.1:{port}/live/{KEY}", deadlines=SHORT, trust=trust)
        run = asyncio.create_task(output.run(queue, listener))
        await listener.published.wait()
        relay.stop_reading()
        for unit in large:
            queue.put(unit)
        yield run, output, queue


async def test_a_server_that_stops_reading_is_lost_as_wedged_and_leaves_units_in_the_queue(nginx: NginxRtmp) -> None:
    async with wedged(nginx, None, None) as (run, output, queue):
        with pytest.raises(OutputWedged, match="stopped reading"):
            await run

    progress = output.progress()
    assert queue.lag_s > 0
    assert progress.backlog_bytes > 0
    # What was given up did not become progress.
    assert output.progress() == progress


async def test_a_server_that_stops_reading_is_lost_as_wedged_over_tls_too(
    nginx: NginxRtmp, server_tls: ssl.SSLContext, trust: Trust
) -> None:
    async with wedged(nginx, server_tls, trust) as (run, output, queue):
        with pytest.raises(OutputWedged, match="stopped reading"):
            await run

    assert queue.lag_s > 0
    assert output.progress().backlog_bytes > 0


async def test_an_output_to_a_server_that_stops_reading_can_be_cancelled(nginx: NginxRtmp) -> None:
    async with wedged(nginx, None, None) as (run, output, _):
        # The queue was full of work when it was handed over: one turn of the loop fills the sockets.
        await asyncio.sleep(0)
        assert output.progress().backlog_bytes > 0
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run


# ---------------------------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 that nobody signed, in one PEM file."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    make_certificate(path)
    return path


@pytest.fixture
def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def trust(certificate: Path) -> Trust:
    return Trust(certificate)


async def test_nginx_records_what_comes_over_tls(nginx: NginxRtmp, trust: Trust, server_tls: ssl.SSLContext) -> None:
    async with server_that(Relay(nginx.rtmp_port).serve, server_tls) as port:
        await publish(RtmpOutput(f"rtmps://127.0.0.1:{port}/live/{KEY}", trust=trust), rtmp_media.units(3.0))

    assert len(read_flv(await recording(nginx, KEY))["video"]) == 75


async def test_a_wrong_key_is_refused_over_tls_too(nginx: NginxRtmp, trust: Trust, server_tls: ssl.SSLContext) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", nginx.rtmp_port)
        forth = asyncio.ensure_future(Relay(0)._copy(reader, server_writer))
        await Relay(0)._copy(server_reader, writer)
        writer.close()
        await forth
        server_writer.close()

    async with server_that(serve, server_tls) as port:
        with pytest.raises(OutputRejected, match="stream key"):
            await publish(RtmpOutput(f"rtmps://127.0.0.1:{port}/live/wrong", trust=trust), rtmp_media.units(1.0))


async def test_a_certificate_that_nobody_signed_is_refused(server_tls: ssl.SSLContext) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with server_that(serve, server_tls) as port:
        with pytest.raises(OutputRejected, match="certificate") as caught:
            await publish(RtmpOutput(f"rtmps://127.0.0.1:{port}/live/{KEY}"), rtmp_media.units(1.0))
    assert KEY not in str(caught.value)


async def test_a_server_without_tls_is_lost_when_tls_was_asked_for() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"\3" + bytes(3072))
        await reader.read()

    async with server_that(serve) as port:
        with pytest.raises(OutputLost, match="cannot connect"):
            await publish(RtmpOutput(f"rtmps://127.0.0.1:{port}/live/{KEY}"), rtmp_media.units(1.0))
