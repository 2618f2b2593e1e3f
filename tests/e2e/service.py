"""The avatar service of a test about continuity: its pictures are stamped, and it can be killed and come back."""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.e2e.processes import COMMAND, LICENSE, SMALL, Program

_SILENT = logging.Logger("relay", level=logging.CRITICAL + 1)


class StampedAvatar:
    """`avatar-bridge avatar` on one port, killed and started as often as a test likes; alive inside its `with`.

    Each picture has a stamp, and one a second is a flash with a beep.
    """

    def __init__(self, directory: Path, port: int, *options: str) -> None:
        self.url = f"ws://127.0.0.1:{port}/wss/v2/realtime-chat"
        license_file = directory / "stamped.license"
        license_file.write_text(LICENSE)
        listen = ("--listen", f"127.0.0.1:{port}", "--license-file", license_file)
        self._command = (*COMMAND, "avatar", *listen, *SMALL, "--timecode", "--flash", *options)
        self._running = contextlib.AsyncExitStack()
        self._program: Program | None = None

    async def __aenter__(self) -> "StampedAvatar":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._running.aclose()

    async def start(self, *options: str) -> int:
        """`time.monotonic_ns` at which it answers; options for this time only."""
        self._program = await self._running.enter_async_context(Program(*self._command, *options))
        await self._program.said()
        return time.monotonic_ns()

    async def kill(self) -> int:
        """End it at once; `time.monotonic_ns` before that."""
        assert self._program is not None
        killed_ns = time.monotonic_ns()
        self._program.send(signal.SIGKILL)
        await self._program.exit_status()
        await self._running.aclose()
        return killed_ns


class FaultRelay:
    """Stands before an avatar service and asks it to misbehave: connections get `fault` parameters of their own.

    faults  what to ask for on the connection that is being opened, as the local avatar reads it.
    on_close  is told when one has ended.
    n_open  how many connections there are, that one included.
    """

    def __init__(
        self, target: str, faults: Callable[[], Iterable[str]], on_close: Callable[[], None] = lambda: None
    ) -> None:
        self._target = target
        self._faults = faults
        self._on_close = on_close
        self.n_open = 0

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Its URL."""
        async with serve(self._relay, "127.0.0.1", 0, compression=None, logger=_SILENT) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            yield f"ws://127.0.0.1:{port}{urlsplit(self._target).path}"

    async def _relay(self, client: ServerConnection) -> None:
        self.n_open += 1
        try:
            await self._serve(client)
        finally:
            self.n_open -= 1
            self._on_close()

    async def _serve(self, client: ServerConnection) -> None:
        assert client.request is not None
        query = urlsplit(client.request.path).query
        asked = "".join(f"&fault={fault}" for fault in self._faults())
        try:
            async with connect(f"{self._target}?{query}{asked}", compression=None, logger=_SILENT) as service:
                await self._carry(client, service)
        except OSError:
            client.transport.abort()  # it is not there

    async def _carry(self, client: ServerConnection, service: ClientConnection) -> None:
        upwards = asyncio.create_task(self._copy(client, service))
        try:
            async for message in service:
                await client.send(message)
            await client.close(service.close_code or 1000, service.close_reason or "")
        except ConnectionClosed:
            client.transport.abort()  # as the one behind it
        finally:
            upwards.cancel()
            await asyncio.wait({upwards})

    async def _copy(self, source: ServerConnection, target: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in source:
                await target.send(message)
            await target.close()
