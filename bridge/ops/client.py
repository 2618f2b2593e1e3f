"""A client of the API, for the command line."""

import asyncio
import ssl
from collections.abc import Mapping
from json import JSONDecodeError
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from bridge.errors import BridgeError, ConfigError
from bridge.redact import Secret, redact_url

CONNECT_TIMEOUT_S = 5.0
# An image takes up to 30 s on a slow way, and closing an output a few.
CALL_TIMEOUT_S = 40.0
# Statuses that say the command was wrong; all others say that it could not be done, or not now.
_WRONG = frozenset({400, 401, 403, 404, 405, 413, 415, 422})


class CallFailed(BridgeError):
    """The daemon was not reached, or could not do it."""


class ApiClient:
    """Calls a running daemon."""

    def __init__(self, url: str, token: Secret | None = None, ca_file: Path | None = None) -> None:
        """Raises ConfigError."""
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL:
            raise ConfigError("--url: must be http://HOST:PORT or https://HOST:PORT") from None
        if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo or parsed.query:
            raise ConfigError("--url: must be http://HOST:PORT or https://HOST:PORT; a token goes into --token-file")
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token.reveal()}"} if token else {}
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
        url = "/".join((self._url, "v1", *(quote(segment, safe="") for segment in path)))
        headers = self._headers | ({"Content-Type": media_type} if content is not None else {})
        request = httpx.Request(method, url, params=query, content=content, headers=headers)
        return asyncio.run(self._send(request))

    async def _send(self, request: httpx.Request) -> Any:
        shown = redact_url(self._url)
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                # Neither proxies nor .netrc of the environment: the token is for the daemon alone.
                timeout = httpx.Timeout(CALL_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
                async with httpx.AsyncClient(verify=self._tls, trust_env=False, timeout=timeout) as client:
                    response = await client.send(request)
        except (TimeoutError, httpx.TimeoutException):
            raise CallFailed(f"{shown} has not answered in time") from None
        except httpx.ConnectError as error:
            raise CallFailed(f"cannot connect to {shown} ({error}): does the daemon run, is --url right?") from None
        except httpx.HTTPError as error:
            raise CallFailed(f"the connection to {shown} broke: {type(error).__name__}") from None
        try:
            if response.is_success:
                return response.json() if response.content else None
            kind = ConfigError if response.status_code in _WRONG else CallFailed
            raise kind(str(response.json()["detail"]))
        except (JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
            said = f"HTTP {response.status_code} {response.reason_phrase}"
            raise CallFailed(f"{shown} says {said}, which is not avatar-bridge: is --url right?") from None


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigError(f"--ca-file: cannot use {ca_file}: {error.strerror or 'no certificates in it'}") from None
