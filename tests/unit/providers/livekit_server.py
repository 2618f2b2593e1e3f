"""A LiveKit server of a test: it says what it is told, and keeps what it hears. Media never flows."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Any

from livekit.protocol import models, rtc
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from bridge.errors import BridgeError
from bridge.net.ice import IceSettings
from bridge.ports import AvatarEvent
from bridge.protocols.livekit_room import Choice
from bridge.protocols.livekit_token import Grant, mint
from bridge.providers.livekit import LiveKitOptions, LiveKitProvider
from bridge.providers.livekit_entry import Entry, MintedToken
from bridge.redact import Secret
from tests.unit.providers.fakes import Listener

_SILENT = logging.Logger("livekit", level=logging.CRITICAL + 1)
PATIENCE_S = 5.0
API_SECRET = "canary secret of 32 characters or more"

JOIN = rtc.JoinResponse(
    participant=models.ParticipantInfo(
        sid="PA_us",
        identity="us",
        permission=models.ParticipantPermission(can_subscribe=True, can_publish_data=True),
    )
)
AVATAR = models.ParticipantInfo(
    sid="PA_leo",
    identity="leo",
    kind=models.ParticipantInfo.Kind.AGENT,
    tracks=[
        models.TrackInfo(sid="TR_v", type=models.TrackType.VIDEO, source=models.TrackSource.CAMERA),
        models.TrackInfo(sid="TR_a", type=models.TrackType.AUDIO, source=models.TrackSource.MICROPHONE),
    ],
)


def joined(*others: models.ParticipantInfo, **more: Any) -> rtc.SignalResponse:
    join = rtc.JoinResponse(other_participants=others, **more)
    join.MergeFrom(JOIN)
    return rtc.SignalResponse(join=join)


def update(*participants: models.ParticipantInfo) -> rtc.SignalResponse:
    return rtc.SignalResponse(update=rtc.ParticipantUpdate(participants=participants))


class RoomServer:
    """Alive inside `serving`. `first`: what it says to whoever comes.

    requests  what it has heard.  tokens: with which it was called.
    """

    def __init__(self, *first: rtc.SignalResponse | bytes | str) -> None:
        self.url = ""
        self.requests: list[rtc.SignalRequest] = []
        self.tokens: list[str] = []
        self.refusal: tuple[HTTPStatus, str] | None = None
        self.is_mute = False
        self._first = first
        self._socket: ServerConnection | None = None
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["RoomServer"]:
        async with serve(
            self._serve, "127.0.0.1", 0, process_request=self._admit, compression=None, logger=_SILENT
        ) as server:
            self.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
            yield self

    async def say(self, message: rtc.SignalResponse | bytes | str) -> None:
        assert self._socket is not None
        is_raw = isinstance(message, bytes | str)
        await self._socket.send(message if is_raw else message.SerializeToString())

    async def close(self, reason: str = "") -> None:
        assert self._socket is not None
        await self._socket.close(1000, reason)

    async def until(self, claim: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(claim)

    def heard(self, kind: str) -> list[Any]:
        """The requests of one kind."""
        return [getattr(request, kind) for request in self.requests if request.WhichOneof("message") == kind]

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        self.tokens.append(request.headers.get("Authorization", "").removeprefix("Bearer "))
        return connection.respond(*self.refusal) if self.refusal is not None else None

    async def _serve(self, socket: ServerConnection) -> None:
        self._socket = socket
        for message in self._first:
            await self.say(message)
        async for frame in socket:
            assert isinstance(frame, bytes)
            async with self._changed:
                self.requests.append(rtc.SignalRequest.FromString(frame))
                self._changed.notify_all()


class Stay:
    """A provider in a room."""

    def __init__(self, provider: LiveKitProvider, listener: "EventfulListener") -> None:
        self.provider, self.listener = provider, listener
        self._running = asyncio.create_task(provider.run(listener))

    async def outcome(self) -> BridgeError:
        """What ends it."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._running
        except BridgeError as error:
            assert "canary" not in str(error)
            return error
        raise AssertionError("it has ended without an error")

    async def leave(self) -> None:
        self._running.cancel()
        await asyncio.wait({self._running})


class EventfulListener(Listener):
    """One that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = asyncio.Event()

    def on_ready(self, link: Any) -> None:
        super().on_ready(link)
        self._changed.set()

    def on_event(self, event: AvatarEvent) -> None:
        super().on_event(event)
        self._changed.set()

    async def until(self, claim: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not claim():
                self._changed.clear()
                await self._changed.wait()


def entry_to(server: RoomServer, token: str | None = None) -> Entry:
    source = MintedToken("key", Secret(API_SECRET), Grant("us", "studio", "agent"))
    return Entry(Secret.url(server.url), source if token is None else Secret(token))


def token_until(expires_s: float) -> str:
    return mint(Grant("us", "studio", expires_s=int(expires_s)), "key", API_SECRET, 0.0)


@contextlib.asynccontextmanager
async def staying(server: RoomServer, entry: Entry | None = None, **options: Any) -> AsyncIterator[Stay]:
    """Somebody who is only received is waited for, unless `drive` says otherwise."""
    given = {"entry": entry or entry_to(server), "choice": Choice(), "drive": "none", "step_s": 1.0} | options
    stay = Stay(LiveKitProvider(LiveKitOptions(**given), IceSettings(("lo",))), EventfulListener())
    try:
        yield stay
    finally:
        await stay.leave()
