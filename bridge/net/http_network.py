"""What httpcore connects with, to addresses that were judged, and to servers that speak ICY."""

# ruff: noqa: ASYNC109 (timeouts are arguments in httpcore's interface)

import ssl
from collections.abc import Sequence
from typing import Any

import httpcore

from bridge.protocols import icy


class PinnedNetwork(httpcore.AsyncNetworkBackend):
    """TCP to addresses that were judged, whatever the URL's host is called; none: to that host."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.AsyncNetworkStream:
        *others, last = self._addresses or (host,)
        for address in others:
            try:
                return _Stream(await self._inner.connect_tcp(address, port, timeout, local_address, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue  # the last one says why
        return _Stream(await self._inner.connect_tcp(last, port, timeout, local_address, socket_options))


class _Stream(httpcore.AsyncNetworkStream):
    """A connection whose server may begin as SHOUTcast 1 does."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner
        self._has_begun = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = await self._inner.read(max_bytes, timeout)
        if self._has_begun:
            return data
        while data and len(data) < len(icy.STATUS_LINE) and (more := await self._inner.read(max_bytes, timeout)):
            data += more
        self._has_begun = True
        if data.startswith(icy.STATUS_LINE):
            return icy.HTTP_STATUS_LINE + data.removeprefix(icy.STATUS_LINE)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return _Stream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
