"""The service's side of NavTalk's older interface: two WebSockets, which find each other and end together."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from bridge.errors import ProviderUnavailable, RemoteProtocolError
from bridge.local_avatar.conversation import Conversation
from bridge.local_avatar.navtalk import SEND_TIMEOUT_S, NavTalkSession, query_of, shown
from bridge.local_avatar.service import House
from bridge.local_avatar.spelling import Spelling
from bridge.local_avatar.transmission import Transmission
from bridge.protocols import navtalk, navtalk_legacy

log = structlog.get_logger()

# Clients open both at once; one that waits this long for the other has no other.
MEETING_S = 10.0


class NavTalkLegacyService:
    """The older interface. The second WebSocket has the path of the vendor's page, or that of its applications."""

    PATH, SIGNAL_PATH, OTHER_SIGNAL_PATH = "/api/realtime-api", "/iwebrtc", "/api/webrtc"

    def __init__(self, house: House) -> None:
        self._house = house
        self._sessions: list[LegacySession] = []  # the oldest first
        self._session_came = asyncio.Condition()
        self.sockets = {
            self.PATH: self._serve,
            self.SIGNAL_PATH: self._serve_signalling,
            self.OTHER_SIGNAL_PATH: self._serve_signalling,
        }
        self.routes = ()

    def urls(self, sockets: str, web: str) -> Sequence[str]:
        return (f"{sockets}{self.PATH}", f"{sockets}{self.SIGNAL_PATH}")

    async def _serve(self, socket: ServerConnection) -> None:
        session = LegacySession(socket, self._house.options, self._house.ice, self._house.stun_port)
        self._sessions.append(session)
        async with self._session_came:
            self._session_came.notify_all()
        try:
            await session.run()
        finally:
            self._sessions.remove(session)
            session.is_over.set()

    async def _serve_signalling(self, socket: ServerConnection) -> None:
        user_id = query_of(socket).get("userId", [""])[0]
        try:
            async with asyncio.timeout(MEETING_S), self._session_came:
                while (session := self._claim(user_id, socket)) is None:
                    await self._session_came.wait()
            await session.is_over.wait()
        except TimeoutError:
            log.info("avatar_signalling_without_session")
        finally:
            await socket.close()

    def _claim(self, user_id: str, socket: ServerConnection) -> "LegacySession | None":
        """The session that a second WebSocket is for: the one of that id or licence. Applications call all of theirs by
        one constant, so any other is better than none.
        """
        free = [session for session in self._sessions if not session.signalling.done()]
        free.sort(key=lambda session: user_id not in (session.id, session.license))
        if not free:
            return None
        free[0].signalling.set_result(socket)
        return free[0]


class LegacySession(NavTalkSession):
    """One client with both of its WebSockets.

    signalling  the second one, once it is there.  is_over: both are to end.
    """

    NAME = "characterName"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.license = self._asked("license")
        self.signalling: asyncio.Future[ServerConnection] = asyncio.get_running_loop().create_future()
        self.is_over = asyncio.Event()

    # ------------------------------------------------------------------------------------------ to the client

    def _spell(self) -> Spelling:
        return Spelling(self._faults, self._written)

    def _written(self, event: navtalk.Event) -> str | None:
        text = navtalk_legacy.dump_event(event)
        if (
            text is not None
            and isinstance(event, navtalk.AvatarTranscriptDelta)
            and self._faults.strikes("text-deltas")
        ):
            return json.dumps(json.loads(text) | {"delta": event.text})
        return text

    def _parts(self, transmission: Transmission) -> Sequence[Callable[[], Coroutine[Any, Any, None]]]:
        return (*super()._parts(transmission), partial(self._listen_to_signals, transmission))

    async def _greet(self, transmission: Transmission) -> None:
        if await self._step("created", self._create):
            await self.signalling
            if await self._step("offer", partial(self._offer, transmission)):
                await self._offer_late(transmission)

    async def _create(self) -> None:
        self._faults.strikes("session-limit")
        await self._send(navtalk.SessionCreated(self._expires_at_s, self.id))

    async def _send(self, event: navtalk.Event) -> None:
        match event:
            case navtalk.Offer() | navtalk.Answer() | navtalk.Candidate():
                await self._send_signal(event)
            case navtalk.AvatarAudio(pcm16) if self._faults.strikes("binary-sound"):
                await self._send_frame(pcm16)
            case _:
                await super()._send(event)

    async def _send_signal(self, message: navtalk.Signalling) -> None:
        if self._is_mute:
            return
        text = navtalk_legacy.dump_signal(navtalk_legacy.Signal(message, self.id))
        if isinstance(message, navtalk.Offer) and self._faults.strikes("sdp-string"):
            text = json.dumps(json.loads(text) | {"sdp": message.sdp})
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await (await self.signalling).send(text)
        except TimeoutError:
            raise ProviderUnavailable(f"The client takes no signalling for {SEND_TIMEOUT_S:g} s") from None

    async def _send_end(self, end: navtalk.Ended) -> None:
        # Most ends have no event here: the reason of the close says it, as it does for points.
        await self._send(end)
        await self._socket.close(1000, end.message)

    def _faults_in_time(self) -> dict[str, Callable[[], Awaitable[None]]]:
        return super()._faults_in_time() | {"signal-close": self._close_signalling}

    async def _close_signalling(self) -> None:
        await (await self.signalling).close()

    # ------------------------------------------------------------------------------------------ from the client

    def _parse(self, text: str) -> navtalk_legacy.Request:
        return navtalk_legacy.parse_request(text)

    async def _converse(self, request: navtalk_legacy.Request, conversation: Conversation) -> None:
        if not isinstance(request, navtalk_legacy.SessionUpdate):
            await conversation.take(request)
            return
        for key in ("input_audio_format", "output_audio_format"):
            if request.session.get(key, "pcm16") != "pcm16":
                raise RemoteProtocolError(f"{key}: only pcm16 is spoken here")
        # Its tools are all that matters to an avatar without a model.
        tools = request.session.get("tools")
        if isinstance(tools, list):
            known = tuple(tool for tool in tools if isinstance(tool, dict))
            await conversation.take(navtalk.InputConfig(tools=known))
        await self._step("updated", partial(self._send, navtalk.SessionUpdated()))

    async def _listen_to_signals(self, transmission: Transmission) -> None:
        with suppress(ConnectionClosed):
            async for frame in await self.signalling:
                await self._take_signal(frame, transmission)
        if not self._faults.strikes("signal-close"):
            raise ProviderUnavailable("the client has closed the WebSocket of signalling")

    async def _take_signal(self, frame: str | bytes, transmission: Transmission) -> None:
        if not isinstance(frame, str):
            self.binary_frames += 1
            return
        try:
            match navtalk_legacy.parse_signal(frame).message:
                case navtalk_legacy.Create():
                    pass  # the offer is on its way: the page does not ask for it
                case navtalk.Unknown(type_name):
                    self._note_unknown(type_name)
                case message:
                    await transmission.take(message)
        except RemoteProtocolError as error:
            self.unreadable_frames += 1
            log.warning("avatar_request_refused", error=shown(str(error)))
