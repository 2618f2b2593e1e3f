"""A port of this machine behind which lies one TCP connection to somewhere else.

What cannot be told where to connect, nor be called off, such as FFmpeg's network protocols, connects here: where the
connection leads is decided beforehand, and closing it ends whoever waits for it.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from bridge.net.race import race

# As the packets of a stream come: a larger read would only wait in another buffer.
_PIECE_BYTES = 65_536
LOOPBACK = "127.0.0.1"


class Forbidden(ConnectionError):
    """The far end has said what it must not."""


class Relay:
    """An asynchronous context manager: connected, and waiting for one connection to `port`, once it is entered.

    forbidden    lower case; a far end that says it, in any case and with carriage returns anywhere in it, is cut off
                 before it is passed on.  None: it may say anything.
    idle_s       a far end that says nothing for so long is cut off.
    error        why the connection was ended by the far end or because of it; None: it was not.
    """

    def __init__(
        self, addresses: Sequence[str], port: int, *, connect_s: float, idle_s: float, forbidden: bytes | None = None
    ) -> None:
        self.port = 0
        self.error: OSError | None = None
        self._addresses = addresses
        self._far_port = port
        self._connect_s = connect_s
        self._idle_s = idle_s
        self._forbidden = forbidden
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._carrying: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Raises OSError, TimeoutError among them."""
        async with asyncio.timeout(self._connect_s):
            self._far_reader, self._far_writer = await self._connect()
        self._writers.append(self._far_writer)
        try:
            self._server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        except OSError:
            self.close()
            raise
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self._carrying is not None:
            self._carrying.cancel()
            await asyncio.wait((self._carrying,))

    def close(self) -> None:
        """Whoever has connected, or is about to, is at the end."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        *others, last = self._addresses
        for address in others:
            with suppress(OSError):
                return await asyncio.open_connection(address, self._far_port)
        return await asyncio.open_connection(last, self._far_port)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._server is not None
        if self._carrying is not None:
            writer.close()  # somebody else of this machine
            return
        self._writers.append(writer)
        self._server.close()
        self._carrying = asyncio.create_task(self._carry(reader, writer), name=f"relay {self.port}")

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await race(self._carry_out(reader), self._carry_in(writer))
        except OSError as error:
            self.error = self.error or error
        finally:
            self.close()

    async def _carry_out(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(_PIECE_BYTES):
            self._far_writer.write(data)
            async with asyncio.timeout(self._idle_s):
                await self._far_writer.drain()

    async def _carry_in(self, writer: asyncio.StreamWriter) -> None:
        said = b""
        while True:
            async with asyncio.timeout(self._idle_s):
                data = await self._far_reader.read(_PIECE_BYTES)
            if not data:
                raise ConnectionResetError("closed by the far end")
            if self._forbidden is not None:
                said = (said + data.lower()).replace(b"\r", b"")
                if self._forbidden in said:
                    raise Forbidden("the far end says what it must not")
                said = said[1 - len(self._forbidden) :]
            writer.write(data)
            await writer.drain()
