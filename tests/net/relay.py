"""A TURN server on loopback, as small as a test needs: one allocation per client, channels, no authentication."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aioice import stun

Address = tuple[str, int]


class _Relay(asyncio.DatagramProtocol):
    """The relayed address of one client."""

    def __init__(self, server: "TurnServer", client: Address) -> None:
        self._server = server
        self._client = client
        self.channels: dict[Address, int] = {}

    def datagram_received(self, data: bytes, addr: Any) -> None:
        channel = self.channels.get(addr[:2])
        if channel is not None:
            self._server.relayed_packets += 1
            self._server.transport.sendto(struct.pack("!HH", channel, len(data)) + data, self._client)


class TurnServer(asyncio.DatagramProtocol):
    """RFC 8656: Allocate, Refresh, ChannelBind and channel data."""

    transport: asyncio.DatagramTransport

    def __init__(self) -> None:
        self.relayed_packets = 0
        self.relays: dict[Address, tuple[asyncio.DatagramTransport, _Relay]] = {}
        self._allocations: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        client: Address = addr[:2]
        if data[0] & 0xC0 == 0x40:
            channel, size = struct.unpack_from("!HH", data)
            transport, relay = self.relays[client]
            (peer,) = (peer for peer, number in relay.channels.items() if number == channel)
            transport.sendto(data[4 : 4 + size], peer)
            return
        request = stun.parse_message(data)
        if request.message_method == stun.Method.ALLOCATE:
            task = asyncio.create_task(self._allocate(request, client))
            self._allocations.add(task)
            task.add_done_callback(self._allocations.discard)
            return
        if request.message_method == stun.Method.CHANNEL_BIND:
            peer = request.attributes["XOR-PEER-ADDRESS"]
            self.relays[client][1].channels[peer] = request.attributes["CHANNEL-NUMBER"]
        self._answer(request, client, {"LIFETIME": request.attributes.get("LIFETIME", 0)})

    async def _allocate(self, request: stun.Message, client: Address) -> None:
        loop = asyncio.get_running_loop()
        self.relays[client] = await loop.create_datagram_endpoint(
            lambda: _Relay(self, client), local_addr=("127.0.0.1", 0)
        )
        relayed = self.relays[client][0].get_extra_info("sockname")
        attributes = {"XOR-RELAYED-ADDRESS": relayed, "XOR-MAPPED-ADDRESS": client, "LIFETIME": 600}
        self._answer(request, client, attributes)

    def _answer(self, request: stun.Message, client: Address, attributes: dict[str, Any]) -> None:
        response = stun.Message(request.message_method, stun.Class.RESPONSE, request.transaction_id, attributes)
        self.transport.sendto(bytes(response), client)


@asynccontextmanager
async def turn_server() -> AsyncIterator[tuple[TurnServer, str]]:
    """The server and its URL."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(TurnServer, local_addr=("127.0.0.1", 0))
    try:
        yield server, f"turn:127.0.0.1:{transport.get_extra_info('sockname')[1]}"
    finally:
        transport.close()
        for relay, _ in server.relays.values():
            relay.close()
