"""A WebSocket to a service: opened and closed within deadlines, and refusals that say who has to act."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException

from bridge.errors import ProviderRejected, ProviderUnavailable
from bridge.net.url_policy import UrlPolicy, UrlRefused
from bridge.redact import mask

# The vendor's workers allow 20 s for the answer to a ping; a dead path is to be noticed sooner by the media than here.
PING_S = 20.0
CLOSE_TIMEOUT_S = 2.0
# An answer's sound in one message is the longest that may come: as base64, 64 kB a second, so this holds four minutes.
MAX_MESSAGE_BYTES = 16 * 2**20
# What a server writes about a refusal is a sentence.
_MAX_WORDS = 200
# The library's own log would print the request line, and secrets stand in it.
_SILENT = logging.Logger("provider", level=logging.CRITICAL + 1)


@contextlib.asynccontextmanager
async def open_websocket(
    make_url: Callable[[], str],
    where: str,
    *,
    key: str,
    open_timeout_s: float,
    advice: Mapping[int, str],
    otherwise: str,
    headers: Mapping[str, str] | None = None,
    policy: UrlPolicy | None = None,
) -> AsyncIterator[ClientConnection]:
    """A WebSocket that is closed at the end. Raises ProviderRejected, ProviderUnavailable.

    make_url  gives the whole URL; a ValueError says that it cannot be made of what is configured.
    key     where that stands.
    advice  what the operator is to do about a refusal, by HTTP status; `otherwise` for all others.
    policy  judges where the URL leads; None: it is the operator's own.
    """
    connection = await _open(make_url, where, key, open_timeout_s, {0: otherwise, **advice}, headers or {}, policy)
    try:
        yield connection
    finally:
        await _close(connection)


async def _open(
    make_url: Callable[[], str],
    where: str,
    key: str,
    open_timeout_s: float,
    advice: Mapping[int, str],
    headers: Mapping[str, str],
    policy: UrlPolicy | None,
) -> ClientConnection:
    try:
        url = make_url()
        options: dict[str, Any] = {"additional_headers": headers, "open_timeout": open_timeout_s}
        if policy is None:
            is_local = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
            return await _connect(url, **options, proxy=None if is_local else True)
        async with asyncio.timeout(open_timeout_s):
            return await _connect_judged(url, policy, **options)
    except UrlRefused as error:
        raise ProviderRejected(f"{where}: {key} {error}", reason="unreachable") from None
    # `from None` everywhere: the library's exceptions may hold the URL, and with it secrets.
    except InvalidStatus as refusal:
        status, body = refusal.response.status_code, refusal.response.body or b""
        words = mask(" ".join(body[: 4 * _MAX_WORDS].decode(errors="replace").split()))[:_MAX_WORDS]
        said = f'; it says "{words}"' if words and "<" not in words else ""
        if status == 429 or status >= 500:
            what = f"{where} is not available now (HTTP {status}){said}"
            raise ProviderUnavailable(what, reason="refused") from None
        what = f"{where} refused the WebSocket (HTTP {status}): {advice.get(status, advice[0])}{said}"
        raise ProviderRejected(what, reason="refused") from None
    except TimeoutError:
        raise _unreachable(where, f"did not open the WebSocket within {open_timeout_s:g} s") from None
    except ssl.SSLCertVerificationError as error:
        what = f"{where} shows a certificate that is not trusted: {error.verify_message}"
        raise ProviderRejected(what, reason="unreachable") from None
    except ssl.SSLError as error:
        raise _unreachable(where, f"cannot be reached: TLS failed ({error.reason}); does the port take it?") from None
    except OSError as error:
        # asyncio has no words for a far end that closes instead of shaking hands.
        why = error.strerror or str(error) or "it closed the connection; does the port take TLS?"
        raise _unreachable(where, f"cannot be reached: {why}") from None
    # A malformed host or port is a ValueError of the URL's reader, or a UnicodeError of the resolver; with a colon
    # in the user name an assertion of the library fails.
    except (InvalidURI, ValueError, AssertionError):
        raise ProviderRejected(f"{where}: {key} is no WebSocket URL", reason="unreachable") from None
    except (WebSocketException, EOFError) as error:
        name = type(error).__name__
        raise _unreachable(where, f"did not complete the WebSocket's opening ({name})") from None


def _connect(url: str, **options: Any) -> connect:
    return connect(
        url,
        close_timeout=CLOSE_TIMEOUT_S,
        ping_interval=PING_S,
        ping_timeout=PING_S,
        max_size=MAX_MESSAGE_BYTES,
        compression=None,  # base64 of noise-like sound shrinks by a quarter at best: not worth holding it up
        user_agent_header="avatar-bridge",
        logger=_SILENT,
        **options,
    )


async def _connect_judged(url: str, policy: UrlPolicy, **options: Any) -> ClientConnection:
    """To an address that was judged, and no proxy. Where one is given, the library follows no redirect to elsewhere."""
    pinned = await policy.check(url, schemes=frozenset({"ws", "wss"}))
    *others, last = pinned.addresses
    for address in others:
        with contextlib.suppress(OSError):  # the last one says why
            return await _connect(url, **options, host=address, port=pinned.port, proxy=None)
    return await _connect(url, **options, host=last, port=pinned.port, proxy=None)


def _unreachable(where: str, what: str) -> ProviderUnavailable:
    return ProviderUnavailable(f"{where} {what}", reason="unreachable")


async def _close(connection: ClientConnection) -> None:
    """Close the WebSocket within `CLOSE_TIMEOUT_S`, properly if the far end takes part."""
    try:
        # The library's own deadline begins once its buffer is empty, and a far end that does not read never lets it be.
        async with asyncio.timeout(CLOSE_TIMEOUT_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(connection.close(), name="websocket-close")
            # Of messages that nobody takes the library reads 16, and the answer to the close comes behind them.
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await connection.recv()
    except TimeoutError:
        connection.transport.abort()
        await connection.wait_closed()
