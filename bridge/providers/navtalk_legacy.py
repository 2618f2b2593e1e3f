"""NavTalk's older interface as an avatar provider: one WebSocket for sound and events, another one for signalling."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from bridge.errors import RemoteProtocolError
from bridge.net.ice import IceSettings
from bridge.ports import AvatarListener, Capability
from bridge.protocols import navtalk, navtalk_legacy
from bridge.providers.navtalk import NavTalkProvider
from bridge.providers.navtalk_knowledge import Knowledge
from bridge.providers.navtalk_options import CommonOptions
from bridge.providers.navtalk_session import ClientSession
from bridge.providers.navtalk_socket import Socket, open_socket
from bridge.redact import Secret, redact_url

_LITERAL = "literal:"


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyOptions(CommonOptions):
    """An avatar of the older interface. It shows no pictures, and no page knows its mirror: as such it is asked for as
    the unified one is.

    session         goes into `session.update`, over what else is said there.
    signal_url      of the second WebSocket; not made of the first one's.
    signal_user_id  what that one knows the session by: "license", "session" (its id) or "literal:" and a text.
    signal_create   whether media is asked for there.
    """

    session: Mapping[str, Any] = field(default_factory=dict)
    signal_url: Secret
    signal_user_id: str = "license"
    signal_create: bool = True

    @property
    def capabilities(self) -> frozenset[Capability]:
        if self.role == "speak":
            return frozenset({"interrupt"})
        return frozenset({"say", "interrupt", "history", "tools"})

    @property
    def hand_shake(self) -> tuple[str, ...]:
        # The id may stand in the session's creation, or come by an event of its own.
        named = (navtalk.Connected.TYPE,) if self.known_user_id is None else ()
        return (navtalk.SessionCreated.TYPE, *named, navtalk.SessionUpdated.TYPE)

    @property
    def avatar(self) -> Mapping[str, str]:
        return {"characterName": self.name or ""}

    @property
    def update(self) -> navtalk_legacy.SessionUpdate:
        settings = navtalk_legacy.session_settings(self.voice, self.prompt, self.tools, self.session)
        return navtalk_legacy.SessionUpdate(settings)

    @property
    def known_user_id(self) -> str | None:
        """None: the service is yet to name the session."""
        match self.signal_user_id:
            case "license":
                return self.license.reveal()
            case "session":
                return None
            case literal:
                return literal.removeprefix(_LITERAL)

    def typed(self, text: str) -> Sequence[navtalk.Request | str]:
        """No page shows typed text; this is what it is to the interface that the service passes on, OpenAI's."""
        return (navtalk.HistoryItem(text), navtalk.ResponseCreate())


class LegacySession(ClientSession):
    """A session of two WebSockets; the end of either is the end of both."""

    def __init__(
        self,
        connection: ClientConnection,
        options: LegacyOptions,
        ice: IceSettings,
        history: Sequence[str],
        listener: AvatarListener,
        knowledge: Knowledge,
        where: str,
    ) -> None:
        super().__init__(connection, options, ice, history, listener, knowledge, where)
        self._legacy = options
        self._policy = ice.policy
        self._session_id = ""
        self._signalling: Socket | None = None
        self._target = ""  # of the newest offer

    def _name(self, type_name: str) -> str:
        return navtalk_legacy.name_of(type_name)

    def _parse(self, frame: str | bytes) -> navtalk.Event:
        return navtalk_legacy.parse_event(frame)

    def _dump(self, message: navtalk.Request) -> str:
        return navtalk_legacy.dump_request(message)

    def _tell(self, event: navtalk.Event) -> None:
        for meaning in self._conversation.read(event):
            self._listener.on_event(replace(meaning, type=self._name(meaning.type)))

    async def _begin(self) -> None:
        self._tasks.create_task(self._serve_signalling(), name="navtalk-signalling")

    async def _configure(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self._socket.send(navtalk_legacy.dump_request(self._legacy.update))
        await super()._configure()

    async def _handle(self, event: navtalk.Event) -> None:
        match event:
            case navtalk.Connected(session_id):
                self._note_id(session_id)
                self._tell(event)
                return
            case navtalk.SessionCreated(session_id=session_id):
                self._note_id(session_id)
        await super()._handle(event)

    def _note_id(self, session_id: str) -> None:
        if session_id:
            self._session_id = session_id
            if (named := self._steps.get(navtalk.Connected.TYPE)) is not None:
                named.set()

    # ------------------------------------------------------------------------------------------ the second WebSocket

    async def _serve_signalling(self) -> None:
        options = self._legacy
        where = f"NavTalk's signalling at {redact_url(options.signal_url.reveal())}"
        user_id = await self._user_id()
        query = {"userId": user_id}
        async with open_socket(
            options.signal_url, query, where, "avatar.signal_url", options.step_s, self._policy
        ) as connection:
            self._signalling = socket = Socket(connection, where)
            self._target = user_id
            if options.signal_create:
                await self._send_signal(navtalk_legacy.Create())
            while True:
                await self._take_signal(await self._receive(socket))

    async def _user_id(self) -> str:
        """What the second WebSocket knows the session by."""
        if self._legacy.known_user_id is not None:
            return self._legacy.known_user_id
        await self._steps[navtalk.Connected.TYPE].wait()
        return self._session_id

    async def _take_signal(self, frame: str | bytes) -> None:
        if not isinstance(frame, str):
            await self._handle(navtalk.Unknown("binary"))
            return
        try:
            signal = navtalk_legacy.parse_signal(frame)
        except RemoteProtocolError as error:
            self._pass_over(frame, error)
            return
        match signal.message:
            case navtalk_legacy.Create():
                pass  # ours, come back
            case navtalk.Offer():
                self._target = signal.target
                await self._handle(signal.message)
            case message:
                await self._handle(message)

    async def _signal(self, message: navtalk.Signalling) -> None:
        await self._send_signal(message)

    async def _send_signal(self, message: navtalk.Signalling | navtalk_legacy.Create) -> None:
        assert self._signalling is not None, "offers come by the second WebSocket, and media is lost after them"
        with contextlib.suppress(ConnectionClosed):
            await self._signalling.send(navtalk_legacy.dump_signal(navtalk_legacy.Signal(message, self._target)))


class NavTalkLegacyProvider(NavTalkProvider):
    """The avatar service NavTalk by its older interface."""

    _open_session = LegacySession
