"""One session with NavTalk v2: a WebSocket's hand-shake, its events, and what the avatar is told over it."""

import asyncio
import contextlib
import re
import secrets
from collections.abc import Mapping, Sequence

import structlog
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from bridge.errors import BridgeError, ProviderRejected, ProviderUnavailable, RemoteProtocolError
from bridge.net.ice import IceServer, IceSettings
from bridge.ports import AvatarEvent, AvatarListener, Capability
from bridge.protocols import navtalk
from bridge.protocols.navtalk_fields import object_fields, string
from bridge.protocols.navtalk_json import dump, parse_event
from bridge.providers.navtalk_ends import cause_of, ended_error
from bridge.providers.navtalk_events import Conversation, ToolCalls, shown_type
from bridge.providers.navtalk_knowledge import Knowledge
from bridge.providers.navtalk_media import Media
from bridge.providers.navtalk_options import CommonOptions
from bridge.providers.navtalk_socket import Socket
from bridge.providers.service_clock import ServiceClock
from bridge.redact import Secret, mask

log = structlog.get_logger()

# A photograph of any camera; what the control API takes.
MAX_IMAGE_BYTES = 8 * 2**20
# Half an hour of speech; with every character escaped still far below what WebSocket servers take by default (1 MiB).
MAX_TEXT_CHARACTERS = 32 * 1024
# A name as the service spells it, and what is wrong.
_MAX_ERROR_CHARACTERS = 200

# What each step of the hand-shake is for.
_PURPOSES: Mapping[str, str] = {
    navtalk.Connected.TYPE: "confirm the session",
    navtalk.SessionCreated.TYPE: "create the conversation",
    navtalk.SessionUpdated.TYPE: "accept the configuration",
    navtalk.Offer.TYPE: "offer its media",
}


class ClientSession:
    """One open WebSocket with NavTalk. It is the listener's `AvatarLink`.

    The last section is what the older interface does in another way.
    """

    def __init__(
        self,
        connection: ClientConnection,
        options: CommonOptions,
        ice: IceSettings,
        history: Sequence[str],
        listener: AvatarListener,
        knowledge: Knowledge,
        where: str,
    ) -> None:
        self.pacing = options.pacing
        self._socket = Socket(connection, where)
        self._options = options
        self._history = history
        self._listener = listener
        self._knowledge = knowledge
        self._where = where
        self._clock = ServiceClock(self._socket.date)
        self._ended: navtalk.Ended | None = None
        self._conversation = Conversation()
        self._tool_calls = ToolCalls()
        self._stream_id = secrets.token_hex(8)
        self._n_audio_messages = 0
        self._steps = {type_name: asyncio.Event() for type_name in (*options.hand_shake, navtalk.Offer.TYPE)}
        self._is_configured = False
        self._tasks = asyncio.TaskGroup()
        has_begun = self._steps.get(navtalk.Connected.TYPE)
        self._media = Media(ice, listener, knowledge, self._tasks, self._signal, has_begun, where)
        self._media.ice_servers = options.ice_servers or ()

    async def run(self) -> None:
        """Serve until the session ends, and raise why."""
        try:
            async with self._tasks:
                self._tasks.create_task(self._watch_handshake(), name="navtalk-handshake")
                await self._begin()
                while True:
                    await self._take(await self._receive(self._socket))
        except ExceptionGroup as group:
            if self._ended is not None:
                self._tell(self._ended)
            raise cause_of(group) from None

    # ------------------------------------------------------------------------------------------ the avatar's link

    @property
    def datagrams_rejected(self) -> Mapping[str, int]:
        return self._media.datagrams_rejected

    @property
    def media_path(self) -> str:
        return self._media.path

    async def send_audio(self, pcm16: bytes) -> None:
        """Send whole samples, in messages of at most 64 ms. Raises ProviderUnavailable once the session is over."""
        for start in range(0, len(pcm16), 2 * navtalk.BUFFERED_SAMPLES):
            await self._send(self._audio(pcm16[start : start + 2 * navtalk.BUFFERED_SAMPLES]))

    async def say(self, text: str) -> None:
        """Send something typed. Raises ProviderRejected for more than `MAX_TEXT_CHARACTERS`."""
        self._require("say")
        if len(text) > MAX_TEXT_CHARACTERS:
            raise self._refusal(f"is told at most {MAX_TEXT_CHARACTERS} characters at a time, not {len(text)}")
        for message in self._options.typed(text):
            await self._send(message)

    async def show(self, image: bytes, media_type: str, *, wants_answer: bool) -> None:
        """Send a picture. Raises ProviderRejected for more than `MAX_IMAGE_BYTES`, and for what is none by its type."""
        self._require("image")
        if len(image) > MAX_IMAGE_BYTES:
            raise self._refusal(f"takes pictures of at most {MAX_IMAGE_BYTES} bytes, not {len(image)}")
        if not re.fullmatch(r"image/[\w.+-]+", media_type, re.ASCII):
            raise self._refusal("takes pictures with a type such as image/jpeg")
        # For a picture of some MiB this takes tens of milliseconds, in which sound would wait.
        await self._send(await asyncio.to_thread(self._options.picture, image, media_type, wants_answer))

    async def remember(self, text: str) -> None:
        self._require("history")
        await self._send(navtalk.HistoryItem(text))

    async def end_turn(self) -> None:
        """Nothing: the service finds the end of a turn in its silence."""

    async def interrupt(self) -> None:
        """Make the service forget the sound that it has not spoken. The message is not documented."""
        await self._send(navtalk.AudioClear())

    async def listen(self, on: bool) -> None:
        """Raises ProviderRejected: the service shows by itself that it listens, to what it hears."""
        self._require("listening")

    async def answer_tool(self, call_id: str, output: str) -> None:
        """Send a tool's output, and ask for the answer that it was needed for."""
        self._require("tools")
        await self._send(navtalk.FunctionCallOutput(call_id, output))
        await self._send(navtalk.ResponseCreate())

    def _require(self, capability: Capability) -> None:
        if capability not in self._options.capabilities:
            raise self._refusal(f"cannot do this in the role {self._options.role} ({capability})")

    def _refusal(self, why: str) -> ProviderRejected:
        return ProviderRejected(f"{self._where} {why}", reason="refused")

    # ------------------------------------------------------------------------------------------ the socket

    async def _send(self, message: navtalk.Request | str) -> None:
        """Send for the bridge. Raises ProviderError once the session is over; why is for `run` to find out."""
        try:
            await self._write(message)
        except ConnectionClosed as closed:
            end = self._socket.end_of(closed)
            raise end if isinstance(end, BridgeError) else self._error(end, self._where) from None

    async def _announce(self, message: navtalk.Request) -> None:
        """Send what belongs to the session's own flow: `run` still reads what came before the connection's end."""
        with contextlib.suppress(ConnectionClosed):
            await self._write(message)

    async def _write(self, message: navtalk.Request | str) -> None:
        await self._socket.send(message if isinstance(message, str) else self._dump(message))

    async def _receive(self, socket: Socket) -> str | bytes:
        """Raises what the end of either socket is to the session."""
        try:
            return await socket.receive()
        except ConnectionClosed as closed:
            end = socket.end_of(closed)
            raise end if isinstance(end, BridgeError) else self._end(end, socket.where) from None

    def _end(self, ended: navtalk.Ended, where: str) -> BridgeError:
        self._ended = ended
        return self._error(ended, where)

    def _error(self, ended: navtalk.Ended, where: str) -> BridgeError:
        awaited = next((self._name(type_name) for type_name, done in self._steps.items() if not done.is_set()), None)
        return ended_error(ended, where, awaited)

    # ------------------------------------------------------------------------------------------ events

    async def _take(self, frame: str | bytes) -> None:
        """One frame, whatever is in it: a message that cannot be used is ignored."""
        try:
            event = self._parse(frame)
            call = self._tool_calls.read(event)
        except RemoteProtocolError as error:
            self._pass_over(frame, error)
            return
        await self._handle(event)
        if call is not None and "tools" in self._options.capabilities:
            self._listener.on_tool_call(call)

    def _pass_over(self, frame: str | bytes, error: RemoteProtocolError) -> None:
        type_name = shown_type(string((object_fields(frame) or {}).get("type")) or "")
        if self._knowledge.is_news("malformed", type_name):
            log.warning(
                "avatar_service_event_malformed", type=type_name, error=mask(str(error))[:_MAX_ERROR_CHARACTERS]
            )
        self._listener.on_event(AvatarEvent("malformed", type_name))

    async def _handle(self, event: navtalk.Event) -> None:
        match event:
            case navtalk.Ended():
                raise self._end(event, self._where)
            case navtalk.Connected(_, ice_servers):
                self._take_ice_servers(ice_servers)
            case navtalk.SessionCreated(expires_at_s):
                self._take_limit(expires_at_s)
                if not self._is_configured:
                    self._is_configured = True
                    await self._configure()
            case navtalk.SessionUpdated(expires_at_s):
                self._take_limit(expires_at_s)
            case navtalk.Offer():
                await self._media.on_offer(event)
            case navtalk.Answer():
                self._media.on_answer(event)
            case navtalk.Candidate():
                await self._media.on_candidate(event)
            case navtalk.Warned(message) | navtalk.Failed(message):
                log.warning("avatar_service_warning", message=mask(message))
            case navtalk.Unknown(type_name) if self._knowledge.is_news("unknown", shown_type(type_name)):
                log.info("avatar_service_event_unknown", type=shown_type(type_name))
        self._tell(event)
        step = self._steps.get(event.TYPE)
        if step is None or step.is_set():
            return
        step.set()
        if event.TYPE == self._options.hand_shake[-1]:
            self._listener.on_ready(self)

    def _tell(self, event: navtalk.Event) -> None:
        for meaning in self._conversation.read(event):
            self._listener.on_event(meaning)

    def _take_ice_servers(self, servers: Sequence[navtalk.IceServer]) -> None:
        """Keep those that the service names, for its next offer, unless the operator has given others."""
        if self._options.ice_servers is not None:
            return
        usable = [server for server in map(_ice_server, servers) if IceSettings().rtc_servers([server])]
        if usable:
            self._media.ice_servers = usable
        elif servers and self._knowledge.is_news("unusable ice servers"):
            log.warning("avatar_service_ice_servers_unusable", servers=len(servers))
        elif not servers and not self._media.ice_servers and self._knowledge.is_news("ice servers"):
            log.info("avatar_service_names_no_ice_servers")

    def _take_limit(self, expires_at_s: float | None) -> None:
        if expires_at_s is None:
            return
        left_s = self._clock.left_s(expires_at_s)
        if left_s > 0:
            self._listener.on_limit(left_s)
        elif self._knowledge.is_news("limit in the past"):
            log.warning("avatar_service_limit_over", over_since_s=round(-left_s))

    async def _watch_handshake(self) -> None:
        """Raises ProviderUnavailable when a step of the hand-shake does not come in time."""
        for type_name, done in self._steps.items():
            try:
                async with asyncio.timeout(self._options.step_s):
                    await done.wait()
            except TimeoutError:
                purpose, step_s = _PURPOSES[type_name], self._options.step_s
                raise ProviderUnavailable(
                    f"{self._where} did not {purpose} within {step_s:g} s (waiting for {self._name(type_name)})",
                    reason="handshake",
                ) from None

    # ------------------------------------------------------------------------------------------ the interface's own

    def _name(self, type_name: str) -> str:
        """What the service calls an event of this type."""
        return type_name

    def _parse(self, frame: str | bytes) -> navtalk.Event:
        """Raises RemoteProtocolError."""
        # The documents allow binary frames and do not say what is in them.
        return parse_event(frame) if isinstance(frame, str) else navtalk.Unknown("binary")

    def _dump(self, message: navtalk.Request) -> str:
        return dump(message)

    async def _begin(self) -> None:
        """The socket is open."""
        config = navtalk.InputConfig(self._options.voice, self._options.prompt, self._options.tools)
        if config.settings:
            await self._announce(config)

    async def _configure(self) -> None:
        """The service has created the conversation: tell it what users said before."""
        if "history" in self._options.capabilities:
            for text in tuple(self._history):
                await self._announce(navtalk.HistoryItem(text))

    async def _signal(self, message: navtalk.Signalling) -> None:
        await self._announce(message)

    def _audio(self, pcm16: bytes) -> navtalk.AudioAppend:
        is_bare, tag = self._options.is_transparent, None
        if self._options.role == "speak" and not is_bare:
            tag = navtalk.AudioBackTag(self._stream_id, self._n_audio_messages)
        self._n_audio_messages += 1
        return navtalk.AudioAppend(pcm16, is_bare, tag)


def _ice_server(server: navtalk.IceServer) -> IceServer:
    credential = Secret(server.credential, is_passing=True) if server.credential else None
    return IceServer(server.urls, server.username, credential)
