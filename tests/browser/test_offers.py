"""A page that follows the vendor's documents gets pictures from every offer that they allow, in Chromium."""

from pathlib import Path

import pytest

from tests.browser.chromium import avatar_service, record_microphone, vendor_flow
from tests.e2e.processes import SMALL

pytestmark = pytest.mark.peer

# A second of pictures: what comes after the first is decoded from what was decoded before it.
ENOUGH = 25
OFFER = "webrtc.signaling.offer"


@pytest.fixture
def microphone(tmp_path: Path) -> Path:
    """Nobody speaks."""
    return record_microphone(tmp_path / "silence.wav", silence_s=0.0, speech_s=0.0, end_s=1.0)


@pytest.mark.parametrize(
    ("option", "value", "codec"), [("--codec", "vp8", "video/VP8"), ("--profile", "main", "video/H264")]
)
async def test_a_browser_decodes_what_the_service_can_be_told_to_send(
    option: str, value: str, codec: str, tmp_path: Path, microphone: Path
) -> None:
    async with avatar_service(tmp_path, *SMALL, option, value) as (_, url), vendor_flow(microphone) as flow:
        await flow.start(url)
        await flow.pictures(ENOUGH)
        assert (await flow.media())["video"]["mimeType"] == codec


async def test_the_newest_of_two_offers_brings_the_pictures(tmp_path: Path, microphone: Path) -> None:
    faults = ("--fault", "duplicate-offers:1")
    async with avatar_service(tmp_path, *SMALL, *faults) as (_, url), vendor_flow(microphone) as flow:
        await flow.start(url)
        await flow.event(OFFER, 2)
        await flow.pictures(ENOUGH)
        assert await flow.look("[flow.peers.length, flow.peers[1].connectionState]") == [2, "connected"]
        assert await flow.look("flow.problems") == []


async def test_candidates_that_follow_the_offer_are_enough(tmp_path: Path, microphone: Path) -> None:
    async with (
        avatar_service(tmp_path, *SMALL, "--fault", "trickle-only") as (_, url),
        vendor_flow(microphone) as flow,
    ):
        await flow.start(url)
        offer = await flow.event(OFFER)
        await flow.pictures(ENOUGH)
        assert "a=candidate" not in offer["sdp"]["sdp"]
        assert await flow.look("flow.problems") == []


async def test_candidates_that_the_page_drops_before_the_offer_are_not_missed(tmp_path: Path, microphone: Path) -> None:
    async with (
        avatar_service(tmp_path, *SMALL, "--fault", "early-candidates") as (_, url),
        vendor_flow(microphone) as flow,
    ):
        await flow.start(url)
        await flow.pictures(ENOUGH)
        assert await flow.look("flow.droppedCandidates") > 0


# A page that wants more than it was offered does what every page does (W3C WebRTC 1.0, "Perfect negotiation example").
NEGOTIATE = f"""(() => {{
  const [peer] = flow.peers;
  flow.handlers["webrtc.signaling.answer"] = (data) => peer.setRemoteDescription(data.sdp);
  peer.onnegotiationneeded = async () => {{
    await peer.setLocalDescription();
    flow.send({{ type: "{OFFER}", data: {{ sdp: peer.localDescription }} }});
  }};
  peer.addTransceiver("audio", {{ direction: "sendonly" }});
}})()"""


async def test_a_section_that_the_page_adds_is_answered_on_the_connection_there_is(
    tmp_path: Path, microphone: Path
) -> None:
    async with avatar_service(tmp_path, *SMALL) as (_, url), vendor_flow(microphone) as flow:
        await flow.start(url)
        await flow.pictures(ENOUGH)
        await flow.look(NEGOTIATE)
        await flow.event("webrtc.signaling.answer")
        await flow.until("flow.peers[0].signalingState === 'stable'")
        seen = (await flow.media())["video"]["framesDecoded"]
        await flow.pictures(seen + ENOUGH)
        assert await flow.look("flow.peers[0].getTransceivers().map(({ currentDirection }) => currentDirection)") == [
            "recvonly",
            "recvonly",
            "inactive",
        ]
        assert await flow.look("[flow.problems, flow.peers[0].connectionState]") == [[], "connected"]
