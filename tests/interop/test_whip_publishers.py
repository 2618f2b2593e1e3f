"""Publishers that others made, into our WHIP input: Chromium, FFmpeg's muxer, GStreamer's webrtcbin; and a coturn."""

import asyncio
import contextlib
import json
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridge.net.ice import IceServer, IceSettings
from bridge.redact import Secret
from tests.browser.chromium import record_microphone, vendor_flow
from tests.conftest import require_file, unavailable
from tests.interop import coturn, ffmpeg
from tests.interop.certificates import make_certificate
from tests.net.publishers import TOKEN, TONE_HZ, Desk, Publisher, desk, frequency_hz, post

TEST_S = 45.0
GSTREAMER = ("/usr/bin/python3", "-I", str(Path(__file__).with_name("gstreamer_publisher.py")))


async def check_tone(at: Desk, rate_hz: int) -> None:
    await at.host.seconds(0.4)
    sound = await at.host.seconds(0.5)
    assert at.host.blocks[-1].sample_rate_hz == rate_hz
    assert frequency_hz(sound, rate_hz) == pytest.approx(TONE_HZ, abs=5)


@contextlib.asynccontextmanager
async def program(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs inside; asked to end by SIGTERM."""
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=STDOUT)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        output, _ = await process.communicate()
        print(output.decode(errors="replace")[-4_000:])  # pytest shows it beside a failure


# ---------------------------------------------------------------------------------------------- FFmpeg


@pytest.mark.peer
@pytest.mark.parametrize("video", [False, True], ids=["sound", "sound and video"])
async def test_ffmpeg_publishes(video: bool) -> None:
    path = ffmpeg.ffmpeg("9")
    inputs = ["-f", "lavfi", "-i", f"sine=frequency={TONE_HZ}:sample_rate=48000"]
    coding = ["-c:a", "libopus", "-ac", "2", "-b:a", "64k"]
    if video:
        inputs += ["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25"]
        coding += ["-c:v", "libx264", "-profile:v", "baseline", "-tune", "zerolatency", "-pix_fmt", "yuv420p"]
    async with asyncio.timeout(TEST_S), desk(tokens=True) as at:
        where = ["-f", "whip", "-authorization", TOKEN, at.url]
        async with program(path, "-hide_banner", "-re", *inputs, *coding, "-t", "20", *where):
            await check_tone(at, 48_000)


# ---------------------------------------------------------------------------------------------- GStreamer


@pytest.mark.peer
@pytest.mark.parametrize(("codec", "rate_hz"), [("opus", 48_000), ("pcma", 8_000)])
async def test_gstreamer_publishes(codec: str, rate_hz: int) -> None:
    require_file(GSTREAMER[0], "python3-gi")
    async with asyncio.timeout(TEST_S), desk() as at, program(*GSTREAMER, codec) as gstreamer:
        assert gstreamer.stdin is not None and gstreamer.stdout is not None
        if missing := json.loads(await gstreamer.stdout.readline())["missing"]:
            unavailable(f"GStreamer lacks what publishes: {', '.join(missing)}")
        offer = json.loads(await gstreamer.stdout.readline())["offer"]
        answer = await post(at, offer)
        assert answer.status_code == 201, answer.text
        gstreamer.stdin.write(json.dumps({"answer": answer.text}).encode() + b"\n")
        await check_tone(at, rate_hz)


# ---------------------------------------------------------------------------------------------- Chromium

OFFER = """async () => {
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    const stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
    const peer = window.whip = new RTCPeerConnection();
    window.candidates = [];
    peer.onicecandidate = ({ candidate }) => { if (candidate) candidates.push(candidate.candidate); };
    peer.addTransceiver(stream.getAudioTracks()[0], { direction: "sendonly", streams: [stream] });
    await peer.setLocalDescription();
    return peer.localDescription.sdp;
}"""
ANSWER = """async (sdp) => {
    await whip.setRemoteDescription({ type: "answer", sdp });
    while (whip.iceGatheringState !== "complete") await new Promise((go) => setTimeout(go, 20));
    return candidates;
}"""


@pytest.mark.peer
async def test_chromium_publishes_its_microphone_and_trickles(tmp_path: Path) -> None:
    microphone = record_microphone(tmp_path / "microphone.wav", silence_s=0.2, speech_s=20.0, end_s=20.0)
    async with asyncio.timeout(TEST_S), desk() as at, vendor_flow(microphone) as browser:
        offer = await browser.page.evaluate(OFFER)
        assert "a=candidate" not in offer
        answer = await post(at, offer)
        assert answer.status_code == 201, answer.text
        candidates: list[str] = await browser.page.evaluate(ANSWER, answer.text)
        headers = {"Content-Type": "application/trickle-ice-sdpfrag", "If-Match": answer.headers["etag"]}
        body = "".join(f"a={candidate}\r\n" for candidate in candidates)
        url = at.origin + answer.headers["location"]
        assert (await at.client.patch(url, headers=headers, content=body)).status_code == 204
        sound = await at.host.seconds(3.0)
        assert at.host.blocks[-1].sample_rate_hz == 48_000
        assert np.abs(sound).max() > 0.1, "somebody speaks"
        await browser.page.evaluate("whip.close()")
        assert (await at.client.delete(url)).status_code in (200, 404)  # it may have gone with its connection


# ---------------------------------------------------------------------------------------------- coturn


class RelayOnly(IceSettings):
    """No address of our own: a relay is the only way."""

    def host_addresses(self) -> list[str]:
        return []


@pytest.mark.peer
async def test_a_publisher_reaches_an_input_behind_a_relay(tmp_path: Path) -> None:
    if reason := coturn.why_unavailable():
        unavailable(reason)
    make_certificate(tmp_path / "coturn.pem")
    with coturn.Coturn(tmp_path, tmp_path / "coturn.pem") as server:
        relay: Any = IceServer((server.urls["udp"],), coturn.USER, Secret(coturn.PASSWORD))
        async with desk(ice=RelayOnly(servers=(relay,))) as at, Publisher(at) as publisher:
            assert "typ relay" in (await publisher.publish()).text
            await check_tone(at, 48_000)
