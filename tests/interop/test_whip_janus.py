"""WhipOutput into Janus' VideoRoom: a native SFU takes our offer, our packets and our reports, and passes them on."""

import asyncio
import contextlib
import dataclasses
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.media.live_queue import LiveQueue
from bridge.net.peer import ReceivingPeer
from bridge.outputs.whip import WhipOutput
from bridge.receive.track import TrackReceiver
from tests.conftest import unavailable
from tests.interop.janus import Janus, janus, why_unavailable
from tests.interop.whip_publication import PICTURES, Listener, sound
from tests.net.loopback import Sink, Tracks

TEST_S = 30.0
WATCHED_PACKETS = 250  # some two seconds


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Janus]:
    if reason := why_unavailable():
        unavailable(reason)
    async with janus(tmp_path / "janus") as running:
        yield running


async def play(units: LiveQueue) -> None:
    """Pictures at 25 Hz with a keyframe each second, and sound, without end."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for index in itertools.count():
        pts_ns = index * 40 * NS_PER_MS
        await asyncio.sleep(began_s + pts_ns / NS_PER_S - loop.time())
        units.put(dataclasses.replace(PICTURES[index % len(PICTURES)], pts_ns=pts_ns))
        units.put(sound(40 * index))
        units.put(sound(40 * index + 20))


@contextlib.asynccontextmanager
async def watching(room: Janus) -> AsyncIterator[Tracks]:
    tracks = Tracks()
    handle, offer = await room.subscribe()
    async with ReceivingPeer(room.ice, tracks.on_track) as viewer:
        await room.start(handle, await viewer.answer(offer))
        yield tracks
    await handle.close()


def received(sink: Sink) -> list[AccessUnit]:
    """The units of what a viewer got."""
    track = sink.track
    receiver = TrackReceiver(track.codecs, track.kind, sink.packets[0].arrival_ns)
    return [unit.at(unit.rtp_ticks) for packet in sink.packets for unit in receiver.push(packet)]


async def test_a_viewer_of_the_room_gets_every_picture_and_all_sound_as_they_are(room: Janus) -> None:
    units, listener = LiveQueue(1000.0), Listener()
    publishing = asyncio.create_task(WhipOutput(room.whip_url, ice=room.ice).run(units, listener))
    playing = asyncio.create_task(play(units))
    try:
        async with asyncio.timeout(TEST_S):
            await listener.published.wait()
        async with watching(room) as tracks:
            video, audio = await tracks.sink("video"), await tracks.sink("audio")
            await video.arrived(WATCHED_PACKETS)
            await audio.arrived(50)
            await video.until(lambda: len(video.reports) > 0)
    finally:
        playing.cancel()
        units.finish()
        await publishing
    assert room.handles == {}, "the session was deleted"

    pictures = received(video)
    sent = {unit.payload: unit for unit in PICTURES}
    assert len(pictures) > 20 and pictures[0].is_keyframe
    assert all(unit.payload in sent and unit.codec is Codec.H264 for unit in pictures)
    assert {later.pts_ns - earlier.pts_ns for earlier, later in itertools.pairwise(pictures)} == {90 * 40}
    assert all(packet.payload == sound(0).payload for packet in audio.packets)
