"""Datagrams from strangers against real sockets: with the guard nothing happens, without it the connection dies."""

import asyncio
import importlib
import os
import socket
from typing import Self

import pytest

from bridge.net.guard import UnguardedProtocol
from bridge.net.peer import ReceivingPeer
from tests.net.loopback import Line, connected_line, outcome

KILLERS = {
    "empty": b"",
    "oversized": b"\x80\x60" + b"x" * 1700,
}


class Stranger:
    """A socket that has no part in the connection and sends to the very port that media arrives at."""

    def __init__(self, peer: ReceivingPeer) -> None:
        (connection,) = peer._connections
        self._to = connection._nominated[1].local_addr
        self._socket = socket.socket(socket.AF_INET6 if ":" in self._to[0] else socket.AF_INET, socket.SOCK_DGRAM)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()

    def send(self, datagram: bytes) -> None:
        self._socket.sendto(datagram, self._to)


async def media_still_flows(line: Line) -> None:
    sink = await line.tracks.sink("video")
    before = len(sink.packets)
    line.sending.send_video([b"\x65still here"], 10**9)
    await sink.arrived(before + 1)
    assert sink.packets[-1].payload == b"\x65still here"


@pytest.mark.parametrize("reason", KILLERS)
async def test_a_datagram_that_kills_a_stock_connection_is_dropped(reason: str) -> None:
    async with connected_line() as line:
        with Stranger(line.receiving) as stranger:
            stranger.send(KILLERS[reason])
            # A socket is read in the order of arrival: once the picture is here, the datagram has been handled.
            await media_still_flows(line)
        assert line.receiving.datagrams_rejected[reason] == 1


@pytest.mark.parametrize("reason", KILLERS)
async def test_without_the_guard_the_same_datagram_closes_the_connection(
    reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("aioice.ice"), "StunProtocol", UnguardedProtocol)
    # The data pump's exception that nobody retrieves is the point.
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    async with connected_line() as line:
        with Stranger(line.receiving) as stranger:
            stranger.send(KILLERS[reason])
            error = await outcome(line.receiving)
        assert "closed" in str(error)


async def test_garbage_of_every_first_byte_from_a_stranger_is_dropped() -> None:
    async with connected_line() as line:
        with Stranger(line.receiving) as stranger:
            for first in range(256):
                stranger.send(bytes([first]) + os.urandom(60))
            await media_still_flows(line)
        assert line.receiving.datagrams_rejected == {"unverified": 252, "stun_malformed": 4}
