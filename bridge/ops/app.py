"""The web applications of the daemon: the API with health and metrics, and metrics alone."""

from collections.abc import Callable
from html import escape
from typing import Any

from fastapi import FastAPI, Response, Security
from fastapi.responses import HTMLResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from bridge import __version__
from bridge.config import HttpConfig
from bridge.net.url_policy import UrlPolicy
from bridge.ops.access import Access, AccessMiddleware
from bridge.ops.bodies import BodyLimit
from bridge.ops.control import ControlledDaemon
from bridge.ops.hostile import HostileOutputs
from bridge.ops.pcm_api import PCM_PATH, PcmSockets
from bridge.ops.problems import add_handlers
from bridge.ops.sessions_api import session_routes
from bridge.ops.whip_api import whip_routes

# Nothing that is served here may be framed, guessed at, or load a thing from elsewhere.
_SAFE_PAGE = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def control_app(
    http: HttpConfig,
    readiness: Callable[[], str | None],
    registry: CollectorRegistry | None,
    daemon: ControlledDaemon,
    outputs: HostileOutputs,
    ingest_policy: UrlPolicy,
) -> FastAPI:
    """`registry`: None where metrics have an address of their own. `ingest_policy`: where publishers may lead ICE."""
    app = FastAPI(
        title="avatar-bridge",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    access = Access(http)
    # The one that is added last sees a request first.
    app.add_middleware(AccessMiddleware, access=access)
    app.add_middleware(BodyLimit)
    add_handlers(app)

    @app.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> str:
        """That the loop answers is the whole statement; how late it does is in the metrics."""
        return "ok\n"

    @app.get("/readyz")
    async def readyz() -> PlainTextResponse:
        """200: every session is on air. 503: why one is not."""
        reason = readiness()
        return PlainTextResponse("ready\n") if reason is None else PlainTextResponse(f"{reason}\n", status_code=503)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(_page(app.openapi()), headers=_SAFE_PAGE)

    if registry is not None:
        _add_metrics(app, registry)
    # So that /docs knows of tokens; whether they are right is seen to before.
    bearer = [Security(HTTPBearer(auto_error=False))] if http.tokens else []
    app.include_router(session_routes(daemon, outputs), dependencies=bearer)
    app.include_router(whip_routes(daemon, ingest_policy), dependencies=bearer)
    app.router.add_websocket_route(PCM_PATH, PcmSockets(daemon, access).serve)
    return app


def metrics_app(registry: CollectorRegistry, access: Access | None) -> FastAPI:
    """`access`: who may read them; None: everybody, by whatever name the machine has for its scrapers."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    if access is not None:
        app.add_middleware(AccessMiddleware, access=access)
    _add_metrics(app, registry)
    return app


def _add_metrics(app: FastAPI, registry: CollectorRegistry) -> None:
    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus text."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _page(openapi: dict[str, Any]) -> str:
    """The API on one page. It has no script: one from elsewhere could use the API."""
    rows = "".join(
        f"<tr><td>{method.upper()}<td><code>{escape(path)}</code><td>{escape(operation.get('description', ''))}"
        for path, operations in openapi["paths"].items()
        for method, operation in operations.items()
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>avatar-bridge API</title>"
        "<style>body{font-family:sans-serif;margin:2em}td{padding:.3em 1em .3em 0;vertical-align:top}</style>"
        f"<h1>avatar-bridge {escape(__version__)}</h1><p>Bodies and answers: <a href=openapi.json>openapi.json</a>"
        f"<table>{rows}</table>"
    )
