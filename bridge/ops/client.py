"""A client of the API, for the command line."""

import asyncio
import json
import ssl
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from json import JSONDecodeError
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from bridge.config_secrets import read_file
from bridge.errors import BridgeError, ConfigError
from bridge.redact import Secret, redact_url

CONNECT_TIMEOUT_S = 5.0
# An image takes up to 30 s on a slow way, and closing an output a few.
CALL_TIMEOUT_S = 40.0
# An event stream without events has a comment every 15 s.
SILENT_TIMEOUT_S = 40.0
# Statuses that say the command was wrong; all others say that it could not be done, or not now.
_WRONG = frozenset({400, 401, 403, 404, 405, 413, 415, 422})


class CallFailed(BridgeError):
    """The daemon was not reached, or could not do it."""


class ApiClient:
    """Calls a running daemon."""

    def __init__(
        self,
        url: str,
        token: Secret | None = None,
        ca_file: Path | None = None,
        call_timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        """Raises ConfigError."""
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL:
            raise ConfigError("--url: must be http://HOST:PORT or https://HOST:PORT") from None
        if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo or parsed.query:
            raise ConfigError("--url: must be http://HOST:PORT or https://HOST:PORT; a token goes into --token-file")
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token.reveal()}"} if token else {}
        self._call_timeout_s = call_timeout_s
        self._tls = _tls(ca_file) if parsed.scheme == "https" else True

    def call(
        self,
        method: str,
        *path: str,
        query: Mapping[str, str] | None = None,
        content: bytes | None = None,
        media_type: str = "application/json",
    ) -> Any:
        """What the API answers; None: nothing. Raises CallFailed, ConfigError. `path`: its segments behind /v1."""
        headers = self._headers | ({"Content-Type": media_type} if content is not None else {})
        request = httpx.Request(method, self._url_of(path), params=query, content=content, headers=headers)
        return self._answer(asyncio.run(self._send(request)))

    def read_text(self, name: str) -> str:
        """The plain text at a path beside /v1. Raises as `call` does; CallFailed with the text that a 503 has."""
        response = asyncio.run(self._send(httpx.Request("GET", f"{self._url}/{name}", headers=self._headers)))
        if not response.headers.get("Content-Type", "").startswith("text/plain"):
            raise self._problem(response)
        if not response.is_success:
            raise CallFailed(response.text.strip())
        return response.text

    def follow(self, *path: str, take: Callable[[str, dict[str, Any]], None]) -> None:
        """Give type and data of every event of a stream to `take`, until the stream ends. Raises as `call` does."""
        asyncio.run(self._follow(httpx.Request("GET", self._url_of(path), headers=self._headers), take))

    def _url_of(self, path: Iterable[str]) -> str:
        return "/".join((self._url, "v1", *(quote(segment, safe="") for segment in path)))

    def _client(self, timeout_s: float) -> httpx.AsyncClient:
        # Neither proxies nor .netrc of the environment: the token is for the daemon alone.
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        return httpx.AsyncClient(verify=self._tls, trust_env=False, timeout=timeout)

    async def _send(self, request: httpx.Request) -> httpx.Response:
        with self._explained():
            async with asyncio.timeout(self._call_timeout_s), self._client(self._call_timeout_s) as client:
                return await client.send(request)

    async def _follow(self, request: httpx.Request, take: Callable[[str, dict[str, Any]], None]) -> None:
        with self._explained():
            async with self._client(SILENT_TIMEOUT_S) as client:
                response = await client.send(request, stream=True)
                if not response.is_success:
                    await response.aread()
                    self._answer(response)
                event_type, data = "", ""
                async for line in response.aiter_lines():
                    field, _, value = line.partition(": ")
                    match field:
                        case "event":
                            event_type = value
                        case "data":
                            data += value
                        case "" if not line and data:
                            take(event_type, json.loads(data))
                            data = ""

    @contextmanager
    def _explained(self) -> Iterator[None]:
        shown = redact_url(self._url)
        try:
            yield
        except (TimeoutError, httpx.TimeoutException):
            raise CallFailed(f"{shown} has not answered in time") from None
        except httpx.ConnectError as error:
            raise CallFailed(f"cannot connect to {shown} ({error}): does the daemon run, is --url right?") from None
        except httpx.HTTPError as error:
            raise CallFailed(f"the connection to {shown} broke: {type(error).__name__}") from None

    def _answer(self, response: httpx.Response) -> Any:
        if response.is_success:
            with suppress(JSONDecodeError, UnicodeDecodeError):
                return response.json() if response.content else None
        raise self._problem(response)

    def _problem(self, response: httpx.Response) -> BridgeError:
        """What the daemon says is wrong, or that nobody but a daemon would say this."""
        kind = ConfigError if response.status_code in _WRONG else CallFailed
        try:
            return kind(str(response.json()["detail"]))
        except (JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
            said = f"HTTP {response.status_code} {response.reason_phrase}"
            return CallFailed(f"{redact_url(self._url)} says {said}, which is not avatar-bridge: is --url right?")


def read_token(path: Path | None) -> Secret | None:
    """The token that a file holds, or a line of standard input for `-`. Raises ConfigError."""
    if path is None:
        return None
    if path == Path("-"):
        token = sys.stdin.readline().strip()
        if not (token.isascii() and token.isprintable() and token):
            raise ConfigError("--token-file: standard input holds no token")
        return Secret(token)
    try:
        return read_file(path)
    except ValueError as error:
        raise ConfigError(f"--token-file: {error}") from None


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigError(f"--ca-file: cannot use {ca_file}: {error.strerror or 'no certificates in it'}") from None
