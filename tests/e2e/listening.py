"""A session's side of an avatar provider, which remembers everything, and the local avatar service in this process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from bridge.errors import BridgeError
from bridge.local_avatar.options import LocalAvatarOptions
from bridge.local_avatar.server import LocalAvatar
from bridge.media.rtp import RtpPacket, SenderReport
from bridge.net.ice import IceSettings
from bridge.ports import AvatarEvent, AvatarLink, RemoteTrack, ToolCall

LO = IceSettings(interfaces=("lo",))
SMALL = {"size_px": (180, 320), "fps": 25}
PATIENCE_S = 20.0


class Sink:
    """Counts the packets of one track."""

    def __init__(self) -> None:
        self.packets: list[RtpPacket] = []
        self.changed = asyncio.Event()

    def on_packet(self, packet: RtpPacket) -> None:
        self.packets.append(packet)
        self.changed.set()

    def on_sender_report(self, report: SenderReport) -> None:
        pass

    async def received(self, n_packets: int) -> None:
        while len(self.packets) < n_packets:
            self.changed.clear()
            await self.changed.wait()


class Listener:
    """A session's side that remembers everything."""

    def __init__(self) -> None:
        self.sinks: dict[str, Sink] = {"audio": Sink(), "video": Sink()}
        self.tracks: dict[str, RemoteTrack] = {}
        self.n_tracks = 0
        self.ready: asyncio.Future[AvatarLink] = asyncio.get_running_loop().create_future()
        self.events: list[AvatarEvent] = []
        self.calls: list[ToolCall] = []
        self.limits_s: list[float] = []
        self.changed = asyncio.Event()

    def on_track(self, track: RemoteTrack) -> Sink:
        self.tracks[track.kind] = track
        self.n_tracks += 1
        self.changed.set()
        return self.sinks[track.kind]

    def on_ready(self, link: AvatarLink) -> None:
        self.ready.set_result(link)

    def on_limit(self, left_s: float) -> None:
        self.limits_s.append(left_s)

    def on_event(self, event: AvatarEvent) -> None:
        self.events.append(event)
        self.changed.set()

    def on_tool_call(self, call: ToolCall) -> None:
        self.calls.append(call)
        self.changed.set()

    async def saw_tracks(self, n_tracks: int) -> None:
        while self.n_tracks < n_tracks:
            self.changed.clear()
            await self.changed.wait()

    async def goes_on(self) -> None:
        """Wait for a second's worth of pictures and sound from now on."""
        await asyncio.gather(*(sink.received(len(sink.packets) + 50) for sink in self.sinks.values()))

    async def heard(self, kind: str) -> AvatarEvent:
        while True:
            for event in self.events:
                if event.kind == kind:
                    return event
            self.changed.clear()
            await self.changed.wait()


@asynccontextmanager
async def running(job: Awaitable[None]) -> AsyncIterator[asyncio.Task[None]]:
    """A task that is cancelled at the end of the block; if it fails before, so does the block."""
    task = asyncio.ensure_future(job)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


@asynccontextmanager
async def local_avatar(**options: Any) -> AsyncIterator[str]:
    """Its URLs, as `LocalAvatar` tells them of one service."""
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    avatar = LocalAvatar(LocalAvatarOptions(**(SMALL | options)), listening.set_result)
    async with running(avatar.run()):
        yield await listening


def tone(seconds: float) -> bytes:
    n = np.arange(round(seconds * 24_000))
    return np.rint(8000 * np.sin(2 * np.pi * 220 * n / 24_000)).astype("<i2").tobytes()


async def failure_of(job: Awaitable[None]) -> BridgeError:
    with pytest.raises(BridgeError) as caught:
        async with asyncio.timeout(PATIENCE_S):
            await job
    return caught.value
