"""One session with NavTalk: a WebSocket's hand-shake, its events, and what the avatar is told over it."""

import asyncio
import base64
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
from bridge.protocols.navtalk_json import dump, fill_shape, parse_event
from bridge.providers.navtalk_ends import cause_of, end_of, ended_error
from bridge.providers.navtalk_events import Conversation, ToolCalls, shown_type
from bridge.providers.navtalk_knowledge import Knowledge
from bridge.providers.navtalk_media import Media
from bridge.providers.navtalk_options import NavTalkOptions
from bridge.providers.service_clock import ServiceClock
from bridge.redact import Secret, mask

log = structlog.get_logger()

# A socket that takes no message for this long holds 250 live audio messages: its far end has stopped reading.
SEND_TIMEOUT_S = 5.0
# A picture of several MiB takes its time, and sound waits behind it. Twice what sound alone needs as base64.
SLOWEST_BYTES_PER_S = 128 * 1024
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
    """One open WebSocket with NavTalk. It is the listener's `AvatarLink`."""

    def __init__(
        self,
        socket: ClientConnection,
        options: NavTalkOptions,
        ice: IceSettings,
        history: Sequence[str],
        listener: AvatarListener,
        knowledge: Knowledge,
        where: str,
    ) -> None:
        self.pacing = options.pacing
        self._socket = socket
        self._options = options
        self._history = history
        self._listener = listener
        self._knowledge = knowledge
        self._where = where
        self._clock = ServiceClock(socket.response.headers.get("Date") if socket.response is not None else None)
        self._unread_s: float | None = None
        self._ended: navtalk.Ended | None = None
        self._conversation = Conversation()
        self._tool_calls = ToolCalls()
        self._stream_id = secrets.token_hex(8)
        self._n_audio_messages = 0
        self._is_bare = options.is_transparent
        # A mirror may be spoken to once it is connected, and some services send it nothing else before the offer.
        is_mirror = options.role == "speak"
        configuring = () if is_mirror else (navtalk.SessionCreated.TYPE, navtalk.SessionUpdated.TYPE)
        self._ready_at = navtalk.Connected.TYPE if is_mirror else navtalk.SessionUpdated.TYPE
        self._steps = {
            type_name: asyncio.Event() for type_name in (navtalk.Connected.TYPE, *configuring, navtalk.Offer.TYPE)
        }
        self._has_replayed = False
        self._tasks = asyncio.TaskGroup()
        has_begun = self._steps[navtalk.Connected.TYPE]
        self._media = Media(ice, listener, knowledge, self._tasks, self._announce, has_begun, where)
        self._media.ice_servers = options.ice_servers or ()

    async def run(self) -> None:
        """Serve until the session ends, and raise why."""
        try:
            async with self._tasks:
                self._tasks.create_task(self._watch_handshake(), name="navtalk-handshake")
                config = navtalk.InputConfig(self._options.voice, self._options.prompt, self._options.tools)
                if config.settings:
                    await self._announce(config)
                while True:
                    await self._take(await self._receive())
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
            piece = pcm16[start : start + 2 * navtalk.BUFFERED_SAMPLES]
            tag = None
            if self._options.role == "speak" and not self._is_bare:
                tag = navtalk.AudioBackTag(self._stream_id, self._n_audio_messages)
            self._n_audio_messages += 1
            await self._send(navtalk.AudioAppend(piece, self._is_bare, tag))

    async def say(self, text: str) -> None:
        """Send something typed. The shape of the message is inferred, unless the operator gives one.

        Raises ProviderRejected for more than `MAX_TEXT_CHARACTERS`.
        """
        self._require("say")
        if len(text) > MAX_TEXT_CHARACTERS:
            raise self._refusal(f"is told at most {MAX_TEXT_CHARACTERS} characters at a time, not {len(text)}")
        shape = self._options.shapes.get("input_text")
        await self._send(navtalk.TextInput(text) if shape is None else fill_shape(shape, {"text": text}))

    async def show(self, image: bytes, media_type: str, *, wants_answer: bool) -> None:
        """Send a picture. The shape of the message is inferred, unless the operator gives one.

        Raises ProviderRejected for more than `MAX_IMAGE_BYTES`, and for what is no picture by its type.
        """
        self._require("image")
        if len(image) > MAX_IMAGE_BYTES:
            raise self._refusal(f"takes pictures of at most {MAX_IMAGE_BYTES} bytes, not {len(image)}")
        if not re.fullmatch(r"image/[\w.+-]+", media_type, re.ASCII):
            raise self._refusal("takes pictures with a type such as image/jpeg")
        # For a picture of some MiB this takes tens of milliseconds, in which sound would wait.
        await self._send(await asyncio.to_thread(self._image_message, image, media_type, wants_answer))

    def _image_message(self, image: bytes, media_type: str, wants_answer: bool) -> str:
        data_url = f"data:{media_type};base64,{base64.b64encode(image).decode()}"
        shape = self._options.shapes.get("input_image")
        if shape is None:
            return dump(navtalk.ImageInput(data_url, wants_answer))
        return fill_shape(shape, {"image": data_url, "reply": int(wants_answer)})

    async def end_turn(self) -> None:
        """Nothing: the service finds the end of a turn in its silence."""

    async def interrupt(self) -> None:
        """Make the service forget the sound that it has not spoken. The message is not documented."""
        await self._send(navtalk.AudioClear())

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
            end = self._end_of(closed)
            raise end if isinstance(end, BridgeError) else self._error(end) from None

    async def _announce(self, message: navtalk.Request) -> None:
        """Send what belongs to the session's own flow: `run` still reads what came before the connection's end."""
        with contextlib.suppress(ConnectionClosed):
            await self._write(message)

    async def _write(self, message: navtalk.Request | str) -> None:
        text = message if isinstance(message, str) else dump(message)
        waiting_bytes = self._socket.transport.get_write_buffer_size() + len(text)
        timeout_s = SEND_TIMEOUT_S + waiting_bytes / SLOWEST_BYTES_PER_S
        try:
            async with asyncio.timeout(timeout_s):
                await self._socket.send(text)
        except TimeoutError:
            # Whoever sends need not be who serves: the loss of the connection is what reaches `run`.
            self._unread_s = timeout_s
            self._socket.transport.abort()
            await self._socket.wait_closed()
            raise self._stopped_reading(timeout_s) from None

    async def _receive(self) -> str | bytes:
        try:
            return await self._socket.recv()
        except ConnectionClosed as closed:
            end = self._end_of(closed)
            raise end if isinstance(end, BridgeError) else self._end(end) from None

    def _stopped_reading(self, unread_s: float) -> ProviderUnavailable:
        what = f"{self._where} has stopped reading for {unread_s:.0f} s"
        return ProviderUnavailable(what, reason=navtalk.End.DISCONNECTED.value)

    def _end_of(self, closed: ConnectionClosed) -> navtalk.Ended | BridgeError:
        return end_of(closed, self._where) if self._unread_s is None else self._stopped_reading(self._unread_s)

    def _end(self, ended: navtalk.Ended) -> BridgeError:
        self._ended = ended
        return self._error(ended)

    def _error(self, ended: navtalk.Ended) -> BridgeError:
        awaited = next((type_name for type_name, done in self._steps.items() if not done.is_set()), None)
        return ended_error(ended, self._where, awaited)

    # ------------------------------------------------------------------------------------------ events

    async def _take(self, frame: str | bytes) -> None:
        """One frame, whatever is in it: a message that cannot be used is ignored."""
        if not isinstance(frame, str):
            # The documents allow such frames and do not say what is in them.
            await self._handle(navtalk.Unknown("binary"))
            return
        try:
            event = parse_event(frame)
            call = self._tool_calls.read(event)
        except RemoteProtocolError as error:
            type_name = shown_type(string((object_fields(frame) or {}).get("type")) or "")
            if self._knowledge.is_news("malformed", type_name):
                log.warning(
                    "avatar_service_event_malformed", type=type_name, error=mask(str(error))[:_MAX_ERROR_CHARACTERS]
                )
            self._listener.on_event(AvatarEvent("malformed", type_name))
            return
        await self._handle(event)
        if call is not None and "tools" in self._options.capabilities:
            self._listener.on_tool_call(call)

    async def _handle(self, event: navtalk.Event) -> None:
        match event:
            case navtalk.Ended():
                raise self._end(event)
            case navtalk.Connected(_, ice_servers):
                self._take_ice_servers(ice_servers)
            case navtalk.SessionCreated(expires_at_s):
                self._take_limit(expires_at_s)
                await self._replay()
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
        if event.TYPE == self._ready_at:
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

    async def _replay(self) -> None:
        """Tell the service what users said before, once."""
        if self._has_replayed or "history" not in self._options.capabilities:
            return
        self._has_replayed = True
        for text in tuple(self._history):
            await self._announce(navtalk.HistoryItem(text))

    async def _watch_handshake(self) -> None:
        """Raises ProviderUnavailable when a step of the hand-shake does not come in time."""
        for type_name, done in self._steps.items():
            try:
                async with asyncio.timeout(self._options.step_s):
                    await done.wait()
            except TimeoutError:
                purpose, step_s = _PURPOSES[type_name], self._options.step_s
                raise ProviderUnavailable(
                    f"{self._where} did not {purpose} within {step_s:g} s (waiting for {type_name})", reason="handshake"
                ) from None


def _ice_server(server: navtalk.IceServer) -> IceServer:
    credential = Secret(server.credential, is_passing=True) if server.credential else None
    return IceServer(server.urls, server.username, credential)
