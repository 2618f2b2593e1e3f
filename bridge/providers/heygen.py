"""HeyGen's avatars and LiveAvatar as a provider: sound goes over a WebSocket, the avatar comes by a LiveKit room."""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, nullcontext

import structlog
from livekit.protocol import models
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from bridge.errors import BridgeError, ProviderRejected, ProviderUnavailable, RemoteProtocolError
from bridge.media.clock import AVATAR_RATE_HZ
from bridge.net.ice import IceServer, IceSettings
from bridge.ports import AvatarEvent, AvatarListener, Capability, RemoteTrack, TrackSink, UplinkPacing
from bridge.protocols import heygen
from bridge.protocols.heygen import Command, Dialect, Pieces
from bridge.protocols.heygen_rest import Opened
from bridge.providers.heygen_lives import Lives
from bridge.providers.livekit_room import LiveKitRoom
from bridge.providers.navtalk_ends import cause_of, ended_error
from bridge.providers.navtalk_socket import Socket
from bridge.providers.websocket import open_websocket
from bridge.redact import Secret, mask

PACING = UplinkPacing(
    live_samples=AVATAR_RATE_HZ // 50,
    buffered_samples=AVATAR_RATE_HZ // 10,
    idle_audio="none",
    tail_s=0.2,  # the mouth closes within it; a message says that the turn is over
    # "Faster than real time" ("Audio to Video WSS API"): the first piece and one of the next, so that the service has
    # never less than the half of a second left.
    ahead_s=1.5,
)
# The documents have clients wait for "connected", and not every session was seen to say it.
CONNECTED_S = 3.0
_MAX_WORDS = 200

log = structlog.get_logger()


class HeyGenProvider:
    """The avatars of an account, in either dialect of the WebSocket.

    ice_servers  replaces the list that the room's server sends.  step_s: deadline of each step of the hand-shake.
    """

    capabilities: frozenset[Capability] = frozenset({"interrupt", "listening"})

    def __init__(
        self,
        lives: Lives,
        dialect: Dialect,
        ice: IceSettings,
        *,
        ice_servers: tuple[IceServer, ...] | None = None,
        step_s: float = 10.0,
    ) -> None:
        self._lives = lives
        self._dialect = dialect
        self._ice = ice
        self._ice_servers = ice_servers
        self._step_s = step_s

    async def run(self, listener: AvatarListener) -> None:
        """Begin a session, serve until it ends, and raise why; the service is told that it is over.

        Raises ProviderRejected, ProviderUnavailable, RemoteProtocolError; ConfigError for an unknown interface.
        """
        lives = self._lives
        async with lives.session() as opened:
            listener.on_event(AvatarEvent("other", "session"))
            if opened.limit_s:
                listener.on_limit(opened.limit_s)
            entry, choice = lives.entry(opened)
            where = f"the WebSocket of {lives.where}"
            # The URL is used as it came, and nothing of ours goes with it.
            url = Secret(opened.socket_url, is_passing=True)
            opening = open_websocket(
                url.reveal,
                where,
                key="its address",
                open_timeout_s=self._step_s,
                advice={},
                otherwise=_THEIRS,
                policy=self._ice.policy,
            )
            async with AsyncExitStack() as stack:
                with _theirs():
                    socket = await stack.enter_async_context(opening)
                stay = _Stay(socket, opened, lives, self._dialect, where, listener)
                room = LiveKitRoom(
                    entry,
                    choice,
                    self._ice,
                    stay,
                    f"the room of {lives.where}",
                    ice_servers=self._ice_servers,
                    step_s=self._step_s,
                )
                await stay.run(room)


_THEIRS = "the service gave this address itself"


@contextmanager
def _theirs() -> Iterator[None]:
    """What opens room and WebSocket the service has given itself: where it is refused there is nothing for the operator
    to do, and another session gets others.
    """
    try:
        yield
    except ProviderRejected as error:
        raise ProviderUnavailable(str(error), reason=error.reason) from None


class _Stay:
    """One session, in its room and at its WebSocket."""

    def __init__(
        self,
        connection: ClientConnection,
        opened: Opened,
        lives: Lives,
        dialect: Dialect,
        where: str,
        listener: AvatarListener,
    ) -> None:
        self._socket = Socket(connection, where)
        self._opened = opened
        self._lives = lives
        self._dialect = dialect
        self._where = where
        self._listener = listener
        self._warned: set[str] = set()
        self._is_connected = asyncio.Event()
        self._is_present = asyncio.Event()
        self._link: _Link | None = None
        if dialect == "alpha":
            self._is_connected.set()  # it says nothing

    async def run(self, room: LiveKitRoom) -> None:
        self._room = room
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch(room), name="heygen-room")
                tasks.create_task(self._lives.keep_alive(self._opened), name="heygen-life")
                tasks.create_task(self._keep_alive(), name="heygen-keep-alive")
                tasks.create_task(self._get_ready(), name="heygen-ready")
                while True:
                    await self._take(await self._receive())
        except ExceptionGroup as group:
            raise cause_of(group) from None
        finally:
            self.on_presence(None)

    async def _watch(self, room: LiveKitRoom) -> None:
        with nullcontext() if self._lives.has_own_room else _theirs():
            await room.run()

    async def _get_ready(self) -> None:
        """Give the listener its link once the avatar is in the room and takes commands."""
        try:
            async with asyncio.timeout(CONNECTED_S):
                await self._is_connected.wait()
        except TimeoutError:
            self._warn("connected", "the session does not say that it is connected")
            self._is_connected.set()
        self._announce()

    def _announce(self) -> None:
        if self._link is None and self._is_present.is_set() and self._is_connected.is_set():
            self._link = _Link(self._socket, self._dialect, self._room, self._where, self._listener)
            self._listener.on_ready(self._link)

    # ------------------------------------------------------------------------------------------ RoomListener

    def on_track(self, track: RemoteTrack) -> TrackSink:
        return self._listener.on_track(track)

    def on_presence(self, identity: str | None) -> None:
        if identity is None:
            self._is_present.clear()
            if self._link is not None:
                self._link.is_over, self._link = True, None
        else:
            self._is_present.set()
            self._announce()

    def on_data(self, packet: models.DataPacket) -> None:
        """The room's data repeat what the WebSocket says."""

    def on_event(self, event: AvatarEvent) -> None:
        self._listener.on_event(event)

    # ------------------------------------------------------------------------------------------ the WebSocket

    async def _receive(self) -> str | bytes:
        try:
            return await self._socket.receive()
        except ConnectionClosed as closed:
            raise _end(self._socket, closed, self._where) from None

    async def _keep_alive(self) -> None:
        while self._dialect == "speak":
            await asyncio.sleep(heygen.KEEP_ALIVE_S)
            try:
                await self._socket.send(heygen.dump_command(heygen.KeepAlive(secrets.token_hex(8))))
            except ConnectionClosed:
                return  # `_receive` finds out why

    async def _take(self, frame: str | bytes) -> None:
        try:
            event = heygen.parse_event(frame)
        except RemoteProtocolError as error:
            self._warn("malformed", str(error))
            self._listener.on_event(AvatarEvent("malformed", ""))
            return
        match event:
            case heygen.SessionState("connected"):
                self._is_connected.set()
                self._announce()
            case heygen.SessionState("closing" | "closed" | "disconnected" as state):
                raise ProviderUnavailable(f"{self._where} ended the session: {state}", reason="close")
            case heygen.Trouble(kind, message, is_warning):
                text = mask(f"{kind} {message}".strip())[:_MAX_WORDS]
                self._warn(kind or ("warning" if is_warning else "error"), text)
                self._listener.on_event(AvatarEvent("warning", event.TYPE, text))
                return
            case heygen.Unknown(type_name):
                self._warn(f"unknown {type_name}", "an event that no document names")
                self._listener.on_event(AvatarEvent("unknown", mask(type_name)[:80]))
                return
        is_news = self._link is not None and await self._link.read(event)
        self._listener.on_event(AvatarEvent("response_started" if is_news else "other", event.TYPE))

    def _warn(self, kind: str, text: str) -> None:
        """Each kind is logged once."""
        kind = mask(kind)[:_MAX_WORDS]
        if kind not in self._warned and len(self._warned) < 64:
            self._warned.add(kind)
            log.warning("heygen_trouble", kind=kind, error=f"{self._where}: {text}")


class _Link:
    """How to speak to one session. It is the listener's `AvatarLink`.

    An answer begins when the service says so (alpha, which says nothing: when its first piece is sent), and is known
    whole when its last piece is sent.

    is_over  the avatar has left the room.
    """

    def __init__(
        self, socket: Socket, dialect: Dialect, room: LiveKitRoom, where: str, listener: AvatarListener
    ) -> None:
        self.pacing = PACING
        self.is_over = False
        self._socket = socket
        self._is_alpha = dialect == "alpha"
        self._room = room
        self._where = where
        self._listener = listener
        self._pieces = Pieces()
        self._utterance = ""
        # Utterances that the service has not said anything of yet, and those that it has.
        self._begun: deque[str] = deque(maxlen=16)
        self._heard: deque[str] = deque(maxlen=16)
        self._n_sent_samples = 0
        self._is_listening = False

    @property
    def datagrams_rejected(self) -> Mapping[str, int]:
        return self._room.datagrams_rejected

    @property
    def media_path(self) -> str:
        return self._room.media_path

    async def send_audio(self, pcm16: bytes) -> None:
        """Send whole samples of a stretch of speech, in pieces of the service's liking."""
        if self.is_over:
            raise ProviderUnavailable(f"{self._where}: the avatar has left the room", reason="absent")
        for piece in self._pieces.push(pcm16, time.monotonic_ns()):
            await self._speak(piece)

    async def end_turn(self) -> None:
        """Send the rest, and say that the utterance is whole."""
        for piece in self._pieces.end(time.monotonic_ns()):
            await self._speak(piece)
        if not self._utterance:
            return
        if not self._is_alpha:
            await self._send(heygen.SpeakEnd(self._utterance))
        sound_s = self._n_sent_samples / AVATAR_RATE_HZ
        self._utterance, self._n_sent_samples = "", 0
        self._listener.on_event(AvatarEvent("response_done", heygen.SpeakEnd.TYPE, sound_s=sound_s))

    async def interrupt(self) -> None:
        """Make the service forget what it has not said."""
        self._pieces.drop()
        self._heard.extend(self._begun)  # what the service still says of them begins nothing
        self._begun.clear()
        interrupted, self._utterance, self._n_sent_samples = self._utterance, "", 0
        if self._is_alpha:
            await self._send(heygen.Clear(secrets.token_hex(8)))
        await self._send(heygen.Interrupt(interrupted or secrets.token_hex(8)))

    async def say(self, text: str) -> None:
        self._refuse()

    async def show(self, image: bytes, media_type: str, *, wants_answer: bool) -> None:
        self._refuse()

    async def remember(self, text: str) -> None:
        self._refuse()

    async def listen(self, on: bool) -> None:
        """The service takes it while the avatar is idle alone, so it is said again when it becomes that."""
        self._is_listening = on
        event_id = secrets.token_hex(8)
        await self._send(heygen.StartListening(event_id) if on else heygen.StopListening(event_id))

    async def answer_tool(self, call_id: str, output: str) -> None:
        self._refuse()

    async def read(self, event: heygen.Event) -> bool:
        """What the service says of its speech; whether an answer begins with it. Some sessions say so in one way, some
        in another, some in both.
        """
        match event:
            case heygen.SpeakEnded() | heygen.AgentState("idle") if self._is_listening:
                await self._send(heygen.StartListening(secrets.token_hex(8)))
            case heygen.SpeakStarted(ids) | heygen.AgentState("talking", ids):
                # An id that is none of ours says nothing, and then it is the oldest one.
                if self._begun and not set(ids) & set(self._heard):
                    utterance = next((begun for begun in self._begun if begun in ids), self._begun[0])
                    self._begun.remove(utterance)
                    self._heard.append(utterance)
                    return True
        return False

    async def _speak(self, piece: bytes) -> None:
        if not self._utterance:
            self._utterance = secrets.token_hex(8)
            self._begun.append(self._utterance)
            if self._is_alpha:
                # As the vendor's demo does: whatever lies in the buffer is not of this utterance.
                await self._send(heygen.Clear(secrets.token_hex(8)))
                self._listener.on_event(AvatarEvent("response_started", heygen.Commit.TYPE))
        self._n_sent_samples += len(piece) // 2
        if self._is_alpha:
            await self._send(heygen.Append(piece, secrets.token_hex(8)))
            await self._send(heygen.Commit(event_id=secrets.token_hex(8)))
        else:
            await self._send(heygen.Speak(piece, self._utterance))

    async def _send(self, command: Command) -> None:
        try:
            await self._socket.send(heygen.dump_command(command))
        except ConnectionClosed as closed:
            raise _end(self._socket, closed, self._where) from None

    def _refuse(self) -> None:
        raise ProviderRejected(
            f"{self._where}: this avatar says what it hears, and takes nothing else", reason="refused"
        )


def _end(socket: Socket, closed: ConnectionClosed, where: str) -> BridgeError:
    """What a closed WebSocket is to the session."""
    end = socket.end_of(closed)
    return end if isinstance(end, BridgeError) else ended_error(end, where)
