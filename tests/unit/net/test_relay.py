import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from bridge.net.relay import Forbidden, Relay

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def relayed(serve: Serve, *, idle_s: float = 5.0, forbidden: bytes | None = None) -> AsyncIterator[Relay]:
    async def serve_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await serve(reader, writer)
        writer.close()

    async with await asyncio.start_server(serve_and_close, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        # Nobody listens at the first address.
        relay = Relay(["127.0.0.9", "127.0.0.1"], port, connect_s=5.0, idle_s=idle_s, forbidden=forbidden)
        async with relay:
            yield relay


async def test_both_directions_are_carried_to_the_end_of_either() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        await writer.drain()

    async with relayed(echo) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(b"hello\n")
        assert await reader.read() == b"HELLO\n"
        writer.close()
        assert isinstance(relay.error, ConnectionResetError)
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", relay.port)


async def test_closing_ends_whoever_waits() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with relayed(mute) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        waiting = asyncio.create_task(reader.read())
        await asyncio.sleep(0)
        relay.close()
        async with asyncio.timeout(1):
            assert await waiting == b""
        writer.close()


async def test_far_end_that_says_nothing_is_cut_off() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with relayed(mute, idle_s=0.05) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        assert await reader.read() == b""
        assert isinstance(relay.error, TimeoutError)
        writer.close()


@pytest.mark.parametrize(
    "pieces",
    [
        [b"RTSP/1.0 302 Found\r\nLocation: rtsp://127.0.0.2/\r\n\r\n"],
        [b"RTSP/1.0 302 Found\r\nLo", b"CATI", b"on: rtsp://127.0.0.2/\r\n\r\n"],
        [b"RTSP/1.0 302 Found\r\nLoc\rati\r", b"\ron: rtsp://127.0.0.2/\r\n\r\n"],
    ],
)
async def test_what_must_not_be_said_does_not_come_through(pieces: list[bytes]) -> None:
    async def lead_away(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        await reader.read()

    async with relayed(lead_away, forbidden=b"location:") as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        assert b"127.0.0.2" not in await reader.read()
        assert isinstance(relay.error, Forbidden)
        writer.close()
