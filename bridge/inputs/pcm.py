"""`pcm:` raw samples from standard input, a FIFO or a file."""

import asyncio
import os
import stat
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path

from bridge.errors import SourceLost, SourceRejected
from bridge.media.audio import AudioBlock
from bridge.media.clock import ticks_to_ns
from bridge.protocols.pcm import FrameCutter
from bridge.protocols.pcm_url import PcmFormat
from bridge.worker import Worker

# A pipe's buffer on Linux, 64 KiB, holds no more: one read empties it.
_READ_BYTES = 65_536


class PcmSource:
    """Plays raw samples.

    path     of a FIFO, whose writers come and go and which never ends, or of a file; None: standard input, to its end.
    is_live  writers keep the pace of a clock: what cannot be sent in time is dropped. Otherwise they have to wait.
    """

    def __init__(self, name: str, path: Path | None, format: PcmFormat, *, is_live: bool = False) -> None:
        self.name = name
        self.is_live = is_live
        self._path = path
        self._format = format

    async def run(self, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        """Deliver. Raises SourceRejected for what is no FIFO or file, SourceLost when reading fails."""
        n_samples = 0
        try:
            async with aclosing(self._streams()) as streams:
                async for stream in streams:
                    # A writer that leaves in the middle of a frame must not shift those of the next one.
                    cutter = FrameCutter(self._format)
                    async with aclosing(stream) as pieces:
                        async for piece in pieces:
                            samples = cutter.push(piece)
                            pts_ns = ticks_to_ns(n_samples, self._format.rate_hz)
                            await emit(AudioBlock(samples, self._format.rate_hz, pts_ns))
                            n_samples += len(samples)
        except OSError as error:
            raise SourceLost(f"{self._label} cannot be read ({error.strerror})") from None

    async def _streams(self) -> AsyncGenerator[AsyncGenerator[bytes, None], None]:
        """What one writer after the other writes."""
        if self._path is None:
            standard_input = sys.stdin.fileno()
            yield _read_pipe(standard_input) if _can_be_awaited(standard_input) else _read_file(standard_input)
            return
        try:
            mode = self._path.stat().st_mode
            if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
                raise SourceRejected(f"{self._label} is neither a FIFO nor a file")
            # Without O_NONBLOCK it would wait here for the first writer, and nothing could call it off.
            reading = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            advice = "; mkfifo makes a FIFO" if isinstance(error, FileNotFoundError) else ""
            raise SourceRejected(f"{self._label} cannot be opened ({error.strerror}){advice}") from None
        try:
            if stat.S_ISREG(mode):
                yield _read_file(reading)
                return
            while True:
                with _kept_open(self._path):
                    await _readable(reading)
                yield _read_pipe(reading)
        finally:
            os.close(reading)

    @property
    def _label(self) -> str:
        return f"input {self.name}: {self._path or 'standard input'}"


async def _read_pipe(descriptor: int) -> AsyncGenerator[bytes, None]:
    """What comes until the last writer has left."""
    while True:
        await _readable(descriptor)
        with suppress(BlockingIOError):
            if not (piece := os.read(descriptor, _READ_BYTES)):
                return
            yield piece


async def _read_file(descriptor: int) -> AsyncGenerator[bytes, None]:
    """A file is always readable, to the kernel; its disk may take its time all the same."""
    async with Worker("read pcm") as worker:
        while piece := await worker.call(os.read, descriptor, _READ_BYTES):
            yield piece


def _can_be_awaited(descriptor: int) -> bool:
    """Not so files, and devices such as /dev/null: epoll takes neither."""
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)


async def _readable(descriptor: int) -> None:
    """Wait until there is something to read, or the last writer has left."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)


@contextmanager
def _kept_open(fifo: Path) -> Iterator[None]:
    """While this end for writing is open too, a FIFO without a writer is quiet, and not at its end again and again."""
    writing = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield
    finally:
        os.close(writing)
