"""A sending and a receiving peer on loopback, and sinks that keep what arrives."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from aiortc import RTCPeerConnection

from bridge.errors import BridgeError
from bridge.media.access_unit import Kind
from bridge.media.rtp import RtpPacket, SenderReport
from bridge.net.ice import IceSettings
from bridge.net.peer import ReceivingPeer, SendingPeer
from bridge.ports import RemoteTrack

LOOPBACK = IceSettings(("lo",))
# A guard against hanging, far above what any step takes.
PATIENCE_S = 10.0


async def close(pc: RTCPeerConnection) -> None:
    """Close a stock connection, maybe while it connects."""

    async def no_consent() -> None:
        pass

    for transceiver in pc.getTransceivers():
        # aioice begins to ask for consent once it has connected, even if it was closed in that moment.
        setattr(transceiver.sender.transport.transport._connection, "query_consent", no_consent)  # noqa: B010
    await pc.close()


class Sink:
    """Keeps packets and reports of one track; `arrived` waits for them."""

    def __init__(self, track: RemoteTrack) -> None:
        self.track = track
        self.packets: list[RtpPacket] = []
        self.reports: list[SenderReport] = []
        self._changed = asyncio.Event()

    def on_packet(self, packet: RtpPacket) -> None:
        self.packets.append(packet)
        self._changed.set()

    def on_sender_report(self, report: SenderReport) -> None:
        self.reports.append(report)
        self._changed.set()

    async def until(self, is_reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not is_reached():
                self._changed.clear()
                await self._changed.wait()

    async def arrived(self, n_packets: int) -> list[RtpPacket]:
        await self.until(lambda: len(self.packets) >= n_packets)
        return self.packets


@dataclass
class Tracks:
    """The session's side of a receiving peer."""

    sinks: dict[Kind, Sink] = field(default_factory=dict)
    _added: asyncio.Event = field(default_factory=asyncio.Event)

    def on_track(self, track: RemoteTrack) -> Sink:
        sink = self.sinks[track.kind] = Sink(track)
        self._added.set()
        return sink

    async def sink(self, kind: Kind) -> Sink:
        async with asyncio.timeout(PATIENCE_S):
            while kind not in self.sinks:
                self._added.clear()
                await self._added.wait()
        return self.sinks[kind]


@dataclass
class Line:
    """Two connected peers. `keyframe_requests` counts what reached the sender."""

    sending: SendingPeer
    receiving: ReceivingPeer
    tracks: Tracks
    keyframe_requested: asyncio.Event


def unchanged(sdp: str) -> str:
    return sdp


async def negotiate(sending: SendingPeer, receiving: ReceivingPeer, edit: Callable[[str], str] = unchanged) -> None:
    await sending.accept(await receiving.answer(edit(await sending.offer())))


@asynccontextmanager
async def connected_line(edit: Callable[[str], str] = unchanged, **options: Any) -> AsyncIterator[Line]:
    """Both peers up and both tracks known to the receiver; `edit` changes the offer on its way."""
    requested = asyncio.Event()
    tracks = Tracks()
    async with (
        ReceivingPeer(LOOPBACK, tracks.on_track) as receiving,
        SendingPeer(LOOPBACK, requested.set, **options) as sending,
    ):
        await negotiate(sending, receiving, edit)
        async with asyncio.timeout(PATIENCE_S):
            await sending.connected()
            await receiving.connected()
        await tracks.sink("video")
        await tracks.sink("audio")
        yield Line(sending, receiving, tracks, requested)


async def outcome(peer: ReceivingPeer | SendingPeer) -> BridgeError:
    """What `run` raises."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            try:
                await peer.run()
            except BridgeError as error:
                return error
    raise AssertionError("the peer did not notice")
