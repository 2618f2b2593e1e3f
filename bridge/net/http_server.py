"""An ASGI application on a socket and on the event loop of everything else."""

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import uvicorn

# A request takes milliseconds; who is not served by then holds up the end of the process.
CLOSE_TIMEOUT_S = 2


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are the process's own."""
        yield


async def serve_app(app: Any, listening: socket.socket, **settings: Any) -> None:
    """Serve until cancelled; requests under way get `CLOSE_TIMEOUT_S` to finish. `settings`: more of uvicorn's own."""
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=CLOSE_TIMEOUT_S,
            **settings,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listening]), name="uvicorn")
    try:
        await asyncio.shield(serving)
    finally:
        # Cancelled, uvicorn would leave its connections open; asked, it closes them.
        server.should_exit = True
        await asyncio.wait({serving}, timeout=CLOSE_TIMEOUT_S + 1)
        serving.cancel()
