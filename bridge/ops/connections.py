"""Connections to the HTTP server: how many there may be, and how long one may keep us waiting.

uvicorn waits for ever for the first request of a connection, and its only limit answers 503 to everybody, also to those
who ask whether we are alive. Each connection is a file, and sessions need files.
"""

import asyncio
import socket

from uvicorn.protocols.http.h11_impl import H11Protocol

# Half of the 1024 files that a process may open where nobody has raised that.
MOST_CONNECTIONS = 512
# From the connection, or the answer before, to the end of a request's head. Browsers keep some open, and come back.
HEAD_TIMEOUT_S = 10.0
# Who takes nothing of what waits for so long is gone, or follows events without reading them: a place that others lack.
# Two pings of an event stream. A network that is away for longer is a loss, and a follower resumes where it was.
UNREAD_TIMEOUT_S = 30.0


class BoundedConnection(H11Protocol):
    """A connection of which the one that has been idle longest makes room for a new one where there are too many.

    So whoever holds connections open without a request keeps nobody out.
    """

    _timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Of one that has vanished the kernel hears nothing: it gives up then, and not after a quarter of an hour.
        connected: socket.socket = transport.get_extra_info("socket")
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * UNREAD_TIMEOUT_S))
        self._wait_for_request()
        if len(self.connections) > MOST_CONNECTIONS:
            idle = [c for c in self.connections if isinstance(c, BoundedConnection) and c.is_idle]
            # This one is idle too.
            min(idle, key=BoundedConnection._waits_until_s).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_waiting_for_reader()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.is_idle:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.is_idle:  # else the next request had come already
            self._wait_for_request()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_timer = self.loop.call_later(UNREAD_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_waiting_for_reader()

    def handle_websocket_upgrade(self, event) -> None:  # type: ignore[no-untyped-def]
        self._stop_waiting()
        self._stop_waiting_for_reader()
        super().handle_websocket_upgrade(event)

    def _wait_for_request(self) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_waiting_for_reader(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _waits_until_s(self) -> float:
        return self._timer.when() if self._timer is not None else float("inf")
