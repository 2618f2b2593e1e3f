"""WhipOutput against a server with real WebRTC peers, and against servers that misbehave."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS
from bridge.media.live_queue import LiveQueue
from bridge.outputs.whip import WhipOutput
from bridge.redact import Secret
from tests.interop import rtmp_media
from tests.interop.whip_endpoint import TOKEN, WhipEndpoint
from tests.net.loopback import LOOPBACK

TEST_S = 30.0
PICTURES = [unit for unit in rtmp_media.units(1.0) if unit.codec is Codec.H264]


def sound(pts_ms: int) -> AccessUnit:
    return AccessUnit(Codec.OPUS, b"\xfc" + bytes(40), pts_ms * NS_PER_MS, 20 * NS_PER_MS)


class Listener:
    """Remembers what an output said."""

    def __init__(self) -> None:
        self.published = asyncio.Event()
        self.keyframe_requested = asyncio.Event()
        self.written: list[AccessUnit] = []

    def on_published(self) -> None:
        assert not self.published.is_set(), "on_published is called once"
        self.published.set()

    def on_written(self, unit: AccessUnit) -> None:
        self.written.append(unit)

    def on_keyframe_request(self) -> None:
        self.keyframe_requested.set()


@pytest.fixture
async def endpoint() -> AsyncIterator[WhipEndpoint]:
    async with asyncio.timeout(TEST_S), WhipEndpoint().serving() as serving:
        yield serving


def output_to(endpoint: WhipEndpoint) -> WhipOutput:
    return WhipOutput(endpoint.url, Secret(TOKEN), LOOPBACK)


async def test_units_arrive_as_they_are(endpoint: WhipEndpoint) -> None:
    units, listener, output = LiveQueue(10.0), Listener(), output_to(endpoint)
    units.put(PICTURES[0])
    running = asyncio.create_task(output.run(units, listener))
    await listener.published.wait()
    session = await endpoint.session()
    for unit in (*PICTURES, sound(0), sound(20)):
        units.put(unit)
    audio, video = await session.tracks.sink("audio"), await session.tracks.sink("video")
    await audio.arrived(2)
    units.finish()
    await running
    assert listener.written == [*PICTURES, sound(0), sound(20)]
    assert [packet.payload for packet in audio.packets] == [sound(0).payload, sound(20).payload]
    assert len([p for p in video.packets if p.marker]) == len(PICTURES)
    assert output.progress().bytes_total == sum(len(p.payload) for p in (*video.packets, *audio.packets))
    assert endpoint.methods() == ["POST", "DELETE"]
