"""The way out of media, from a peer's sender to the kernel."""

import errno
import socket
from typing import Any

import pytest
from aiortc import RTCDtlsTransport
from aiortc.rtp import is_rtcp

from bridge.media.clock import NS_PER_MS
from bridge.net.guard import GuardedProtocol
from tests.net.loopback import Line, connected_line

PICTURE = [b"\x61" + bytes([index]) * 1_000 for index in range(12)]


class Kernel:
    """In the place of a sender's socket: keeps the length of what it is given, or refuses it."""

    def __init__(self, refuses_runs: int = 0, refuses_packets: int = 0) -> None:
        self.packets: list[int] = []
        self._refuses_runs, self._refuses_packets = refuses_runs, refuses_packets

    def sendmsg(self, parts: Any, ancillary: list[Any], flags: int, address: tuple[str, int]) -> None:
        if ancillary and self._refuses_runs:
            raise OSError(self._refuses_runs, "refused")
        self.sendto(b"".join(parts), address)

    def sendto(self, packet: Any, address: tuple[str, int]) -> None:
        if self._refuses_packets:
            raise OSError(self._refuses_packets, "refused")
        self.packets.append(len(packet))


def put_before(monkeypatch: pytest.MonkeyPatch, kernel: Kernel) -> None:
    monkeypatch.setattr(GuardedProtocol, "socket", kernel)


async def sent(line: Line, n_pictures: int) -> None:
    for number in range(n_pictures):
        assert line.sending.send_video(PICTURE, number * 40 * NS_PER_MS)


async def test_media_leaves_past_aiortc(monkeypatch: pytest.MonkeyPatch) -> None:
    long_way: list[bytes] = []
    send = RTCDtlsTransport._send_rtp

    async def counted(self: RTCDtlsTransport, data: bytes) -> None:
        long_way.append(data)
        await send(self, data)

    monkeypatch.setattr(RTCDtlsTransport, "_send_rtp", counted)
    async with connected_line() as line:
        sink = await line.tracks.sink("audio")
        for index in range(3):
            assert line.sending.send_audio(bytes([index]) * 50, index * 20 * NS_PER_MS)
        assert [packet.payload[0] for packet in await sink.arrived(3)] == [0, 1, 2]
    # The farewell at least goes aiortc's way.
    assert long_way
    assert all(is_rtcp(data) for data in long_way)


async def test_a_picture_is_one_call_for_packets_of_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    send = socket.socket.sendmsg

    def counted(self: socket.socket, parts: Any, *args: Any) -> int:
        calls.append(sum(map(len, parts)))
        return send(self, parts, *args)

    async with connected_line() as line:
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "sendmsg", counted)
            await sent(line, 1)
        sink = await line.tracks.sink("video")
        assert [packet.payload for packet in await sink.arrived(12)] == PICTURE
    # The first packet may say when the picture was captured, which makes it longer.
    assert 1 <= len(calls) <= 2 and sum(calls) > 12_000


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.ECONNREFUSED, errno.ENOBUFS])
async def test_what_the_socket_does_not_take_comes_all_the_same_and_in_order(
    error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected_line() as line:
        put_before(monkeypatch, Kernel(error, error))
        await sent(line, 5)
        sink = await line.tracks.sink("video")
        assert [packet.payload for packet in await sink.arrived(60)] == PICTURE * 5


async def test_nothing_overtakes_what_waits_already(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()
    async with connected_line() as line:
        put_before(monkeypatch, kernel)
        exit = line.sending._senders["video"].exit
        assert exit is not None
        monkeypatch.setattr(type(exit._pair().protocol.transport), "get_write_buffer_size", lambda self: 1)
        await sent(line, 1)
        assert len(await (await line.tracks.sink("video")).arrived(12)) == 12
    assert kernel.packets == []


@pytest.mark.parametrize("error", [errno.EIO, errno.EINVAL, errno.EMSGSIZE])
async def test_where_the_kernel_cuts_nothing_packets_leave_one_by_one(
    error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel(refuses_runs=error)
    async with connected_line() as line:
        put_before(monkeypatch, kernel)
        await sent(line, 2)
    assert len(kernel.packets) == 24 and max(kernel.packets) < 1_500


async def test_a_way_out_that_has_closed_says_so() -> None:
    async with connected_line() as line:
        exit = line.sending._senders["video"].exit
        assert exit is not None
    with pytest.raises(ConnectionError):
        exit.send([b"media"])
