"""The HTTP server with real requests over loopback."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from bridge.config import Address, HttpConfig, MetricsConfig
from bridge.errors import ConfigError
from bridge.net.url_policy import UrlPolicy
from bridge.ops.api import HttpServer
from bridge.ops.metrics import Metrics

ANY_PORT = Address("127.0.0.1", 0)
NO_OWN_METRICS = MetricsConfig()


class NoSessions:
    is_draining = False

    def status(self) -> list[object]:
        return []

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
        http, metrics, registry, readiness, daemon=NoSessions(), storage_dir=Path("recordings"), policy=UrlPolicy()
    )


@asynccontextmanager
async def serving(
    *, metrics: MetricsConfig = NO_OWN_METRICS, readiness: Callable[[], str | None] = lambda: None
) -> AsyncIterator[tuple[HttpServer, httpx.AsyncClient]]:
    registry = CollectorRegistry()
    Metrics(registry)
    with server_of(HttpConfig(listen=ANY_PORT), metrics, registry, readiness) as server:
        running = asyncio.create_task(server.run())
        try:
            async with httpx.AsyncClient(base_url=f"http://{server.address}", trust_env=False) as client:
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
