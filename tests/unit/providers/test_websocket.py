"""Where a WebSocket of strangers leads: to what was judged, and nowhere else."""

import asyncio
import socket
from collections.abc import Sequence

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from bridge.errors import ProviderRejected
from bridge.net.url_policy import UrlPolicy
from bridge.providers.websocket import open_websocket


async def opened(url: str, policy: UrlPolicy) -> None:
    async with open_websocket(
        lambda: url, "the service", key="avatar.url", open_timeout_s=5.0, advice={}, otherwise="?", policy=policy
    ) as connection:
        await connection.recv()


async def serve_hello(connection: ServerConnection) -> None:
    await connection.send("hello")


async def test_it_connects_to_the_address_that_was_judged_and_asks_for_the_name() -> None:
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        return ("127.0.0.2", "127.0.0.1")  # nobody listens on the first one

    def note_host(connection: ServerConnection, request: Request) -> None:
        asked.append(request.headers["Host"])

    async with serve(serve_hello, "127.0.0.1", 0, process_request=note_host) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        await opened(f"ws://studio.example.com:{port}/x", UrlPolicy(["studio.example.com"], resolve=resolve))
    assert asked == [f"studio.example.com:{port}"]


async def test_it_connects_to_no_neighbour() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        port = listening.getsockname()[1]
        with pytest.raises(ProviderRejected, match=r"avatar\.url 127\.0\.0\.1 is this machine"):
            await opened(f"ws://127.0.0.1:{port}/?license=sk_canary", UrlPolicy())
        with pytest.raises(BlockingIOError):
            listening.accept()


async def test_it_follows_no_redirect_to_elsewhere() -> None:
    reached = asyncio.Event()

    def lead_away(connection: ServerConnection, request: Request) -> Response:
        return Response(302, "Found", Headers(Location=f"ws://127.0.0.1:{elsewhere}/x"), b"")

    def note(connection: ServerConnection, request: Request) -> None:
        reached.set()

    async with (
        serve(serve_hello, "127.0.0.1", 0, process_request=note) as inside,
        serve(serve_hello, "127.0.0.1", 0, process_request=lead_away) as server,
    ):
        elsewhere = next(iter(inside.sockets)).getsockname()[1]
        port = next(iter(server.sockets)).getsockname()[1]
        with pytest.raises(ProviderRejected):
            await opened(f"ws://127.0.0.1:{port}/", UrlPolicy(["127.0.0.1"]))
    assert not reached.is_set()
