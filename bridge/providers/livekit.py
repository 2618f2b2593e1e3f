"""LiveKit rooms as an avatar provider: an avatar worker is fed over data streams, and its tracks are received."""

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import structlog
from livekit.protocol import models

from bridge.errors import ProviderRejected, ProviderUnavailable
from bridge.media.clock import AVATAR_RATE_HZ, NS_PER_MS
from bridge.net.ice import IceServer, IceSettings
from bridge.net.livekit_rpc import RpcEndpoint
from bridge.ports import AvatarEvent, AvatarListener, Capability, RemoteTrack, TrackSink, UplinkPacing
from bridge.protocols.livekit_data import (
    AUDIO_TOPIC,
    CLEAR_BUFFER,
    OK,
    PLAYBACK_FINISHED,
    PLAYBACK_STARTED,
    REJECTED,
    StreamWriter,
    audio_attributes,
)
from bridge.protocols.livekit_room import Choice
from bridge.providers.livekit_entry import Entry
from bridge.providers.livekit_room import LiveKitRoom
from bridge.providers.navtalk_ends import cause_of
from bridge.redact import redact_url

# Workers take any pieces, and as fast as they come (livekit-agents reads them in blocks of 100 ms).
PACING = UplinkPacing(
    live_samples=AVATAR_RATE_HZ // 50,
    buffered_samples=AVATAR_RATE_HZ // 10,
    idle_audio="none",
    tail_s=0.2,  # the mouth closes within it; a stream's end says that the turn is over
    is_eager=True,  # to be sure of a voice takes 80 ms
)
# A position in seconds of a stretch of speech: longer ones are none.
_MAX_POSITION_S = 24 * 3600.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveKitOptions:
    """Which room and which avatar in it.

    drive        worker: the avatar is fed with our speech, by the convention of LiveKit's agents; none: somebody else
                 does that, and it is only received.
    rate_hz      of our speech; its stream says so, and not every worker listens.
    ice_servers  replaces the list that the server sends.
    step_s       deadline of each step of the hand-shake.
    """

    entry: Entry
    choice: Choice
    drive: Literal["worker", "none"] = "worker"
    rate_hz: int = AVATAR_RATE_HZ
    ice_servers: tuple[IceServer, ...] | None = None
    step_s: float = 10.0

    @property
    def capabilities(self) -> frozenset[Capability]:
        return frozenset({"interrupt"}) if self.drive == "worker" else frozenset()


class LiveKitProvider:
    """The avatar of a LiveKit room."""

    def __init__(self, options: LiveKitOptions, ice: IceSettings) -> None:
        self.capabilities = options.capabilities
        self._options = options
        self._ice = ice
        self._n_open = 0

    async def run(self, listener: AvatarListener) -> None:
        """Stay in the room and raise what ended it: there is no other end than an error or a cancellation.

        Raises ProviderRejected, ProviderUnavailable, RemoteProtocolError; ConfigError for an unknown interface.
        """
        self._n_open += 1
        try:
            await _Stay(self._options, self._ice, listener).run()
        except ProviderRejected as error:
            if self._n_open > 1 and error.reason == "duplicate_identity":
                # The one that took our place is our own successor, and there cannot be both.
                raise ProviderUnavailable(str(error), reason=error.reason) from None
            raise
        finally:
            self._n_open -= 1


class _Stay:
    """One stay in the room, with whoever is the avatar there."""

    def __init__(self, options: LiveKitOptions, ice: IceSettings, listener: AvatarListener) -> None:
        self._options = options
        self._listener = listener
        self._where = f"LiveKit at {redact_url(options.entry.url.reveal())}"
        self._room = LiveKitRoom(
            options.entry,
            options.choice,
            ice,
            self,
            self._where,
            sends_data=options.drive == "worker",
            ice_servers=options.ice_servers,
            step_s=options.step_s,
        )
        handlers = {PLAYBACK_STARTED: self._on_playback_started, PLAYBACK_FINISHED: self._on_playback_finished}
        self._rpc = RpcEndpoint(self._room.send, handlers)
        self._tasks = asyncio.TaskGroup()
        self._link: _Link | None = None

    async def run(self) -> None:
        try:
            async with self._tasks:
                try:
                    await self._room.run()
                finally:
                    self.on_presence(None)  # before the group ends, which then takes no task of the link's
        except ExceptionGroup as group:
            raise cause_of(group) from None

    # ------------------------------------------------------------------------------------------ RoomListener

    def on_track(self, track: RemoteTrack) -> TrackSink:
        return self._listener.on_track(track)

    def on_presence(self, identity: str | None) -> None:
        if self._link is not None:
            self._link.is_over = True
            self._link = None
        if identity is not None:
            self._link = _Link(identity, self._room, self._rpc, self._tasks, self._where, self._options, self._warn)
            self._listener.on_ready(self._link)

    def on_data(self, packet: models.DataPacket) -> None:
        if self._options.drive == "worker":
            self._rpc.take(packet)

    def on_event(self, event: AvatarEvent) -> None:
        self._listener.on_event(event)

    # ------------------------------------------------------------------------------------------ from the worker

    def _on_playback_started(self, caller: str, payload: str) -> str:
        if self._link is None or caller != self._link.worker:
            return REJECTED
        self._listener.on_event(AvatarEvent("response_started", PLAYBACK_STARTED))
        return OK

    def _on_playback_finished(self, caller: str, payload: str) -> str:
        if self._link is None or caller != self._link.worker:
            return REJECTED
        try:
            position_s = float(json.loads(payload)["playback_position"])
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            self._listener.on_event(AvatarEvent("malformed", PLAYBACK_FINISHED))
            position_s = 0.0
        if not 0 <= position_s <= _MAX_POSITION_S:
            position_s = 0.0
        self._listener.on_event(AvatarEvent("response_done", PLAYBACK_FINISHED, sound_s=position_s))
        return OK

    def _warn(self, what: str, text: str) -> None:
        log.warning("livekit_trouble", kind=what, error=text)
        self._listener.on_event(AvatarEvent("warning", what, text))


class _Link:
    """How to speak to one avatar worker. It is the listener's `AvatarLink`.

    worker   its identity.  is_over: it has left.
    """

    def __init__(
        self,
        worker: str,
        room: LiveKitRoom,
        rpc: RpcEndpoint,
        tasks: asyncio.TaskGroup,
        where: str,
        options: LiveKitOptions,
        warn: Callable[[str, str], None],
    ) -> None:
        self.pacing = replace(PACING, rate_hz=options.rate_hz)
        self.worker = worker
        self.is_over = False
        self._room = room
        self._rpc = rpc
        self._tasks = tasks
        self._where = where
        self._is_driven = options.drive == "worker"
        self._warn = warn
        self._stream: StreamWriter | None = None

    @property
    def datagrams_rejected(self) -> Mapping[str, int]:
        return self._room.datagrams_rejected

    @property
    def media_path(self) -> str:
        return self._room.media_path

    async def send_audio(self, pcm16: bytes) -> None:
        """Send whole samples of a stretch of speech, in a stream that ends with the turn."""
        if self.is_over:
            raise ProviderUnavailable(f"{self._where}: the avatar has left the room", reason="absent")
        if not self._is_driven:
            return  # somebody else speaks to it
        if self._stream is None:
            self._stream = StreamWriter(secrets.token_hex(16), [self.worker])
            name = f"AUDIO_{self._stream.id[:12]}"
            now_ms = time.time_ns() // NS_PER_MS
            self._room.send(self._stream.header(AUDIO_TOPIC, audio_attributes(self.pacing.rate_hz), now_ms, name))
        for chunk in self._stream.chunks(pcm16):
            self._room.send(chunk)
        await self._room.drained()

    async def end_turn(self) -> None:
        """End the stream: the worker says then when it has said all of it."""
        stream, self._stream = self._stream, None
        if stream is not None and not self.is_over:
            self._room.send(stream.trailer())

    async def interrupt(self) -> None:
        """Make the worker forget what it has not said."""
        if self._is_driven and not self.is_over:
            await self.end_turn()
            self._tasks.create_task(self._clear(), name="livekit-clear")
        elif not self._is_driven:
            self._refuse()

    async def _clear(self) -> None:
        try:
            answer = await self._rpc.call(self.worker, CLEAR_BUFFER)
        except ProviderUnavailable as error:
            self._warn(CLEAR_BUFFER, f"{self._where}: {error}")
        else:
            if answer != OK:
                what = "the avatar takes its sound from somebody else: avatar.identity is to be whom it listens to"
                self._warn(CLEAR_BUFFER, f"{self._where}: {what}")

    async def say(self, text: str) -> None:
        self._refuse()

    async def show(self, image: bytes, media_type: str, *, wants_answer: bool) -> None:
        self._refuse()

    async def remember(self, text: str) -> None:
        self._refuse()

    async def listen(self, on: bool) -> None:
        self._refuse()

    async def answer_tool(self, call_id: str, output: str) -> None:
        self._refuse()

    def _refuse(self) -> None:
        raise ProviderRejected(f"{self._where}: this avatar cannot do this", reason="refused")
