"""A WhipOutput at work against an endpoint, and what it said."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS
from bridge.media.live_queue import LiveQueue
from bridge.net.ice import IceSettings
from bridge.net.url_policy import UrlPolicy
from bridge.outputs.whip import WhipOutput
from bridge.outputs.whip_succession import Room
from bridge.redact import Secret
from tests.interop import rtmp_media
from tests.interop.whip_endpoint import TOKEN, WhipEndpoint
from tests.net.loopback import LOOPBACK

PICTURES = [unit for unit in rtmp_media.units(1.0) if unit.codec is Codec.H264]
NEIGHBOURS = UrlPolicy(["127.0.0.0/8"])


def sound(pts_ms: int) -> AccessUnit:
    return AccessUnit(Codec.OPUS, b"\xfc" + bytes(40), pts_ms * NS_PER_MS, 20 * NS_PER_MS)


class Listener:
    """Remembers what an output said."""

    def __init__(self) -> None:
        self.published = asyncio.Event()
        self.keyframe_requested = asyncio.Event()
        self.written: list[AccessUnit] = []
        self.replaced: list[str] = []

    def on_published(self) -> None:
        assert not self.published.is_set(), "on_published is called once"
        self.published.set()

    def on_replaced(self, reason: str) -> None:
        self.replaced.append(reason)

    def on_written(self, unit: AccessUnit) -> None:
        self.written.append(unit)

    def on_keyframe_request(self) -> None:
        self.keyframe_requested.set()


class Publication:
    """An output at work."""

    def __init__(self, output: WhipOutput) -> None:
        self.output = output
        self.listener = Listener()
        self.units = LiveQueue(1000.0)
        self.units.put(PICTURES[0])
        self.running = asyncio.create_task(output.run(self.units, self.listener))

    async def published(self) -> None:
        publishing = asyncio.create_task(self.listener.published.wait())
        await asyncio.wait((publishing, self.running), return_when=asyncio.FIRST_COMPLETED)
        publishing.cancel()
        if self.running.done():
            await self.running

    async def finish(self) -> None:
        self.units.finish()
        await self.running


def output_to(
    endpoint: WhipEndpoint,
    policy: UrlPolicy = NEIGHBOURS,
    tls: ssl.SSLContext | None = None,
    ice: IceSettings = LOOPBACK,
    room: Room | None = None,
) -> WhipOutput:
    return WhipOutput(endpoint.url, Secret(TOKEN), ice, policy=policy, tls=tls, room=room)


@contextlib.asynccontextmanager
async def published(endpoint: WhipEndpoint, ice: IceSettings = LOOPBACK) -> AsyncIterator[Publication]:
    publication = Publication(output_to(endpoint, ice=ice))
    try:
        await publication.published()
        yield publication
    finally:
        publication.running.cancel()
        await asyncio.gather(publication.running, return_exceptions=True)
