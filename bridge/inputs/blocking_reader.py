"""A body that the event loop fetches, as the file that FFmpeg reads in its thread."""

import asyncio
import concurrent.futures

from bridge.net.http_body import HttpBody


class BlockingReader:
    """What PyAV takes for a file; made on the event loop."""

    def __init__(self, body: HttpBody) -> None:
        self._body = body
        self._loop = asyncio.get_running_loop()
        self._is_interrupted = False
        self._pending: concurrent.futures.Future[bytes] | None = None

    def interrupt(self) -> None:
        """On the event loop: it is at its end for whoever waits for it, and from now on."""
        self._is_interrupted = True
        if self._pending is not None:
            self._pending.cancel()

    # ------------------------------------------------------------------------------------------ in the thread

    def read(self, most_bytes: int) -> bytes:
        """Raises what the body raises."""
        self._pending = asyncio.run_coroutine_threadsafe(self._body.read(most_bytes), self._loop)
        if self._is_interrupted:
            self._pending.cancel()
        try:
            return self._pending.result()
        except concurrent.futures.CancelledError:
            return b""

    def seekable(self) -> bool:
        return self._body.is_seekable

    def seek(self, offset: int, whence: int = 0) -> int:
        """As in `io`: from the start (0), from where it is (1), and from the end (2)."""
        self._body.seek(offset + (0, self._body.position, self._body.size_bytes)[whence])
        return self._body.position

    def tell(self) -> int:
        return self._body.position
