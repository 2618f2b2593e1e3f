"""RtmpOutput against node-media-server: plain, and over TLS with a pinned key."""

import asyncio
import heapq
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from bridge.errors import OutputLost, OutputRejected
from bridge.media.access_unit import AccessUnit
from bridge.media.h264 import NAL_FILLER, nal_type, split_avcc
from bridge.net.tls import Trust, spki_pin
from bridge.outputs.encoder import Rendition
from bridge.outputs.rtmp import RtmpOutput
from bridge.redact import Secret
from tests.conftest import unavailable
from tests.e2e.onair import assert_plays
from tests.interop import node_media_server, rtmp_media
from tests.interop.certificates import make_certificate
from tests.interop.node_media_server import NodeMediaServer
from tests.interop.test_rtmp import live, publish, read_flv
from tests.unit.outputs.test_encode import Run

pytestmark = pytest.mark.peer

KEY = "canary-4c1d"
UNITS = rtmp_media.units(3.0)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return tmp_path / "server.pem"


@pytest.fixture
def pin(certificate: Path) -> str:
    return spki_pin(make_certificate(certificate))


@pytest.fixture
def server(
    tmp_path: Path, certificate: Path, pin: str, free_ports: Callable[[int], list[int]]
) -> Iterator[NodeMediaServer]:
    if reason := node_media_server.why_unavailable():
        unavailable(reason)
    with NodeMediaServer(tmp_path / "nms", certificate, free_ports) as running:
        yield running


async def assert_recorded_whole(server: NodeMediaServer, units: Sequence[AccessUnit] = UNITS) -> None:
    recording = await asyncio.to_thread(server.finished_recording, KEY)
    packets = read_flv(recording)
    await asyncio.to_thread(assert_plays, recording)
    for kind in ("video", "audio"):
        sent_bytes = [len(unit.payload) for unit in units if unit.codec.kind == kind]
        assert [n_bytes for _, n_bytes in packets[kind]] == sent_bytes


def output_to(server: NodeMediaServer) -> RtmpOutput:
    return RtmpOutput(f"rtmp://127.0.0.1:{server.rtmp_port}/live", Secret(KEY))


async def test_every_picture_and_every_sound_is_recorded(server: NodeMediaServer) -> None:
    await publish(output_to(server), UNITS)
    await assert_recorded_whole(server)


async def test_pictures_that_are_encoded_with_filler_are_recorded(server: NodeMediaServer) -> None:
    rendition = Rendition(width_px=160, height_px=96, fps=30, bit_rate=3_000_000, keyframe_s=1.0, fit="blur")
    pictures = await Run(rendition).of(UNITS)
    assert any(nal_type(nal) == NAL_FILLER for unit in pictures for nal in split_avcc(unit.payload))
    sound = [unit for unit in UNITS if unit.codec.kind == "audio"]
    units = list(heapq.merge(pictures, sound, key=lambda unit: unit.pts_ns))
    await publish(output_to(server), units)
    await assert_recorded_whole(server, units)


async def test_over_tls_with_a_pinned_key_every_picture_is_recorded(
    server: NodeMediaServer, certificate: Path, pin: str
) -> None:
    output = RtmpOutput(f"rtmps://127.0.0.1:{server.rtmps_port}/live", Secret(KEY), trust=Trust(certificate, (pin,)))
    await publish(output, UNITS)
    await assert_recorded_whole(server)


async def test_with_another_pin_nothing_is_published(server: NodeMediaServer, certificate: Path) -> None:
    other = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    output = RtmpOutput(f"rtmps://127.0.0.1:{server.rtmps_port}/live", Secret(KEY), trust=Trust(certificate, (other,)))
    with pytest.raises(OutputRejected, match="tls_pin_sha256"):
        await publish(output, UNITS)
    assert "start push" not in server.log()


async def test_a_second_publisher_of_one_name_is_no_operator_s_mistake(server: NodeMediaServer) -> None:
    """It ends the connection without a word, as nginx-rtmp does for a wrong key; here the name is taken."""
    async with live(output_to(server), UNITS[:20]), live(output_to(server), UNITS) as (second, _):
        # The server says that it publishes, and ends the connection then: what is not live may be through before.
        with pytest.raises((OutputLost, OutputRejected)):
            await second
