"""WhipOutput into Chromium: what libwebrtc makes of our offer, our packets and our sender reports."""

import asyncio
import contextlib
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from bridge.media.live_queue import LiveQueue
from bridge.outputs.whip import WhipOutput
from bridge.redact import Secret
from bridge.samples import SPEECH
from tests.browser.chromium import vendor_flow
from tests.interop.programme import Listener, play
from tests.interop.whip_endpoint import TOKEN, WhipEndpoint
from tests.net.loopback import LOOPBACK

TEST_S = 60.0

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
