"""Media through a real coturn, over every way that ICE servers offer; and servers that are of no use."""

import asyncio
import socket
from collections.abc import Callable, Iterator

import pytest
import structlog

from bridge.media.clock import NS_PER_MS
from bridge.net import ice
from bridge.net.ice import IceServer, IceSettings
from bridge.net.peer import ReceivingPeer, SendingPeer
from bridge.redact import Secret
from tests.interop import coturn
from tests.interop.certificates import make_certificate
from tests.net.loopback import LOOPBACK, PATIENCE_S, Tracks, negotiate

N_PICTURES = 25


class RelayOnly(IceSettings):
    """No address of our own: a relay is the only way."""

    def host_addresses(self) -> list[str]:
        return []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[coturn.Coturn]:
    if reason := coturn.why_unavailable():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("coturn")
    make_certificate(directory / "coturn.pem")
    with coturn.Coturn(directory, directory / "coturn.pem") as running:
        yield running


@pytest.fixture
def trusted(server: coturn.Coturn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))


def known(url: str, password: str = coturn.PASSWORD) -> IceServer:
    return IceServer((url,), coturn.USER, Secret(password))


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
async def test_media_flows_from_relay_to_relay(transport: str, server: coturn.Coturn) -> None:
    settings = RelayOnly(servers=(known(server.urls[transport]),))
    tracks = Tracks()
    with structlog.testing.capture_logs() as logged:
        async with (
            ReceivingPeer(settings, tracks.on_track) as receiving,
            SendingPeer(settings, lambda: None) as sending,
        ):
            await negotiate(sending, receiving)
            async with asyncio.timeout(PATIENCE_S):
                await sending.connected()
                await receiving.connected()
            sink = await tracks.sink("video")
            for index in range(N_PICTURES):
                sending.send_video([b"\x41" + bytes(5000)], index * 40 * NS_PER_MS)
                # Paced, as media is: of what comes in one burst over TLS coturn loses a part.
                await asyncio.sleep(0.01)
            await sink.until(lambda: sum(packet.marker for packet in sink.packets) == N_PICTURES)
            assert receiving.path.startswith("relay 127.0.0.1:") and " to relay 127.0.0.1:" in receiving.path
            assert not receiving.datagrams_rejected
    assert not [line for line in logged if line["log_level"] == "warning"]


@pytest.mark.usefixtures("trusted")
async def test_all_ways_of_a_server_are_offered_the_shortest_first(server: coturn.Coturn) -> None:
    all_ways = IceServer(tuple(reversed(server.urls.values())), coturn.USER, Secret(coturn.PASSWORD))
    async with SendingPeer(RelayOnly(), lambda: None) as sending:
        offer = await sending.offer([all_ways])
    first = offer.split("m=video")[0]
    assert first.count("typ relay") == 3


def free_address(kind: int) -> str:
    with socket.socket(socket.AF_INET, kind) as free:
        free.bind(("127.0.0.1", 0))
        return f"turn:127.0.0.1:{free.getsockname()[1]}"


UNUSABLE: dict[str, tuple[Callable[[coturn.Coturn], str], str, str]] = {
    "wrong credentials": (lambda server: server.urls["udp"], "wrong", "it refuses (401"),
    "bad certificate": (lambda server: server.urls["tls"], coturn.PASSWORD, "its certificate is not trusted"),
    "nobody there": (lambda server: free_address(socket.SOCK_DGRAM), coturn.PASSWORD, "it does not answer within"),
    "nobody listens": (
        lambda server: free_address(socket.SOCK_STREAM) + "?transport=tcp",
        coturn.PASSWORD,
        "nobody listens at this address",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
async def test_a_server_that_is_of_no_use_is_named_and_nothing_waits_for_it(
    case: str, server: coturn.Coturn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ice, "SERVER_TIMEOUT_S", 1.0)
    choose, password, why = UNUSABLE[case]
    url = choose(server)
    with structlog.testing.capture_logs() as logged:
        async with (
            ReceivingPeer(LOOPBACK, Tracks().on_track) as receiving,
            SendingPeer(LOOPBACK, lambda: None) as sending,
            asyncio.timeout(PATIENCE_S),
        ):
            answer = await receiving.answer(await sending.offer(), [known(url, password)])
            assert "typ relay" not in answer
            await sending.accept(answer)
            await receiving.connected()
            assert receiving.path.startswith("host ")
    (warning,) = [line for line in logged if line["log_level"] == "warning"]
    assert (warning["event"], warning["server"]) == ("ice_server_unusable", url)
    assert why in warning["error"], warning["error"]
    assert password not in str(logged)
