"""A NavTalk session without a network: a WebSocket that is scripted, and peer connections that do as they are told."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Self

import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.frames import Close

from bridge.errors import ProviderUnavailable, RemoteProtocolError
from bridge.media.access_unit import Codec, Kind
from bridge.media.rtp import RtpPacket, SenderReport
from bridge.net.ice import IceServer, IceSettings
from bridge.ports import AvatarEvent, AvatarLink, RemoteTrack, ToolCall, TrackSink
from bridge.protocols import navtalk
from bridge.protocols.navtalk_json import dump
from bridge.providers.navtalk_knowledge import Knowledge
from bridge.providers.navtalk_options import NavTalkOptions
from bridge.providers.navtalk_session import ClientSession
from bridge.redact import Secret

CONNECTED = navtalk.Connected("s-1")
CREATED = navtalk.SessionCreated()
UPDATED = navtalk.SessionUpdated()
HAND_SHAKE = [CONNECTED, CREATED, UPDATED]


class ScriptedSocket:
    """Gives what `say` was given; keeps what is sent. It is its own transport.

    n_unread_bytes  wait to be read by the service: more than none, and what is sent is stuck behind them.
    """

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.n_unread_bytes = 0
        self.transport = self
        self.response: Any = None
        self._frames: asyncio.Queue[str | bytes | ConnectionClosed] = asyncio.Queue()
        self._closed: ConnectionClosed | None = None

    async def say(self, *frames: navtalk.Event | str | bytes) -> None:
        """Let the session take these, and do all that it does about them."""
        for frame in frames:
            self._frames.put_nowait(frame if isinstance(frame, str | bytes) else dump(frame))
        await settled()

    async def close(self, code: int, reason: str = "") -> None:
        """The service closes."""
        self._frames.put_nowait(self.refuse(code, reason))
        await settled()

    def refuse(self, code: int, reason: str = "") -> ConnectionClosed:
        """The service has closed, and only who sends gets to know."""
        close = Close(code, reason)
        self._closed = ConnectionClosedError(close, close, True)
        return self._closed

    def sent_of(self, type_name: str) -> list[dict[str, Any]]:
        return [message for message in self.sent if message["type"] == type_name]

    async def recv(self) -> str | bytes:
        frame = await self._frames.get()
        if isinstance(frame, ConnectionClosed):
            raise frame
        return frame

    async def send(self, text: str) -> None:
        if self._closed is not None:
            raise self._closed
        if self.n_unread_bytes:
            await asyncio.Event().wait()
        self.sent.append(json.loads(text))

    def get_write_buffer_size(self) -> int:
        return self.n_unread_bytes

    def abort(self) -> None:
        self._frames.put_nowait(self.refuse(1006))

    async def wait_closed(self) -> None:
        pass


async def settled() -> None:
    """Let every task run until it waits for something that is not here."""
    for _ in range(20):
        await asyncio.sleep(0)


class FakePeer:
    """A peer connection. An offer is text such as `room/1`: the one of the same room continues the connection, and one
    with `VP8` in it cannot be used.
    """

    made: list["FakePeer"]

    def __init__(
        self,
        ice: IceSettings,
        on_track: Callable[[RemoteTrack], TrackSink],
        *,
        first_media_s: float | None = None,
    ) -> None:
        self.first_media_s = first_media_s
        self.offers: list[str] = []
        self.ice_servers: Sequence[IceServer] = ()
        self.candidates: list[str] = []
        self.accepted: list[str] = []
        self.is_closed = False
        self.datagrams_rejected = Counter[str]()
        self.path = f"path {len(self.made)}"
        self._on_track = on_track
        self._sinks: dict[Kind, TrackSink] = {}
        self._is_connected = asyncio.Event()
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.made.append(self)

    # What tests make it do.

    def connect(self, *kinds: Kind) -> None:
        for kind in kinds:
            self._sinks[kind] = self._on_track(RemoteTrack(kind, {96: Codec.H264}, Feedback()))
        self._is_connected.set()

    def carry(self, kind: Kind, payload: bytes = b"") -> None:
        """A packet comes."""
        self._sinks[kind].on_packet(RtpPacket(1, 96, 1, 1, True, payload, 1, False))

    def report(self, kind: Kind) -> None:
        self._sinks[kind].on_sender_report(SenderReport(1, 1, 1, 1))

    async def lose(self, why: str = "the far end closed the media connection") -> None:
        self._lost.set_exception(ProviderUnavailable(why))
        await settled()

    # What the provider does with it.

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.is_closed = True
        self._lost.cancel()

    def continues(self, offer_sdp: str) -> bool:
        return any(offer.split("/")[0] == offer_sdp.split("/")[0] for offer in self.offers)

    async def answer(self, offer_sdp: str, ice_servers: Sequence[IceServer]) -> str:
        if "VP8" in offer_sdp:
            raise RemoteProtocolError("the offer has no H.264 video (it offers VP8)")
        self.offers.append(offer_sdp)
        self.ice_servers = ice_servers
        return f"answer to {offer_sdp}"

    async def offer(self, ice_servers: Sequence[IceServer]) -> str:
        self.ice_servers = ice_servers
        return f"offer of peer {self.made.index(self)}"

    async def accept(self, answer_sdp: str) -> None:
        if "VP8" in answer_sdp:
            raise RemoteProtocolError("the answer has no H.264 video")
        self.accepted.append(answer_sdp)

    async def connected(self) -> None:
        await self._is_connected.wait()

    async def add_candidate(self, candidate: str, sdp_mid: str | None, sdp_mline_index: int | None) -> None:
        self.candidates.append(candidate)

    async def run(self) -> None:
        await self._lost


class Feedback:
    def send_nack(self, sequence_numbers: Sequence[int]) -> None: ...

    def send_pli(self) -> None: ...


class Sink:
    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.n_reports = 0

    def on_packet(self, packet: RtpPacket) -> None:
        self.payloads.append(packet.payload)

    def on_sender_report(self, report: SenderReport) -> None:
        self.n_reports += 1


class Listener:
    """The bridge's side, which remembers everything. `tracks`: kind and sink, in the order of their announcement."""

    def __init__(self) -> None:
        self.links: list[AvatarLink] = []
        self.events: list[AvatarEvent] = []
        self.limits_s: list[float] = []
        self.calls: list[ToolCall] = []
        self.tracks: list[tuple[Kind, Sink]] = []

    def on_track(self, track: RemoteTrack) -> Sink:
        self.tracks.append((track.kind, Sink()))
        return self.tracks[-1][1]

    def on_ready(self, link: AvatarLink) -> None:
        self.links.append(link)

    def on_limit(self, left_s: float) -> None:
        self.limits_s.append(left_s)

    def on_event(self, event: AvatarEvent) -> None:
        self.events.append(event)

    def on_tool_call(self, call: ToolCall) -> None:
        self.calls.append(call)

    def told(self, kind: str) -> list[AvatarEvent]:
        return [event for event in self.events if event.kind == kind]

    @property
    def kinds(self) -> list[Kind]:
        return [kind for kind, _ in self.tracks]


@dataclass
class Scene:
    """One session at work."""

    session: ClientSession
    task: asyncio.Task[None]
    socket: ScriptedSocket
    listener: Listener
    peers: list[FakePeer]
    knowledge: Knowledge

    @property
    def answers(self) -> list[str]:
        return [message["data"]["sdp"]["sdp"] for message in self.socket.sent_of(navtalk.Answer.TYPE)]


@asynccontextmanager
async def scene(
    history: Sequence[str] = (), knowledge: Knowledge | None = None, date: str | None = None, **options: Any
) -> AsyncIterator[Scene]:
    """A session that is cancelled when the block ends. `knowledge`: what sessions before it have left; `date`: what the
    service's answer says."""
    given = {"url": Secret.url("wss://s.example/x"), "license": Secret("sk_navtalk_unit"), "name": "navtalk.Leo"}
    socket, listener, knowledge = ScriptedSocket(), Listener(), knowledge or Knowledge()
    socket.response = SimpleNamespace(headers={} if date is None else {"Date": date})
    session = ClientSession(
        socket,  # type: ignore[arg-type]
        NavTalkOptions(**(given | options)),
        IceSettings(),
        history,
        listener,
        knowledge,
        "NavTalk at test",
    )
    FakePeer.made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bridge.providers.navtalk_media.ReceivingPeer", FakePeer)
        task = asyncio.create_task(session.run())
        await settled()
        try:
            yield Scene(session, task, socket, listener, FakePeer.made, knowledge)
        finally:
            task.cancel()
            await asyncio.wait([task])
