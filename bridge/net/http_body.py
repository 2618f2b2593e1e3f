"""The bytes behind an http or https URL: under the URL policy, and from any place on."""

import asyncio
import base64
import re
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urljoin, urlsplit

import httpcore
import httpx

from bridge import __version__
from bridge.errors import SourceError, SourceLost, SourceRejected
from bridge.net.http_network import PinnedNetwork
from bridge.net.reasons import root_cause, system_reason
from bridge.net.url_policy import DEFAULT_PORTS, UrlPolicy, UrlRefused
from bridge.protocols import icy
from bridge.redact import redact_url

# Name lookup, TCP, TLS and redirects, until the headers are there.
OPEN_TIMEOUT_S = 10.0
# Stations send several times a second; a player's patience with one that does not.
READ_TIMEOUT_S = 10.0
MAX_REDIRECTS = 5
_SCHEMES = frozenset({"http", "https"})
# What comes back by itself: RFC 9110 §15.5.9, RFC 8470 §5.2, RFC 6585 §4, and all of the server's own failures.
_PASSING = frozenset({408, 425, 429, *range(500, 600)})
_RANGE_UNSATISFIABLE = 416


class HttpBody:
    """What a URL gives: an asynchronous context manager, open while it is entered.

    Redirects are followed here: at most five, never from https to http. What the operator has configured is resolved
    as usual; elsewhere, and everywhere where it `is_strange`, addresses are judged by the policy and used as judged.
    User info in the URL is sent to its own origin alone. Proxies and .netrc of the environment are not read.

    url          after redirects.  headers: of the first answer, names in lower case.
    size_bytes   0: it may be endless.  is_seekable: it can be read from any place on.
    """

    def __init__(
        self, label: str, url: str, tls: ssl.SSLContext, policy: UrlPolicy, *, is_strange: bool, first_byte: int = 0
    ) -> None:
        """label: how errors call it.  first_byte: where it is read from at first."""
        self.url = url
        self.headers: Mapping[str, str] = {}
        self.size_bytes = 0
        self.is_seekable = False
        self._label = label
        self._home = url
        self._tls = tls
        self._policy = policy
        self._is_strange = is_strange
        self._reading = asyncio.Lock()
        self._open = AsyncExitStack()
        self._chunks: AsyncIterator[bytes] | None = None
        self._titles = icy.TitleStripper(0)
        self._held = b""
        self._held_at = 0  # place of the first byte that is held
        self._wanted_at = first_byte  # place of the next byte that is asked for

    async def __aenter__(self) -> Self:
        """Raises SourceRejected, SourceLost."""
        try:
            await self._request(self._wanted_at)
        except BaseException:
            await self._open.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async with self._reading:  # a reader that was called off has left
            await self._open.aclose()

    @property
    def position(self) -> int:
        return self._wanted_at

    def seek(self, position: int) -> None:
        """Read on from there."""
        self._wanted_at = position

    async def read(self, most_bytes: int) -> bytes:
        """At least one byte; none at the end. Raises SourceLost, SourceRejected."""
        async with self._reading:
            if self._wanted_at != self._held_at and not self._skip():
                await self._request(self._wanted_at)
            while not self._held:
                if self._chunks is None or (chunk := await self._next_chunk(self._chunks)) is None:
                    return b""
                self._held = self._titles.push(chunk)
            data, self._held = self._held[:most_bytes], self._held[most_bytes:]
            self._held_at += len(data)
            self._wanted_at = self._held_at
            return data

    def _skip(self) -> bool:
        """Go forwards within what is held, if the wanted place is there."""
        ahead = self._wanted_at - self._held_at
        if not 0 <= ahead <= len(self._held):
            return False
        self._held, self._held_at = self._held[ahead:], self._wanted_at
        return True

    async def _next_chunk(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        try:
            return await anext(chunks)
        except StopAsyncIteration:
            if not self.size_bytes and icy.is_station(self.headers):
                raise SourceLost(f"{self._label}: the station has closed the connection") from None
            return None
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise self._failure(error) from error

    async def _request(self, first_byte: int) -> None:
        """Ask for everything from there on."""
        await self._open.aclose()
        self._chunks, self._held, self._held_at, self._wanted_at = None, b"", first_byte, first_byte
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                response = await self._follow({"Range": f"bytes={first_byte}-"} if first_byte else {})
        except TimeoutError:
            raise SourceLost(f"{self._label}: no answer within {OPEN_TIMEOUT_S:g} s") from None
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise self._failure(error) from error
        headers = _headers(response)
        if response.status == _RANGE_UNSATISFIABLE and first_byte:
            return  # behind the end
        self._check_status(response.status, headers)
        if first_byte and response.status != 206:
            raise SourceLost(f"{self._label}: the server does not give parts any more")
        if not self.headers:
            self.headers = headers
            length = headers.get("content-length", "")
            self.size_bytes = first_byte + int(length) if length.isascii() and length.isdigit() else 0
            self.is_seekable = self.size_bytes > 0 and headers.get("accept-ranges", "").lower() == "bytes"
        self._titles = icy.TitleStripper(icy.metadata_interval(headers))
        self._chunks = aiter(response.aiter_stream())

    async def _follow(self, headers: Mapping[str | bytes, str | bytes]) -> httpcore.Response:
        url = self._home
        for _ in range(1 + MAX_REDIRECTS):
            response = await self._get(url, headers)
            location = _headers(response).get("location", "")
            if response.status not in (301, 302, 303, 307, 308) or not location:
                self.url = url
                return response
            await self._open.aclose()
            url, before = _joined(url, location), url
            if before.startswith("https:") and not url.startswith("https:"):
                raise SourceRejected(f"{self._label}: the server leads from https to {redact_url(url)}")
        raise SourceRejected(f"{self._label}: the server redirects more than {MAX_REDIRECTS} times")

    async def _get(self, url: str, headers: Mapping[str | bytes, str | bytes]) -> httpcore.Response:
        addresses: Sequence[str] = ()
        if self._is_strange or origin(url) != origin(self._home):
            try:
                addresses = (await self._policy.check(url, schemes=_SCHEMES)).addresses
            except UrlRefused as error:
                where = "the URL" if url == self._home else "the server leads elsewhere, where the URL"
                raise SourceRejected(f"{self._label}: {where} {error}") from None
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, UnicodeError):
            raise SourceRejected(f"{self._label}: {redact_url(url)} is malformed") from None
        sent: dict[str | bytes, str | bytes] = {
            "Host": parsed.netloc.decode("ascii"),
            "User-Agent": f"avatar-bridge/{__version__}",
            "Accept": "*/*",
            "Accept-Encoding": "identity",  # sound is compressed already, and what is compressed twice could be a bomb
            **headers,
        }
        if (user_info := urlsplit(self._home).netloc.rpartition("@")[0]) and origin(url) == origin(self._home):
            sent["Authorization"] = "Basic " + base64.b64encode(unquote(user_info).encode()).decode()
        pool = httpcore.AsyncConnectionPool(ssl_context=self._tls, network_backend=PinnedNetwork(addresses))
        await self._open.enter_async_context(pool)
        return await self._open.enter_async_context(
            pool.stream(
                "GET",
                httpcore.URL(scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path),
                headers=sent,
                extensions={"timeout": {"connect": OPEN_TIMEOUT_S, "read": READ_TIMEOUT_S, "write": OPEN_TIMEOUT_S}},
            )
        )

    def _check_status(self, status: int, headers: Mapping[str, str]) -> None:
        if 200 <= status < 300:
            return
        advice = " (user and password can stand in the URL)" if status == 401 else ""
        failure = SourceLost if status in _PASSING else SourceRejected
        raise failure(f"{self._label}: the server answers HTTP {status}{advice}")

    def _failure(self, error: Exception) -> SourceError:
        cause = root_cause(error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            return SourceRejected(f"{self._label}: the server's certificate is refused: {cause.verify_message}")
        match error:
            case httpcore.ReadTimeout():
                return SourceLost(f"{self._label}: nothing has come for {READ_TIMEOUT_S:g} s")
            case httpcore.ConnectError() | httpcore.ConnectTimeout() | OSError():
                return SourceLost(f"{self._label}: cannot connect: {system_reason(error)}")
        return SourceLost(f"{self._label}: the HTTP connection broke: {type(error).__name__}")


def _headers(response: httpcore.Response) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}


def _joined(url: str, location: str) -> str:
    # User info of ours goes nowhere, and servers have none to give.
    return re.sub(r"^(https?://)[^/?#]*@", r"\1", urljoin(url, location))


def origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or DEFAULT_PORTS.get(parts.scheme)
