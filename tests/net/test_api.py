"""The HTTP server with real requests over loopback."""

import asyncio
import logging
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from bridge.config import Address, HttpConfig, MetricsConfig, TlsConfig, TokenConfig
from bridge.errors import ConfigError
from bridge.net.url_policy import UrlPolicy
from bridge.ops.api import HttpServer
from bridge.ops.metrics import Metrics
from bridge.redact import Secret
from tests.interop.whip_endpoint import make_certificate

ANY_PORT = Address("127.0.0.1", 0)
ON_LOOPBACK = HttpConfig(listen=ANY_PORT)
NO_OWN_METRICS = MetricsConfig()


class NoSessions:
    is_draining = False

    def status(self) -> list[object]:
        return []

    def status_of(self, name: str) -> None:
        pass

    def session(self, name: str) -> None:
        return None

    def stop(self) -> None:
        pass


def server_of(
    http: HttpConfig,
    metrics: MetricsConfig,
    registry: CollectorRegistry,
    readiness: Callable[[], str | None] = lambda: None,
) -> HttpServer:
    return HttpServer(
        http,
        metrics,
        registry,
        readiness,
        daemon=NoSessions(),
        storage_dir=Path("recordings"),
        policy=UrlPolicy(),
        secrets={},
    )


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """uvicorn silences its access log for the whole process."""
    yield
    logging.getLogger("uvicorn.access").propagate = True


@asynccontextmanager
async def serving(
    *,
    http: HttpConfig = ON_LOOPBACK,
    metrics: MetricsConfig = NO_OWN_METRICS,
    readiness: Callable[[], str | None] = lambda: None,
) -> AsyncIterator[tuple[HttpServer, httpx.AsyncClient]]:
    registry = CollectorRegistry()
    Metrics(registry)
    scheme = "https" if http.tls else "http"
    trusted = ssl.create_default_context(cafile=http.tls.cert_file) if http.tls else True
    with server_of(http, metrics, registry, readiness) as server:
        running = asyncio.create_task(server.run())
        try:
            async with httpx.AsyncClient(
                base_url=f"{scheme}://{server.address}", trust_env=False, verify=trusted
            ) as client:
                yield server, client
        finally:
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running


async def test_health_readiness_and_metrics_answer() -> None:
    async with serving() as (_, client):
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
        scrape = await client.get("/metrics")
        assert scrape.headers["content-type"].startswith("text/plain")
        assert "avatar_bridge_build_info" in scrape.text


async def test_a_daemon_that_may_not_take_traffic_says_why() -> None:
    async with serving(readiness=lambda: "session leo: connecting") as (_, client):
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.text) == (503, "session leo: connecting\n")
        assert (await client.get("/healthz")).status_code == 200


async def test_metrics_on_an_address_of_their_own_are_only_there() -> None:
    async with serving(metrics=MetricsConfig(listen=ANY_PORT)) as (server, client):
        assert (await client.get("/metrics")).status_code == 404
        own = f"http://{server.metrics_address}"
        assert (await client.get(f"{own}/metrics")).status_code == 200
        assert (await client.get(f"{own}/healthz")).status_code == 404


@pytest.mark.parametrize(
    ("listen", "status"),
    [
        pytest.param(ANY_PORT, 400, id="loopback"),
        pytest.param(Address("0.0.0.0", 0), 200, id="public"),
    ],
)
async def test_metrics_of_their_own_on_loopback_come_under_its_names_only(listen: Address, status: int) -> None:
    http = HttpConfig(listen=ANY_PORT, allowed_hosts=("bridge.example",))
    async with serving(http=http, metrics=MetricsConfig(listen=listen)) as (server, client):
        own = f"http://127.0.0.1:{server.metrics_address.port}/metrics"
        assert (await client.get(own, headers={"host": "evil.example"})).status_code == status
        assert (await client.get(own)).status_code == 200


async def test_metrics_come_under_whatever_loopback_address_they_have() -> None:
    async with serving(metrics=MetricsConfig(listen=Address("127.0.0.9", 0))) as (server, client):
        assert (await client.get(f"http://{server.metrics_address}/metrics")).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "127.0.0.1@evil.example"])
async def test_a_host_that_is_not_ours_is_refused(host: str) -> None:
    async with serving() as (_, client):
        assert (await client.get("/metrics", headers={"host": host})).status_code == 400


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:8080", "LOCALHOST:80"])
async def test_the_names_of_loopback_are_ours(host: str) -> None:
    async with serving() as (_, client):
        assert (await client.get("/metrics", headers={"host": host})).status_code == 200


async def test_signal_handlers_stay_the_daemons() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with serving() as (_, client):
        await client.get("/healthz")
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


async def test_an_open_connection_does_not_hold_up_the_end() -> None:
    async with serving() as (server, _):
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200" in await reader.readline()
    await reader.read()
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("key", ["http.listen", "metrics.listen"])
def test_a_port_in_use_is_named_with_the_key_that_changes_it(key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = Address(*other.getsockname())
        http, metrics = (taken, None) if key == "http.listen" else (ANY_PORT, taken)
        server = server_of(HttpConfig(listen=http), MetricsConfig(listen=metrics), CollectorRegistry())
        with pytest.raises(ConfigError, match=rf"^127\.0\.0\.1:{taken.port} is in use.*{key}"):
            server.__enter__()


def test_an_address_that_is_not_this_machines_is_a_mistake_in_the_configuration() -> None:
    config = MetricsConfig(listen=Address("192.0.2.1", 9100))
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:9100 cannot be listened on"):
        server_of(HttpConfig(listen=ANY_PORT), config, CollectorRegistry()).__enter__()


# ---------------------------------------------------------------------------------------------- TLS and tokens


@pytest.fixture
def tls(tmp_path: Path) -> TlsConfig:
    certificate, key = make_certificate(tmp_path)
    return TlsConfig(cert_file=Path(certificate), key_file=Path(key))


async def test_it_speaks_https_with_a_certificate_and_nothing_else(tls: TlsConfig) -> None:
    async with serving(http=HttpConfig(listen=ANY_PORT, tls=tls)) as (server, client):
        assert (await client.get("/healthz")).status_code == 200
        async with httpx.AsyncClient(trust_env=False) as plain:
            with pytest.raises(httpx.RemoteProtocolError):
                await plain.get(f"http://{server.address}/healthz")


@pytest.mark.parametrize(
    ("certificate", "key", "reason"),
    [
        ("certificate.pem", "nowhere.pem", "cannot read"),
        ("nowhere.pem", "key.pem", "cannot read"),
        ("certificate.pem", "other.pem", "key values mismatch"),
        ("empty.pem", "key.pem", "http.tls"),
        ("certificate.pem", "certificate.pem", "http.tls"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_a_mistake_in_the_configuration(
    tls: TlsConfig, tmp_path: Path, certificate: str, key: str, reason: str
) -> None:
    (tmp_path / "empty.pem").touch()
    (tmp_path / "other").mkdir()
    Path(make_certificate(tmp_path / "other")[1]).rename(tmp_path / "other.pem")
    config = HttpConfig(listen=ANY_PORT, tls=TlsConfig(cert_file=tmp_path / certificate, key_file=tmp_path / key))
    with pytest.raises(ConfigError, match=reason):
        server_of(config, NO_OWN_METRICS, CollectorRegistry()).__enter__()


async def test_metrics_need_a_token_unless_they_have_an_address_of_their_own() -> None:
    token = TokenConfig(file=Secret("a_token_of_some_length"), scopes=("read",))
    http = HttpConfig(listen=ANY_PORT, tokens=(token,))
    async with serving(http=http) as (_, client):
        assert (await client.get("/metrics")).status_code == 401
        bearer = {"authorization": "Bearer a_token_of_some_length"}
        assert (await client.get("/metrics", headers=bearer)).status_code == 200
    async with serving(http=http, metrics=MetricsConfig(listen=ANY_PORT)) as (server, client):
        assert (await client.get(f"http://{server.metrics_address}/metrics")).status_code == 200


@pytest.mark.parametrize(
    ("path", "length", "status"),
    [
        ("drain", "Content-Length: 99999999999", 202),
        ("drain", "Transfer-Encoding: chunked", 202),
        ("nowhere", "Content-Length: 99999999999", 404),
        ("sessions/leo/mute", "Content-Length: 99999999999", 413),
    ],
)
async def test_a_body_that_nobody_reads_ends_the_connection(path: str, length: str, status: int) -> None:
    async with serving() as (server, _), asyncio.timeout(4):
        reader, writer = await asyncio.open_connection(*server.address)
        headers = f"Host: localhost\r\nContent-Type: application/json\r\n{length}\r\n"
        writer.write(f"POST /v1/{path} HTTP/1.1\r\n{headers}\r\n".encode())
        assert f" {status} ".encode() in await reader.readline()
        await reader.read()
        writer.close()
        await writer.wait_closed()
