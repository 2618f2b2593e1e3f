"""The web applications of the daemon: the API with health and metrics, and metrics alone."""

import asyncio
from collections.abc import Callable, Iterable
from html import escape
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Response, Security
from fastapi.responses import HTMLResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

from bridge import __version__
from bridge.config import HttpConfig
from bridge.net.url_policy import UrlPolicy
from bridge.ops.access import Access, AccessMiddleware
from bridge.ops.bodies import BodyLimit
from bridge.ops.control import ControlledDaemon
from bridge.ops.hostile_sessions import HostileSessions
from bridge.ops.media_sessions import Reach
from bridge.ops.pcm_api import PCM_PATH, PcmSockets
from bridge.ops.problems import add_handlers
from bridge.ops.sessions_api import session_routes
from bridge.ops.whep_api import ViewerCors, whep_routes
from bridge.ops.whip_api import whip_routes

# Nothing that is served here may be framed, guessed at, or load a thing from elsewhere.
_SAFE_PAGE = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
# The page has scripts of ours, and none else; the microphone is for push-to-talk.
_OWN_PAGE = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src data:; media-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
    "Cache-Control": "no-cache",
}
_PAGE = files("bridge.ops") / "page"


def control_app(
    http: HttpConfig,
    readiness: Callable[[], str | None],
    registry: CollectorRegistry | None,
    daemon: ControlledDaemon,
    hostile: HostileSessions,
    client_policy: UrlPolicy,
) -> FastAPI:
    """`registry`: None where metrics have an address of their own. `client_policy`: where publishers and viewers may
    lead ICE."""
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
    app.add_middleware(ViewerCors, http=http)
    add_handlers(app)

    @app.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> str:
        """That the loop answers is the whole statement; how late it does is in the metrics."""
        return "ok\n"

    @app.get("/readyz", response_class=PlainTextResponse, responses={503: {"content": {"text/plain": {}}}})
    async def readyz() -> PlainTextResponse:
        """200: every session is on air. 503: why one is not."""
        reason = readiness()
        return PlainTextResponse("ready\n") if reason is None else PlainTextResponse(f"{reason}\n", status_code=503)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(_page(app.openapi()), headers=_SAFE_PAGE)

    _add_page(app)
    if registry is not None:
        _add_metrics(app, registry)
    # So that /docs knows of tokens; whether they are right is seen to before.
    bearer = [Security(HTTPBearer(auto_error=False))] if http.tokens else []
    app.include_router(session_routes(daemon, hostile), dependencies=bearer)
    may_reach = Reach(client_policy)
    app.include_router(whip_routes(daemon, may_reach), dependencies=bearer)
    app.include_router(whep_routes(daemon, may_reach), dependencies=bearer)
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
        return Response(await exposition(registry), media_type=CONTENT_TYPE_LATEST)


async def exposition(registry: CollectorRegistry) -> bytes:
    """All metrics as Prometheus reads them. Family by family: with eight sessions they are 10 ms of work, and media is
    not to wait for more than one of them.
    """
    parts = []
    for family in registry.collect():
        parts.append(generate_latest(_OneFamily(family)))
        await asyncio.sleep(0)
    return b"".join(parts)


class _OneFamily(Collector):
    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


def _add_page(app: FastAPI) -> None:
    def serve(path: str, name: str, media_type: str) -> None:
        content = _PAGE.joinpath(name).read_bytes()

        @app.get(path, include_in_schema=False, name=name)
        async def file() -> Response:
            return Response(content, media_type=media_type, headers=_OWN_PAGE)

    serve("/", "index.html", "text/html")
    serve("/page.css", "page.css", "text/css")
    serve("/page.js", "page.js", "text/javascript")


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
