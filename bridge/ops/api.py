"""The HTTP side of the daemon, on the event loop of the sessions: health, readiness, metrics."""

import asyncio
import errno
import importlib
import socket
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Self

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from bridge.config import Address, HttpConfig, MetricsConfig
from bridge.errors import ConfigError

# FastAPI and uvicorn cost 0.35 s of CPU to import, so they are imported when the server runs: not every command
# has one.
if TYPE_CHECKING:
    from fastapi import FastAPI

# A scrape takes milliseconds; who is not served by then holds up the end of the process.
CLOSE_TIMEOUT_S = 2


class HttpServer:
    """Serves `/healthz`, `/readyz` and `/metrics`. A context: it listens from its beginning to its end.

    readiness: why the daemon may not take traffic, or None when it may.
    """

    def __init__(
        self,
        http: HttpConfig,
        metrics: MetricsConfig,
        registry: CollectorRegistry,
        readiness: Callable[[], str | None],
    ) -> None:
        self._http = http
        self._metrics = metrics
        self._registry = registry
        self._readiness = readiness
        self._exit = ExitStack()
        self._sockets: dict[str, socket.socket] = {}

    def __enter__(self) -> Self:
        """Bind. Raises ConfigError, so that a port in use is the first thing an operator hears of."""
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
        """Serve until cancelled; requests under way get `CLOSE_TIMEOUT_S` to finish."""
        # In a thread: sessions that start at the same time should not wait for it.
        for library in ("fastapi", "uvicorn"):
            await asyncio.to_thread(importlib.import_module, library)
        own_metrics = "metrics" in self._sockets
        async with asyncio.TaskGroup() as tasks:
            app = _control_app(self._http.allowed_hosts, self._readiness, None if own_metrics else self._registry)
            tasks.create_task(_serve(app, self._sockets["http"]), name="http")
            if own_metrics:
                tasks.create_task(_serve(_metrics_app(self._registry), self._sockets["metrics"]), name="http-metrics")
            structlog.get_logger().info(
                "http_listening", address=str(self.address), metrics_address=str(self.metrics_address)
            )


def _control_app(
    allowed_hosts: Sequence[str], readiness: Callable[[], str | None], registry: CollectorRegistry | None
) -> "FastAPI":
    from fastapi.responses import PlainTextResponse
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = _bare_app()
    # A page in the operator's browser can reach loopback under a name of its own (DNS rebinding).
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(allowed_hosts), www_redirect=False)

    @app.get("/healthz")
    async def healthz() -> PlainTextResponse:
        # That the loop answers is the whole statement; how late it does is in the metrics.
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    async def readyz() -> PlainTextResponse:
        reason = readiness()
        return PlainTextResponse("ready\n") if reason is None else PlainTextResponse(f"{reason}\n", status_code=503)

    if registry is not None:
        _add_metrics(app, registry)
    return app


def _metrics_app(registry: CollectorRegistry) -> "FastAPI":
    app = _bare_app()
    _add_metrics(app, registry)
    return app


def _bare_app() -> "FastAPI":
    from fastapi import FastAPI

    return FastAPI(openapi_url=None, docs_url=None, redoc_url=None)


def _add_metrics(app: "FastAPI", registry: CollectorRegistry) -> None:
    from fastapi import Response

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


async def _serve(app: "FastAPI", listening: socket.socket) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            """Signals are the daemon's."""
            yield

    server = Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=CLOSE_TIMEOUT_S,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listening]), name="uvicorn")
    try:
        await asyncio.shield(serving)
    finally:
        # Cancelled, uvicorn would leave its connections open; asked, it closes them.
        server.should_exit = True
        await asyncio.wait({serving}, timeout=CLOSE_TIMEOUT_S + 1)
        serving.cancel()


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


def _address_of(listening: socket.socket) -> Address:
    host, port, *_ = listening.getsockname()
    return Address(host, port)
