"""RtmpOutput against servers that break the protocol: an error that says so, within the deadlines, and nothing else."""

import asyncio
import socket
import struct
from collections.abc import Callable

import pytest

from bridge.errors import OutputError, OutputLost, OutputRejected
from bridge.outputs.rtmp import RtmpDeadlines, RtmpOutput
from bridge.protocols import amf
from bridge.protocols.rtmp_chunks import MessageType
from tests.interop import rtmp_media
from tests.interop.rtmp_server import Publication, ScriptedRtmp
from tests.interop.test_rtmp import publish, server_that
from tests.interop.test_rtmp_reconnect import broadcasting

KEY = "canary-7f3a9"
SHORT = RtmpDeadlines(connect_s=2.0, handshake_s=1.0, publish_s=1.0, wedged_s=5.0, close_s=1.0)

Act = Callable[[Publication], object]


def deep(depth: int) -> bytes:
    """Objects in objects, deeper than any interpreter's stack."""
    return amf.encode("onStatus", 0.0) + (b"\x03\x00\x01a" * depth)


ACTS: dict[str, tuple[Act, type[OutputError], str]] = {
    "chunk size 0": (lambda p: p.send(MessageType.SET_CHUNK_SIZE, bytes(4)), OutputLost, "sets a chunk size of 0"),
    "chunk size 2**31": (
        lambda p: p.send(MessageType.SET_CHUNK_SIZE, b"\x80\0\0\0"),
        OutputLost,
        "sets a chunk size of 2147483648",
    ),
    "half a chunk size": (lambda p: p.send(MessageType.SET_CHUNK_SIZE, b"\0\1"), OutputLost, "of 2 bytes"),
    "message of 16 MiB": (
        lambda p: p.writer.write(b"\x03\0\0\0\xff\xff\xff\x14\0\0\0\0" + bytes(1000)),
        OutputLost,
        "message of 16777215 bytes",
    ),
    "hundreds of chunk streams": (
        lambda p: [p.writer.write(bytes([0, n]) + bytes(3) + b"\0\0\1\x63" + bytes(5)) for n in range(256)],
        OutputLost,
        "more than 64 chunk streams",
    ),
    "AMF without end": (lambda p: p.send(MessageType.COMMAND_AMF0, deep(3)), OutputLost, "ends inside a value"),
    "AMF bomb of depth": (lambda p: p.send(MessageType.COMMAND_AMF0, deep(10_000)), OutputLost, "nests deeper"),
    "AMF bomb of length": (
        lambda p: p.send(MessageType.COMMAND_AMF0, amf.encode("onStatus", 0.0) + b"\x0a\xff\xff\xff\xff"),
        OutputLost,
        "ends inside a value",
    ),
    "AMF3 object": (lambda p: p.send(MessageType.COMMAND_AMF3, b"\0\x11\x0a\x0b"), OutputLost, "type 0x11 is unknown"),
    "error about a broadcast": (
        lambda p: p.status("error", "NetStream.Publish.Failed", description=f"no disk for {KEY}"),
        OutputLost,
        r"ended the broadcast: NetStream.Publish.Failed: no disk for \*\*\*",
    ),
    "unpublished": (
        lambda p: p.status("status", "NetStream.Unpublish.Success"),
        OutputLost,
        "ended the broadcast: NetStream.Unpublish.Success",
    ),
    "connected again": (lambda p: p.say("_result", 1.0, None, None), OutputLost, "sends result of connect while"),
    "half-closed": (lambda p: p.writer.write_eof(), OutputLost, "closed the connection before the end"),
    "nonsense": (lambda p: p.writer.write(b"\x43" * 3000), OutputLost, "RTMP"),
}


@pytest.mark.parametrize("name", ACTS)
async def test_a_live_broadcast_whose_server_goes_mad_is_lost_with_a_reason(name: str) -> None:
    act, error, words = ACTS[name]
    async with ScriptedRtmp() as server:
        async with broadcasting(RtmpOutput(f"{server.url}/{KEY}", deadlines=SHORT)) as (broadcast, task):
            broadcast.put(10)
            await server.until(lambda: len(server.publications[0].pictures) == 10)
            act(server.publications[0])
            with pytest.raises(error, match=words) as caught:
                await task
        await server.until(lambda: not server.live)

    assert KEY not in str(caught.value)


@pytest.mark.parametrize("name", ACTS)
async def test_a_server_that_goes_mad_at_the_publish_request_ends_the_attempt_with_a_reason(name: str) -> None:
    act, _, _ = ACTS[name]

    async def go_mad(publication: Publication) -> None:
        act(publication)

    async with ScriptedRtmp(on_publish=go_mad) as server:
        with pytest.raises((OutputLost, OutputRejected)) as caught:
            await publish(RtmpOutput(f"{server.url}/{KEY}", deadlines=SHORT), rtmp_media.units(1.0))

    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "act",
    [
        lambda p: [p.status("status", "NetStream.Publish.Start") for _ in range(1000)],
        lambda p: [p.say("onBWDone", 0.0, None) for _ in range(1000)],
        lambda p: [p.send(MessageType.USER_CONTROL, struct.pack(">HI", 6, n)) for n in range(1000)],
        lambda p: [p.send(MessageType.SET_PEER_BANDWIDTH, struct.pack(">IB", n, 2)) for n in range(1000)],
        lambda p: p.send(MessageType.WINDOW_ACK_SIZE, struct.pack(">I", 1)),
        lambda p: p.send(99, b"?" * 1000),
        lambda p: p.say("_error", 2.0, None, {"level": "error", "code": "NetConnection.Call.Failed"}),
    ],
    ids=["starts", "bandwidth", "pings", "windows", "tiny window", "unknown message", "late courtesy error"],
)
async def test_a_server_that_is_only_odd_keeps_the_broadcast(act: Act) -> None:
    async with ScriptedRtmp() as server:
        async with broadcasting(RtmpOutput(f"{server.url}/{KEY}", deadlines=SHORT)) as (broadcast, task):
            broadcast.put(10)
            await server.until(lambda: len(server.publications[0].pictures) == 10)
            act(server.publications[0])
            broadcast.put(40)
            await server.until(lambda: len(server.publications[0].pictures) == 50)
            broadcast.queue.finish()
            await task


@pytest.mark.parametrize("prefix", [b"\3" + bytes(100), b"\3" + bytes(3072) + b"\x03", b""])
async def test_a_server_that_stops_in_the_middle_is_lost_at_a_deadline(prefix: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(prefix)
        await asyncio.Event().wait()

    async with server_that(serve) as port:
        with pytest.raises(OutputLost, match="did not come within 1 s"):
            await publish(RtmpOutput(f"rtmp://127.0.0.1:{port}/live/{KEY}", deadlines=SHORT), rtmp_media.units(1.0))


async def test_a_server_that_half_closes_and_reads_on_is_left() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tcp: socket.socket = writer.get_extra_info("socket")
        await reader.readexactly(1)
        tcp.shutdown(socket.SHUT_WR)
        await reader.read()

    async with server_that(serve) as port:
        with pytest.raises(OutputLost, match="closed the connection before the handshake"):
            await publish(RtmpOutput(f"rtmp://127.0.0.1:{port}/live/{KEY}", deadlines=SHORT), rtmp_media.units(1.0))
