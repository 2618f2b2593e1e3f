"""WhipOutput into Chromium: what libwebrtc makes of our offer, our packets and our sender reports."""

import asyncio
import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.media.live_queue import LiveQueue
from bridge.outputs.whip import WhipOutput
from bridge.redact import Secret
from bridge.samples import SPEECH
from tests.browser.chromium import vendor_flow
from tests.interop import rtmp_media
from tests.interop.whip_endpoint import TOKEN, WhipEndpoint
from tests.net.loopback import LOOPBACK

TEST_S = 60.0
SILENCE = b"\xf8\xff\xfe"  # 20 ms, as libopus codes it

ANSWER = """async (offer) => {
    const peer = window.whip = new RTCPeerConnection();
    peer.ontrack = ({ track, streams }) => {
        const video = window.player ??= Object.assign(document.createElement("video"), { autoplay: true, muted: true });
        video.srcObject = streams[0];
        document.body.append(video);
        (window.tracks ??= []).push([track.kind, streams[0].id]);
    };
    await peer.setRemoteDescription({ type: "offer", sdp: offer });
    await peer.setLocalDescription();
    while (peer.iceGatheringState !== "complete") await new Promise((go) => setTimeout(go, 20));
    return peer.localDescription.sdp;
}"""
STATISTICS = """async () => {
    const found = {};
    const all = await whip.getStats();
    for (const each of all.values())
        if (each.type === "inbound-rtp") found[each.kind] = { ...each, codec: all.get(each.codecId)?.mimeType };
    return found;
}"""


def programme() -> Iterator[AccessUnit]:
    """Pictures at 25 Hz with a keyframe each second, and silence, for ever."""
    pictures = [unit for unit in rtmp_media.units(2.0) if unit.codec is Codec.H264]
    for index in itertools.count():
        pts_ns = index * 40 * NS_PER_MS
        yield dataclasses.replace(pictures[index % len(pictures)], pts_ns=pts_ns)
        for sound_ns in (pts_ns, pts_ns + 20 * NS_PER_MS):
            yield AccessUnit(Codec.OPUS, SILENCE, sound_ns, 20 * NS_PER_MS)


async def play(units: LiveQueue) -> None:
    """Put the programme into a queue as fast as it is watched."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for unit in programme():
        await asyncio.sleep(began_s + unit.pts_ns / NS_PER_S - loop.time())
        units.put(unit)


class Listener:
    def __init__(self) -> None:
        self.n_keyframe_requests = 0

    def on_published(self) -> None: ...

    def on_replaced(self, reason: str) -> None: ...

    def on_written(self, unit: AccessUnit) -> None: ...

    def on_keyframe_request(self) -> None:
        self.n_keyframe_requests += 1


async def test_chromium_plays_sound_and_pictures_in_one_stream_without_a_freeze() -> None:
    units, listener = LiveQueue(2.0), Listener()
    async with asyncio.timeout(TEST_S), WhipEndpoint().serving() as endpoint, vendor_flow(SPEECH) as browser:

        async def answer(request: Request, body: bytes) -> Response:
            if request.method != "POST":
                return Response()
            sdp = await browser.page.evaluate(ANSWER, body.decode())
            return Response(sdp, 201, {"Location": "/session/1"}, "application/sdp")

        async def seen(n_pictures: int) -> dict[str, Any]:
            while True:
                found: dict[str, Any] = await browser.page.evaluate(f"window.whip ? ({STATISTICS})() : {{}}")
                if found.get("video", {}).get("framesDecoded", 0) >= n_pictures:
                    return found
                await asyncio.sleep(0.1)

        endpoint.behaviour = answer
        output = WhipOutput(endpoint.url, Secret(TOKEN), LOOPBACK)
        async with asyncio.TaskGroup() as tasks:
            publishing = tasks.create_task(output.run(units, listener))
            playing = tasks.create_task(play(units))
            statistics = await seen(75)
            tracks = await browser.page.evaluate("tracks")
            playing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await playing
            units.finish()
            await publishing
    video, audio = statistics["video"], statistics["audio"]
    assert (video["codec"], audio["codec"]) == ("video/H264", "audio/opus")
    assert (video["frameWidth"], video["frameHeight"]) == (320, 180)
    assert video["packetsLost"] == audio["packetsLost"] == video["freezeCount"] == video["framesDropped"] == 0
    assert audio["packetsReceived"] > 100
    assert sorted(kind for kind, _ in tracks) == ["audio", "video"]
    assert len({stream for _, stream in tracks}) == 1
    assert endpoint.methods() == ["POST", "DELETE"]
