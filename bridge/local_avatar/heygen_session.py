"""One session of the local HeyGen: what is said to its avatar over the WebSocket, and how it ends."""

import asyncio
import secrets
from collections.abc import Callable
from functools import partial

import structlog
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from bridge.errors import RemoteProtocolError
from bridge.local_avatar.faults import Faults
from bridge.local_avatar.livekit_stage import Stage
from bridge.protocols import heygen
from bridge.redact import mask

# A session that hears nothing for so long ends (HeyGen's REST interface, activity_idle_timeout).
IDLE_S = 120.0
# Longer messages end the connection, the pages say.
MOST_MESSAGE_BYTES = 1_000_000
# Sound that waits for its commit: what is longer is of no client that was seen.
MOST_BUFFERED_BYTES = 8 * 2**20
LOOK_S = 0.02

log = structlog.get_logger()


class Session:
    """A session from the request for it until it is stopped, or ends by itself: also while nobody is connected.

    stage    where its avatar is, while somebody watches.  on_end: is told the reason, once.
    token    opens it to further requests.  is_in_own_room: in a room of the client's.
    """

    def __init__(
        self,
        room: str,
        stage: Callable[[], Stage | None],
        faults: Faults,
        limit_s: float,
        on_end: Callable[["Session", str], None],
    ) -> None:
        self.id = secrets.token_hex(16)
        self.token = secrets.token_urlsafe(24)
        self.room = room
        self.is_in_own_room = False
        self.limit_s = limit_s
        self._stage = stage
        self._faults = faults
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._limit = self._loop.call_later(limit_s, self.end, "limit")
        self._idle = self._loop.call_later(IDLE_S, self.end, "idle")
        self._over = asyncio.Event()
        self._socket: ServerConnection | None = None
        self._buffer = bytearray()
        self._utterance = ""

    def touch(self) -> None:
        """It is in use."""
        self._idle.cancel()
        if not self._over.is_set():
            self._idle = self._loop.call_later(IDLE_S, self.end, "idle")

    def end(self, reason: str) -> None:
        """It is over, and everybody is sent away."""
        if self._over.is_set():
            return
        self._over.set()
        self._limit.cancel()
        self._idle.cancel()
        if (stage := self._stage()) is not None:
            stage.close()
        self._on_end(self, reason)

    async def serve(self, socket: ServerConnection) -> None:
        """Take commands until the client leaves or the session ends."""
        self._socket = socket
        try:
            async with asyncio.TaskGroup() as tasks:
                misbehaving = tasks.create_task(self._misbehave(socket), name="heygen-faults")
                closing = tasks.create_task(self._close_at_end(socket), name="heygen-end")
                await self._greet()
                async for frame in socket:
                    await self._hear(frame, tasks)
                misbehaving.cancel()
                closing.cancel()
        except* ConnectionClosed:
            log.info("avatar_commands_lost")
        finally:
            self._socket = None

    async def _close_at_end(self, socket: ServerConnection) -> None:
        await self._over.wait()
        await self._tell(heygen.SessionState("closed"))
        await socket.close()

    async def _misbehave(self, socket: ServerConnection) -> None:
        async def drop() -> None:
            socket.transport.abort()

        await self._faults.commit({"ws-drop": drop, "ws-close": partial(socket.close, 1011, "internal error")})

    async def _greet(self) -> None:
        assert self._socket is not None
        await self._tell(heygen.SessionState("connecting"))
        for name, frame in (
            ("bad-json", "no JSON"),
            ("binary-frames", b"\0\1"),
            ("malformed-events", '{"type": 7}'),
            ("unknown-events", '{"type": "agent.hiccup"}'),
        ):
            if self._faults.strikes(name):
                await self._socket.send(frame)
        await self._tell(heygen.SessionState("connected"))

    async def _hear(self, frame: str | bytes, tasks: asyncio.TaskGroup) -> None:
        self.touch()
        if len(frame) > MOST_MESSAGE_BYTES:
            assert self._socket is not None
            await self._socket.close(1009, "message too big")
            return
        try:
            await self._obey(heygen.parse_command(frame), tasks)
        except RemoteProtocolError as error:
            log.warning("avatar_command_refused", error=mask(str(error))[:200])
            await self._tell(heygen.Trouble("invalid_request", str(error)))

    async def _obey(self, command: heygen.Command, tasks: asyncio.TaskGroup) -> None:
        stage = self._stage()
        match command:
            case heygen.Append(pcm16):
                self._buffer += pcm16
                del self._buffer[MOST_BUFFERED_BYTES:]
            case heygen.Commit(pcm16):
                self._say(bytes(self._buffer) + pcm16)
                self._buffer.clear()
            case heygen.Clear():
                self._buffer.clear()
            case heygen.Speak(pcm16, event_id):
                self._say(pcm16)
                if not self._utterance:
                    self._utterance = event_id or secrets.token_hex(8)
                    await self._tell(heygen.SpeakStarted((event_id,)))
                    await self._tell(heygen.AgentState("talking", (event_id,)))
                await self._tell(heygen.Acknowledged("appended", (event_id,)))
            case heygen.SpeakEnd(event_id):
                self._utterance = ""
                await self._tell(heygen.Acknowledged("committed", (event_id,)))
                tasks.create_task(self._finish(event_id), name="heygen-finish")
            case heygen.Interrupt(event_id):
                self._buffer.clear()
                self._utterance = ""
                if stage is not None:
                    stage.stop_speaking()
                    stage.attend("idle")
                await self._tell(heygen.SpeakInterrupted((event_id,)))
            case heygen.StartListening() if stage is not None and not stage.is_speaking:
                stage.attend("listening")
                log.info("avatar_listens")
                await self._tell(heygen.AgentState("listening", (command.event_id,)))
            case heygen.StopListening() if stage is not None:
                stage.attend("idle")

    def _say(self, sound: bytes) -> None:
        """What is said has whole samples: the half of one that a commit has to carry is nothing."""
        if (stage := self._stage()) is not None and len(sound) > 1:
            stage.speak(sound[: len(sound) // 2 * 2])

    async def _finish(self, event_id: str) -> None:
        while (stage := self._stage()) is not None and stage.is_speaking:  # noqa: ASYNC110  it comes of sound that is taken
            await asyncio.sleep(LOOK_S)
        await self._tell(heygen.SpeakEnded((event_id,)))
        await self._tell(heygen.AgentState("idle", (event_id,)))

    async def _tell(self, event: heygen.Event) -> None:
        if self._socket is not None:
            await self._socket.send(heygen.dump_event(event, secrets.token_hex(8)))
