"""One WebSocket with NavTalk: how it is opened, written, read and closed, each within its deadline."""

import asyncio
import contextlib
from collections.abc import Mapping

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from bridge.errors import BridgeError, ProviderUnavailable
from bridge.net.url_policy import UrlPolicy
from bridge.protocols import navtalk
from bridge.providers.navtalk_ends import end_of
from bridge.providers.websocket import open_websocket
from bridge.redact import Secret

# A socket that takes no message for this long holds 250 live audio messages: its far end has stopped reading.
SEND_TIMEOUT_S = 5.0
# A picture of several MiB takes its time, and sound waits behind it. Twice what sound alone needs as base64.
SLOWEST_BYTES_PER_S = 128 * 1024


class Socket:
    """An open WebSocket. `where` is what errors call it."""

    def __init__(self, connection: ClientConnection, where: str) -> None:
        self.where = where
        self._connection = connection
        self._unread_s: float | None = None

    @property
    def date(self) -> str | None:
        """When the service has answered, by its own clock (RFC 9110 §6.6.1)."""
        response = self._connection.response
        return response.headers.get("Date") if response is not None else None

    async def send(self, text: str) -> None:
        """Raises ConnectionClosed, and ProviderUnavailable when the far end does not read any more."""
        waiting_bytes = self._connection.transport.get_write_buffer_size() + len(text)
        timeout_s = SEND_TIMEOUT_S + waiting_bytes / SLOWEST_BYTES_PER_S
        try:
            async with asyncio.timeout(timeout_s):
                await self._connection.send(text)
        except TimeoutError:
            # Whoever sends need not be who reads: the loss of the connection is what reaches that one.
            self._unread_s = timeout_s
            self._connection.transport.abort()
            await self._connection.wait_closed()
            raise self._stopped_reading(timeout_s) from None

    async def receive(self) -> str | bytes:
        """Raises ConnectionClosed."""
        return await self._connection.recv()

    def end_of(self, closed: ConnectionClosed) -> navtalk.Ended | BridgeError:
        """What the closed connection comes to."""
        return end_of(closed, self.where) if self._unread_s is None else self._stopped_reading(self._unread_s)

    def _stopped_reading(self, unread_s: float) -> ProviderUnavailable:
        what = f"{self.where} has stopped reading for {unread_s:.0f} s"
        return ProviderUnavailable(what, reason=navtalk.End.DISCONNECTED.value)


def open_socket(
    url: Secret,
    query: Mapping[str, str],
    where: str,
    key: str,
    open_timeout_s: float,
    policy: UrlPolicy | None = None,
) -> contextlib.AbstractAsyncContextManager[ClientConnection]:
    """As `open_websocket` does; the licence stands in the query."""
    return open_websocket(
        lambda: navtalk.with_query(url.reveal(), query),
        where,
        key=key,
        open_timeout_s=open_timeout_s,
        advice={402: "top up the account of this licence"},
        otherwise=f"check {key} and the licence",
        policy=policy,
    )
