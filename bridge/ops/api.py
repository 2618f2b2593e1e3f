"""The HTTP server of the daemon, on the event loop of the sessions."""

import asyncio
import errno
import importlib
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

import structlog
from prometheus_client import CollectorRegistry

from bridge.config import Address, HttpConfig, MetricsConfig, SecretConfig, TlsConfig
from bridge.errors import ConfigError
from bridge.net.url_policy import UrlPolicy
from bridge.ops.control import ControlledDaemon
from bridge.protocols.pcm_messages import MAX_MESSAGE_BYTES

# FastAPI and uvicorn cost 0.35 s of CPU to import, so they are imported when the server runs: not every command
# has one.
if TYPE_CHECKING:
    from fastapi import FastAPI

    from bridge.ops.access import Access

# A sender that has vanished without a word makes room for another one after twice this.
PING_S = 5.0


class HttpServer:
    """Serves the API, `/healthz`, `/readyz` and `/metrics`. A context: it listens from its beginning to its end.

    readiness  why the daemon may not take traffic, or None when it may.
    daemon     what the API controls.
    storage_dir, policy, secrets  where outputs that come in its calls may record and publish, and what they may name.
    """

    def __init__(
        self,
        http: HttpConfig,
        metrics: MetricsConfig,
        registry: CollectorRegistry,
        readiness: Callable[[], str | None],
        daemon: ControlledDaemon,
        storage_dir: Path,
        policy: UrlPolicy,
        secrets: Mapping[str, SecretConfig],
    ) -> None:
        self._http = http
        self._metrics = metrics
        self._registry = registry
        self._readiness = readiness
        self._daemon = daemon
        self._storage_dir = storage_dir
        self._policy = policy
        self._secrets = secrets
        self._exit = ExitStack()
        self._sockets: dict[str, socket.socket] = {}

    def __enter__(self) -> Self:
        """Bind. Raises ConfigError, so that a port in use is the first thing an operator hears of.

        A certificate that cannot be used likewise.
        """
        if self._http.tls is not None:
            _check_tls(self._http.tls)
        with ExitStack() as stack:
            self._sockets["http"] = stack.enter_context(_listen(self._http.listen, "http.listen"))
            if self._metrics.listen:
                self._sockets["metrics"] = stack.enter_context(_listen(self._metrics.listen, "metrics.listen"))
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._exit.close()

    @property
    def address(self) -> Address:
        """Where it listens, the real port in place of 0."""
        return _address_of(self._sockets["http"])

    @property
    def metrics_address(self) -> Address:
        return _address_of(self._sockets.get("metrics", self._sockets["http"]))

    async def run(self) -> None:
        """Serve until cancelled; requests under way get two seconds to finish."""
        # In a thread: sessions that start at the same time should not wait for it.
        for module in ("bridge.ops.app", "bridge.net.http_server"):
            await asyncio.to_thread(importlib.import_module, module)
        from bridge.ops.app import control_app, metrics_app
        from bridge.ops.hostile_sessions import HostileSessions

        own_metrics = "metrics" in self._sockets
        registry = None if own_metrics else self._registry
        hostile = HostileSessions(self._storage_dir, self._policy, self._secrets)
        # Who reaches a private listener is in its network already.
        policy = UrlPolicy(("0.0.0.0/0", "::/0")) if self.address.is_private else self._policy
        # In a thread as well, with its description and all that is made of it: a quarter of a second.
        app = await asyncio.to_thread(control_app, self._http, self._readiness, registry, self._daemon, hostile, policy)
        await asyncio.to_thread(app.openapi)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_serve(app, self._sockets["http"], self._http.tls), name="http")
            if own_metrics:
                metrics = metrics_app(self._registry, self._metrics_access())
                tasks.create_task(_serve(metrics, self._sockets["metrics"]), name="http-metrics")
            structlog.get_logger().info(
                "http_listening", address=str(self.address), metrics_address=str(self.metrics_address)
            )

    def _metrics_access(self) -> "Access | None":
        """Who may read metrics that have an address of their own.

        On loopback no page in the operator's browser, which could come under a name of its own (DNS rebinding). A
        public address is for scrapers that reach it under any name, and hides nothing from whoever can reach it.
        """
        from bridge.ops.access import Access

        address = self.metrics_address
        if not address.is_loopback:
            return None
        own_host = str(address).rpartition(":")[0]
        return Access(HttpConfig(allowed_hosts=(*HttpConfig().allowed_hosts, own_host, *self._http.allowed_hosts)))


async def _serve(app: "FastAPI", listening: socket.socket, tls: TlsConfig | None = None) -> None:
    from bridge.net.http_server import serve_app
    from bridge.ops.connections import BoundedConnection

    await serve_app(
        app,
        listening,
        http=BoundedConnection,
        ws="websockets-sansio",
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_ping_interval=PING_S,
        ws_ping_timeout=PING_S,
        # Compressed messages could be bombs, and sound hardly gets smaller.
        ws_per_message_deflate=False,
        ssl_certfile=tls.cert_file if tls else None,
        ssl_keyfile=tls.key_file if tls else None,
    )


def _listen(address: Address, key: str) -> socket.socket:
    """A listening socket. Raises ConfigError that names the address, the key and what to do."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        match error.errno:
            case errno.EADDRINUSE:
                reason = f"is in use by another program; stop it or choose another port in {key}"
            case errno.EACCES:
                reason = f"is a port that only root may use; choose one above 1023 in {key}"
            case _:
                reason = f"cannot be listened on: {error.strerror}; correct {key}"
        raise ConfigError(f"{address} {reason}") from None


def _check_tls(tls: TlsConfig) -> None:
    """Raises ConfigError unless certificate and key are there and belong together."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.cert_file, tls.key_file, password="")
    except ssl.SSLError as error:
        reason = (error.reason or "no PEM").lower().replace("_", " ")
        raise ConfigError(f"http.tls: {tls.cert_file} with {tls.key_file}: {reason}") from None
    except OSError as error:
        raise ConfigError(f"http.tls: cannot read {tls.cert_file} or {tls.key_file}: {error.strerror}") from None


def _address_of(listening: socket.socket) -> Address:
    host, port, *_ = listening.getsockname()
    return Address(host, port)
