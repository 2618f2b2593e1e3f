"""RtmpOutput against node-media-server: plain, and over TLS with a pinned key."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge.errors import OutputLost, OutputRejected
from bridge.net.tls import Trust, spki_pin
from bridge.outputs.rtmp import RtmpOutput
from bridge.redact import Secret
from tests.conftest import unavailable
from tests.interop import node_media_server, rtmp_media
from tests.interop.certificates import make_certificate
from tests.interop.node_media_server import NodeMediaServer
from tests.interop.test_rtmp import live, publish, read_flv

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


async def assert_recorded_whole(server: NodeMediaServer) -> None:
    packets = read_flv(await asyncio.to_thread(server.finished_recording, KEY))
    for kind in ("video", "audio"):
        sent_bytes = [len(unit.payload) for unit in UNITS if unit.codec.kind == kind]
        assert [n_bytes for _, n_bytes in packets[kind]] == sent_bytes


def output_to(server: NodeMediaServer) -> RtmpOutput:
    return RtmpOutput(f"rtmp://127.0.0.1:{server.rtmp_port}/live", Secret(KEY))


async def test_every_picture_and_every_sound_is_recorded(server: NodeMediaServer) -> None:
    await publish(output_to(server), UNITS)
    await assert_recorded_whole(server)


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
    async with live(output_to(server), UNITS[:20]):
        with pytest.raises((OutputLost, OutputRejected)):
            await publish(output_to(server), UNITS)
