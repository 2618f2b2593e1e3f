"""A HeyGen session, with a WebSocket that says what a test wants: over real sockets, without media."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import structlog
from websockets.asyncio.server import ServerConnection, serve

from bridge.errors import ProviderUnavailable
from bridge.media.clock import AVATAR_RATE_HZ
from bridge.net.ice import IceSettings
from bridge.protocols.heygen_rest import Opened
from bridge.protocols.livekit_room import Choice
from bridge.providers.heygen import HeyGenProvider
from bridge.providers.heygen_lives import MOST_UNSTOPPED, Account, HeyGenLives
from bridge.providers.livekit_entry import Entry
from bridge.redact import Secret
from tests.unit.providers.fakes import Listener
from tests.unit.providers.livekit_server import AVATAR, EventfulListener, RoomServer, entry_to, joined

_SILENT = logging.Logger("heygen", level=logging.CRITICAL + 1)
SECRET = "a canary of 20 chars"


class OneLife(HeyGenLives):
    """A session that is there already."""

    def __init__(self, socket_url: str, room: RoomServer) -> None:
        super().__init__(Account(url=Secret.url("http://127.0.0.1:9"), avatar_id="leo"), "HeyGen")
        self._opened, self._room = Opened("s-1", socket_url=socket_url), room

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[Opened]:
        yield self._opened

    def entry(self, opened: Opened) -> tuple[Entry, Choice]:
        return entry_to(self._room), Choice()


async def logged_of(*events: dict[str, Any]) -> list[Any]:
    """What is logged of a session in which the service says these, and then closes."""

    async def say(socket: ServerConnection) -> None:
        for event in events:
            await socket.send(json.dumps(event))

    async with RoomServer(joined()).serving() as room, serve(say, "127.0.0.1", 0, logger=_SILENT) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        with structlog.testing.capture_logs() as logged, pytest.raises(ProviderUnavailable):
            await HeyGenProvider(OneLife(url, room), "speak", IceSettings(("lo",))).run(Listener())
    return [entry for entry in logged if entry["event"] == "heygen_trouble"]


async def test_what_a_service_calls_its_trouble_is_logged_short_and_without_secrets() -> None:
    known = Secret(SECRET).reveal()
    long = 190 * "x" + known + 100_000 * "y"
    logged = await logged_of({"type": "error", "error": {"type": long, "message": long}}, {"type": 70 * "z" + known})
    assert len(logged) == 2
    assert all(len(str(entry)) < 600 for entry in logged)
    assert "canary" not in str(logged)
    assert "a can" not in str(logged)


async def test_a_late_word_of_what_was_interrupted_begins_no_answer() -> None:
    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    clients: list[ServerConnection] = []

    async def keep(socket: ServerConnection) -> None:
        clients.append(socket)
        await socket.send(json.dumps({"type": "session.state_updated", "state": "connected"}))
        async for frame in socket:
            heard.put_nowait(json.loads(frame))

    async def say_something() -> str:
        await listener.links[0].send_audio(bytes(2 * AVATAR_RATE_HZ))
        return str((await heard.get())["event_id"])

    async def started(event_id: str) -> None:
        n_before = len(listener.events)
        await clients[0].send(json.dumps({"type": "agent.speak_started", "source_event_id": event_id}))
        await listener.until(lambda: len(listener.events) > n_before)

    listener = EventfulListener()
    async with RoomServer(joined(AVATAR)).serving() as room, serve(keep, "127.0.0.1", 0, logger=_SILENT) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        running = asyncio.create_task(HeyGenProvider(OneLife(url, room), "speak", IceSettings(("lo",))).run(listener))
        try:
            await listener.until(lambda: listener.links)
            first = await say_something()
            await listener.links[0].interrupt()
            assert (await heard.get())["type"] == "agent.interrupt"
            second = await say_something()
            await started(first)
            assert listener.told("response_started") == []
            await started(second)
            assert len(listener.told("response_started")) == 1
        finally:
            running.cancel()
            await asyncio.wait({running})


class Stubborn(HeyGenLives):
    """A service that begins sessions, and stops none. `asked`: to stop these."""

    def __init__(self) -> None:
        super().__init__(Account(url=Secret.url("http://127.0.0.1:9"), avatar_id="leo"), "HeyGen")
        self.asked: list[str] = []
        self._n_begun = 0

    async def _begin(self, client: httpx.AsyncClient, begun: list[Opened]) -> Opened:
        begun.append(Opened(f"s-{self._n_begun}", socket_url="ws://127.0.0.1:9/"))
        self._n_begun += 1
        return begun[-1]

    async def _stop(self, client: httpx.AsyncClient, opened: Opened) -> None:
        self.asked.append(opened.session_id)
        raise ProviderUnavailable("HTTP 500", reason="refused")


async def test_sessions_that_a_service_never_stops_do_not_pile_up() -> None:
    lives = Stubborn()
    for _ in range(MOST_UNSTOPPED + 3):
        async with lives.session():
            lives.asked.clear()
    assert lives.asked == [f"s-{number}" for number in range(3, MOST_UNSTOPPED + 3)]
