"""Clients of the HTTP server that hold connections and ask for nothing, or read nothing."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator

import pytest

from bridge.config import Address, HttpConfig, MetricsConfig
from bridge.net.http_server import serve_app
from bridge.ops import connections, event_stream
from tests.net.namespace import FAR_END, Namespace, why_unavailable
from tests.net.test_api import loggers, serving
from tests.unit.ops.fakes import FakeDaemon, app_of

__all__ = ["loggers"]

PATIENCE_S = 5.0
ASK = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def port() -> AsyncIterator[int]:
    http = HttpConfig(listen=Address("127.0.0.1", 0))
    async with serving(http=http, metrics=MetricsConfig()) as (server, client):
        assert (await client.get("/healthz")).status_code == 200
        await client.aclose()
        yield server.address.port


async def ask(stream: Stream) -> str:
    """The first line of the answer to a request."""
    reader, writer = stream
    writer.write(ASK + b"\r\n")
    return (await reader.readline()).decode().strip()


async def is_closed(stream: Stream) -> bool:
    """Whether its other end closes it, whatever was said before."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            await stream[0].read()
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


async def close(*streams: Stream) -> None:
    for _, writer in streams:
        writer.transport.abort()


async def test_who_holds_connections_without_a_request_keeps_nobody_out(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 8)
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
    newest = await asyncio.open_connection("127.0.0.1", port)
    assert await ask(newest) == "HTTP/1.1 200 OK"
    # The one that has been idle longest made room.
    assert await is_closed(held[0])
    assert await ask(held[1]) == "HTTP/1.1 200 OK"
    await close(*held, newest)


async def test_one_that_asks_for_something_makes_no_room(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 1)
    asking = await asyncio.open_connection("127.0.0.1", port)
    head = b"POST /v1/sessions/leo/say HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    asking[1].write(head + b"Content-Length: 2\r\n\r\n{")
    await asyncio.sleep(0.1)  # that it has been read is nowhere to be seen
    another = await asyncio.open_connection("127.0.0.1", port)
    assert await is_closed(another)
    asking[1].write(b"}")
    assert (await asking[0].readline()).startswith(b"HTTP/1.1 4")
    await close(asking, another)


@pytest.mark.parametrize("said", [b"", b"GET", ASK])
async def test_a_head_that_does_not_end_is_given_up(port: int, said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", 0.1)
    slow = await asyncio.open_connection("127.0.0.1", port)
    slow[1].write(said)
    assert await is_closed(slow)
    await close(slow)


async def test_the_second_head_has_no_more_time_than_the_first(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", 0.2)
    kept = await asyncio.open_connection("127.0.0.1", port)
    assert await ask(kept) == "HTTP/1.1 200 OK"
    kept[1].write(b"GET /healthz")
    assert await is_closed(kept)
    await close(kept)


# ---------------------------------------------------------------------------------------------- followers of events

FOLLOW = b"GET /v1/sessions/leo/events HTTP/1.1\r\nHost: %s\r\n\r\n"


@contextlib.asynccontextmanager
async def followed(host: str) -> AsyncIterator[tuple[FakeDaemon, int]]:
    """A daemon whose API listens there, and the port."""
    daemon = FakeDaemon()
    app = app_of(daemon, http=HttpConfig(allowed_hosts=(host,)))
    with socket.create_server((host, 0)) as listening:
        serving = asyncio.create_task(serve_app(app, listening, http=connections.BoundedConnection))
        try:
            yield daemon, listening.getsockname()[1]
        finally:
            daemon.leo.events.close()
            serving.cancel()
            await asyncio.wait((serving,))


async def followers_are(daemon: FakeDaemon, n_followers: int) -> None:
    """Something happens again and again until so many follow."""
    async with asyncio.timeout(4 * PATIENCE_S):
        while daemon.leo.events.n_followers != n_followers:
            daemon.leo.events.note("user_transcript", text=8000 * "x")
            await asyncio.sleep(0.01)


async def test_a_follower_hears_that_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "PING_S", 0.05)
    async with followed("127.0.0.1") as (daemon, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(FOLLOW % b"127.0.0.1")
        async with asyncio.timeout(PATIENCE_S):
            assert (await reader.readuntil(b": ping\n\n")).startswith(b"HTTP/1.1 200 OK\r\n")
            await reader.readuntil(b": ping\n\n")
            daemon.leo.events.close()
            await reader.readuntil(b"0\r\n\r\n")  # it comes to its end with the session
        writer.close()


async def test_a_follower_that_reads_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    async with followed("127.0.0.1") as (daemon, port):
        with socket.create_connection(("127.0.0.1", port)) as deaf:
            deaf.sendall(FOLLOW % b"127.0.0.1")
            monkeypatch.setattr(connections, "UNREAD_TIMEOUT_S", 0.2)
            await followers_are(daemon, 1)
            await followers_are(daemon, 0)


async def test_a_follower_that_reads_slowly_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "UNREAD_TIMEOUT_S", 1.0)
    async with followed("127.0.0.1") as (daemon, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(FOLLOW % b"127.0.0.1")
        await followers_are(daemon, 1)
        # As much as no buffer holds, in pieces.
        n_bytes = 0
        for _ in range(200):
            for _ in range(20):
                daemon.leo.events.note("user_transcript", text=8000 * "x")
            n_bytes += len(await reader.read(1 << 17))
            await asyncio.sleep(0.01)
        assert daemon.leo.events.n_followers == 1
        assert n_bytes > 10 << 20
        writer.transport.abort()
        await followers_are(daemon, 0)


@pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))
async def test_a_follower_that_vanishes_without_a_word_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "UNREAD_TIMEOUT_S", 1.0)
    follow = "import socket, sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])));"
    follow += f" s.sendall({FOLLOW!r} % sys.argv[1].encode());"
    follow += "\nwhile s.recv(65536): pass"
    with Namespace() as namespace:
        async with followed(namespace.near) as (daemon, port):
            command = namespace.command(sys.executable, "-c", follow, namespace.near, str(port))
            client = await asyncio.create_subprocess_exec(*command)
            try:
                await followers_are(daemon, 1)
                cut = namespace.command("ip", "link", "set", FAR_END, "down")
                assert await (await asyncio.create_subprocess_exec(*cut)).wait() == 0
                # Little is written, so that no buffer of ours fills up.
                daemon.leo.events.note("state", state="live")
                async with asyncio.timeout(4 * PATIENCE_S):
                    while daemon.leo.events.n_followers:  # noqa: ASYNC110  the connection's end is seen nowhere else
                        await asyncio.sleep(0.05)
            finally:
                client.kill()
                await client.wait()
