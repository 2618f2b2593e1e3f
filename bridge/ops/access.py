"""Who may use the API: Host and Origin on every request, and tokens with scopes where there are any.

A web page in the operator's browser can send requests to loopback: under a name of its own (DNS rebinding), which the
Host header shows, or across origins, which Origin and Sec-Fetch-Site show.
"""

import hashlib
import hmac
import math
import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus

import structlog
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from bridge.config import HttpConfig, Scope
from bridge.ops.guesses import Guesses
from bridge.ops.problems import Problem

# What an orchestrator asks, which has no token, and the page, which asks its user for one.
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/", "/page.css", "/page.js"})
_LOOKING = frozenset({"GET", "HEAD"})

# Sending media in, whatever the method, and playing it.
_INGEST_PATH = re.compile(r"/v1/sessions/[^/]+/(?:whip|pcm)/")
VIEW_PATH = re.compile(r"/v1/sessions/[^/]+/whep/")

_LONGEST_LOGGED = 200

_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]@/\s]+)(?::[0-9]{1,5})?")

log = structlog.get_logger()


class Access:
    """Decides about a request by its method, path and headers.

    `host` is where it comes from: a client that has shown too many wrong tokens waits, with a right one too, for else
    it could go on guessing. Behind a proxy all clients are one, which the proxy has to tell apart.
    """

    def __init__(self, http: HttpConfig) -> None:
        self._hosts = frozenset(host.lower() for host in http.allowed_hosts)
        self._tokens = [(_digest(token.file.reveal()), frozenset(token.scopes)) for token in http.tokens]
        self._guesses = Guesses()

    def check(self, method: str, path: str, headers: Sequence[tuple[bytes, bytes]], host: str = "") -> None:
        """Raises Problem. Header names are in lower case."""
        self._check_host(headers)
        self._check_origin(method, path, headers)
        if self._tokens and path not in OPEN_PATHS:
            self._check_token(_wanted(method, path), _values(headers, b"authorization"), host)

    def check_upgrade(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """The same of a WebSocket, whose token may come later: `check_sender`. Raises Problem."""
        self._check_host(headers)
        self._check_origin("CONNECT", "", headers)

    @property
    def wants_tokens(self) -> bool:
        return bool(self._tokens)

    def check_sender(self, tokens: Iterable[str], host: str = "") -> None:
        """Whether one of these lets send media in. Raises Problem."""
        if self._tokens:
            self._check_token("ingest", [f"Bearer {token}" for token in tokens], host)

    def _check_host(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        hosts = _values(headers, b"host")
        if len(hosts) != 1 or _host(hosts[0]) not in self._hosts:
            raise Problem(HTTPStatus.BAD_REQUEST, "the Host header names none of http.allowed_hosts")

    def _check_origin(self, method: str, path: str, headers: Sequence[tuple[bytes, bytes]]) -> None:
        origins = _values(headers, b"origin")
        for origin in origins:
            scheme, _, authority = origin.partition("://")
            if scheme not in ("http", "https") or _host(authority) not in self._hosts:
                raise Problem(HTTPStatus.FORBIDDEN, "the Origin header names none of http.allowed_hosts")
        # Pages of these hosts may play, wherever they are served from: that changes nothing.
        if origins and VIEW_PATH.match(path):
            return
        # none: the user did it; same-site may be any other program that serves pages on this machine.
        sites = set(_values(headers, b"sec-fetch-site")) - {"same-origin", "none"}
        if method not in _LOOKING and sites:
            raise Problem(HTTPStatus.FORBIDDEN, "another site's page may not change anything here")

    def _check_token(self, wanted: Scope, authorizations: Sequence[str], host: str) -> None:
        if wait_s := self._guesses.wait_s(host):
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too many wrong tokens have come from this address",
                headers={"Retry-After": str(math.ceil(wait_s))},
            )
        given: set[Scope] = set()
        is_known = False
        for authorization in authorizations:
            scheme, _, token = authorization.partition(" ")
            if scheme.lower() != "bearer":
                continue
            digest = _digest(token.strip())
            # All of them, always: how long it takes tells nothing about any.
            for known, scopes in self._tokens:
                if hmac.compare_digest(known, digest):
                    is_known = True
                    given |= scopes
        if not is_known:
            if authorizations:
                self._guesses.count(host, _digest("\n".join(authorizations)))
                if wait_s := self._guesses.wait_s(host):
                    log.warning("api_guesses_limited", client=host, wait_s=round(wait_s, 1))
            raise Problem(
                HTTPStatus.UNAUTHORIZED,
                "a token is needed: Authorization: Bearer TOKEN",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if wanted not in given:
            raise Problem(
                HTTPStatus.FORBIDDEN,
                f"this token lacks the scope {wanted}",
                headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{wanted}"'},
            )


class AccessMiddleware:
    """Lets through to the application what `Access` lets through, and logs every hand on the broadcast."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._upgrade(scope, receive, send)
            return
        assert scope["type"] == "http"  # lifespan events are not served

        async def send_and_log(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["method"] not in _LOOKING:
                status, path = int(message["status"]), scope["path"][:_LONGEST_LOGGED]
                log.info("api_call", method=scope["method"], path=path, status=status)
            await send(message)

        try:
            self._access.check(scope["method"], scope["path"], scope["headers"], host_of(scope))
        except Problem as problem:
            await problem.response()(scope, receive, send_and_log)
            return
        await self._app(scope, receive, send_and_log)

    async def _upgrade(self, scope: Connection, receive: Receive, send: Send) -> None:
        try:
            self._access.check_upgrade(scope["headers"])
        except Problem as problem:
            log.info("api_call", method="WEBSOCKET", path=scope["path"][:_LONGEST_LOGGED], status=int(problem.status))
            await problem.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)


def host_of(connection: Connection) -> str:
    """Where a connection comes from; empty: from no network."""
    client = connection.get("client")
    return str(client[0]) if client else ""


def _wanted(method: str, path: str) -> Scope:
    if _INGEST_PATH.match(path):
        return "ingest"
    if VIEW_PATH.match(path):
        return "view"
    return "read" if method in _LOOKING else "control"


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in headers if key == name]


def _host(authority: str) -> str:
    """The host of HOST[:PORT] in lower case; empty where it is malformed."""
    match = _AUTHORITY.fullmatch(authority.lower())
    return match[1] if match else ""


def _digest(token: str) -> bytes:
    # Digests have one length, so that comparing them does not tell how long a token is.
    # JSON can name halves of characters, which are no text, and no token of ours.
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
