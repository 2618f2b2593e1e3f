"""The HTTP side of one WHIP session (RFC 9725): what `protocols.whip` decides, moved by httpx."""

import asyncio
import logging
import os
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import structlog

from bridge import __version__
from bridge.errors import BridgeError, OutputError, OutputLost, OutputRejected, RemoteProtocolError
from bridge.net.ice import IceServer, judged
from bridge.net.url_policy import UrlPolicy, UrlRefused
from bridge.protocols import whip
from bridge.redact import Secret, mask, remember

# One offer: name lookup, TCP, TLS, redirects, and a server that gathers its own candidates before it answers.
REQUEST_TIMEOUT_S = 10.0
# What a stop waits for: an answer that is on its way, and the end of the session at the server.
CLOSE_TIMEOUT_S = 2.0
# A refusal is known by its status; its words are worth no more waiting, and fit on one line.
_WORDS_TIMEOUT_S = 1.0
_WORDS_CHARACTERS = 200
_HTTP_SCHEMES = frozenset({"http", "https"})
# What a session's URL is guessed by, unlike "session" or "whip2": 64 bits take 16 characters of hexadecimal.
_RANDOM = re.compile(r"(?=.*[0-9]).{16,}")

log = structlog.get_logger()

# They write URLs, which hold keys, and headers.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class WhipSignalling:
    """Publishes one offer and ends what that has made: an asynchronous context manager, whose exit deletes the session.

    Redirects of the offer are followed here: at most five, 307 and 308 only, never from https to http. Credentials go
    to the origin that was configured and to no other; other origins have to pass the URL policy. Proxies and .netrc of
    the environment are not read.

    refused_with  HTTP status that the server has refused the offer with; None: it has not.
    """

    def __init__(
        self, endpoint: whip.Endpoint, name: str, tls: ssl.SSLContext, policy: UrlPolicy, *, is_strange: bool = False
    ) -> None:
        """`name` stands for the URL in logs; `tls` is what servers are verified with; `policy` is for other hosts, and
        where `is_strange` for the endpoint's own, too.
        """
        self.refused_with: int | None = None
        self._endpoint = endpoint
        self._name = name
        self._policy = policy
        self._is_strange = is_strange
        self._url = endpoint.url  # after redirects
        self._resource: whip.Resource | None = None
        self._posting: asyncio.Task[str] | None = None
        self._client = httpx.AsyncClient(
            verify=tls,
            trust_env=False,
            timeout=None,  # there is a deadline round each request
            # Compressed bodies could be bombs, and descriptions are small.
            headers={"User-Agent": f"avatar-bridge/{__version__}", "Accept-Encoding": "identity"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._end_session()
        except TimeoutError:
            log.warning("whip_delete_timed_out", url=self._name, timeout_s=CLOSE_TIMEOUT_S)
        finally:
            if self._posting is not None:
                self._posting.cancel()
                await asyncio.gather(self._posting, return_exceptions=True)
            await self._client.aclose()

    async def post(self, offer: str, offered: str) -> str:
        """The answer to an offer. Raises OutputRejected, OutputLost, RemoteProtocolError.

        `offered` is what errors say about the offer. When this is cancelled the request goes on until the end of the
        context: what it makes must be deleted.
        """
        self._posting = asyncio.create_task(self._post(offer, offered), name="whip offer")
        return await asyncio.shield(self._posting)

    async def ice_servers(self) -> list[IceServer]:
        """What the server has linked to in its answer, or else links to when it is asked (RFC 9725 §4.6)."""
        assert self._resource is not None
        linked = self._resource.ice_servers
        try:
            if not linked:
                async with self._deadline("OPTIONS"), self._exchange("OPTIONS", self._url) as response:
                    linked = whip.ice_servers(response.headers.multi_items())
            servers = [IceServer((s.url,), s.username, Secret(s.credential, is_passing=True)) for s in linked]
            return await judged(servers, self._policy)
        except OutputError as error:
            log.info("whip_ice_servers_unknown", url=self._name, error=str(error))
            return []

    async def reach(self) -> None:
        """See that the server answers anything at all. Raises OutputLost, OutputRejected."""
        async with self._deadline("OPTIONS"), self._exchange("OPTIONS", self._url):
            pass

    async def trickle(self, fragment: str) -> None:
        """Send candidates (RFC 9725 §4.3). Raises OutputLost when the session is gone, or the server.

        Whatever else it answers, the session goes on: our checks show it the same candidates as peer-reflexive ones.
        """
        assert self._resource is not None
        headers = {"Content-Type": whip.FRAGMENT_TYPE}
        if self._resource.etag:
            headers["If-Match"] = self._resource.etag
        async with self._deadline("PATCH"), self._exchange("PATCH", self._resource.url, fragment, headers) as response:
            if response.status_code in (404, 410):
                raise OutputLost(f"HTTP {response.status_code}: the session is gone")
            if not response.is_success:
                log.info("whip_trickle_refused", url=self._name, status=response.status_code)

    async def _post(self, offer: str, offered: str) -> str:
        async with self._deadline("the answer to the offer"):
            for _ in range(1 + whip.MAX_REDIRECTS):
                content_type = {"Content-Type": whip.SDP_TYPE, "Accept": whip.SDP_TYPE}
                async with self._exchange("POST", self._url, offer, content_type) as response:
                    headers = response.headers.multi_items()
                    if not whip.is_redirect(response.status_code):
                        return await self._read_answer(response, headers, offered)
                    self._url = whip.redirected(self._url, response.status_code, headers)
                    self._remember_session(self._url)
        raise RemoteProtocolError(f"the server redirects more than {whip.MAX_REDIRECTS} times")

    async def _read_answer(self, response: httpx.Response, headers: whip.Headers, offered: str) -> str:
        status = response.status_code
        if not response.is_success:
            self.refused_with = status
            lost_token = bool(self._endpoint.authorization) and not self._is_at_home(self._url)
            words = await _words(response)
            raise whip.refusal(status, headers, words, offered, time.time(), lost_token=lost_token)
        if status == 201 or whip.header(headers, "location"):
            # Before all that may be wrong with the answer: what was made must be deleted.
            self._resource = whip.resource(self._url, headers)
            self._remember_session(self._resource.url)
        whip.check_created(status, headers)
        body = await _read(response, whip.MAX_SDP_BYTES + 1)
        if len(body) > whip.MAX_SDP_BYTES:
            raise RemoteProtocolError(f"the answer has more than {whip.MAX_SDP_BYTES} bytes")
        return body.decode(errors="replace")

    async def _end_session(self) -> None:
        if self._posting is not None:
            await asyncio.wait((self._posting,))
        if self._resource is None:
            return
        try:
            async with self._exchange("DELETE", self._resource.url) as response:
                # 404 and 410: the server has ended it before us.
                if not response.is_success and response.status_code not in (404, 410):
                    log.warning("whip_delete_refused", url=self._name, status=response.status_code)
        except OutputError as error:
            log.warning("whip_delete_failed", url=self._name, error=str(error))

    def _is_at_home(self, url: str) -> bool:
        return whip.origin(url) == whip.origin(self._endpoint.url)

    def _remember_session(self, url: str) -> None:
        """Mask what is random in a URL of the server's making: whoever knows the URL of a session can end it."""
        known = urlsplit(self._endpoint.url).path.split("/")
        for piece in urlsplit(url).path.split("/"):
            if piece not in known and _RANDOM.fullmatch(piece):
                remember(piece, is_passing=True)

    async def _pinned(self, url: str, headers: dict[str, str]) -> tuple[httpx.URL, dict[str, Any]]:
        """Where to connect to, and the extensions that make TLS expect the name. Raises OutputRejected, OSError.

        What the operator has configured is resolved as usual; elsewhere a server of strangers leads, so the addresses
        are judged and used as judged.
        """
        if self._is_at_home(url) and not self._is_strange:
            return httpx.URL(url), {}
        try:
            pinned = await self._policy.check(url, schemes=_HTTP_SCHEMES)
        except UrlRefused as error:
            words = "the URL" if self._is_at_home(url) else "the server leads to another host"
            raise OutputRejected(f"{words}: {error}") from None
        headers["Host"] = httpx.URL(url).netloc.decode("ascii")
        return httpx.URL(url).copy_with(host=pinned.addresses[0]), {"sni_hostname": pinned.host}

    @asynccontextmanager
    async def _exchange(
        self, method: str, url: str, content: str = "", headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """A request and the response's headers; its body is read within. Raises OutputLost, OutputRejected."""
        headers = dict(headers or {})
        if self._endpoint.authorization and self._is_at_home(url):
            headers["Authorization"] = self._endpoint.authorization
        try:
            target, extensions = await self._pinned(url, headers)
            async with self._client.stream(
                method, target, content=content.encode(), headers=headers, extensions=extensions
            ) as response:
                yield response
        except TimeoutError:
            raise
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, OSError) as error:
            raise _failure(error) from _root_cause(error)

    @asynccontextmanager
    async def _deadline(self, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                yield
        except TimeoutError as error:
            raise OutputLost(f"{what} did not come within {REQUEST_TIMEOUT_S:g} s") from error


async def _read(response: httpx.Response, most_bytes: int) -> bytes:
    """The body, or as much of it as shows that it is longer."""
    body = b""
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) >= most_bytes:
            break
    return body[:most_bytes]


async def _words(response: httpx.Response) -> str:
    """What a refusal says in its body, fit for an error; empty where that is no line of text."""
    body = b""
    with suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(_WORDS_TIMEOUT_S):
            body = await _read(response, 4 * _WORDS_CHARACTERS)
    text = " ".join(body.decode(errors="replace").split())
    is_line = text.isprintable() and not text.startswith("<")  # a page is for browsers
    return mask(text)[:_WORDS_CHARACTERS] if is_line else ""


def _failure(error: Exception) -> BridgeError:
    cause = _root_cause(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return OutputRejected(f"the server's certificate is refused: {cause.verify_message}")
    if isinstance(error, httpx.InvalidURL | UnicodeError):
        return OutputRejected("the host name is malformed")
    if isinstance(error, httpx.ConnectError | OSError):
        # asyncio puts addresses into the text, but for those that the system's resolver has none for.
        number = cause.errno if isinstance(cause, OSError) and not isinstance(cause, socket.gaierror) else None
        reason = os.strerror(number) if number else getattr(cause, "strerror", None) or type(cause).__name__
        return OutputLost(f"cannot connect: {reason}")
    return OutputLost(f"the HTTP connection broke: {type(error).__name__}")


def _root_cause(error: BaseException) -> BaseException:
    """What the system said, below the errors of the layers above it."""
    while below := error.__cause__ or error.__context__:
        error = below
    # Each address of a name may have failed in its own way.
    return _root_cause(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
