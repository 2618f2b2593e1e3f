"""Programs that work for us: what they have said last, and their end."""

import asyncio
from contextlib import suppress

CLOSE_TIMEOUT_S = 2.0
_READ_BYTES = 65_536
_MOST_WORDS_BYTES = 1_000


async def last_words(errors: asyncio.StreamReader, n_lines: int = 2) -> str:
    """What a program has written last before its end, so many lines as one."""
    words = b""
    while piece := await errors.read(_MOST_WORDS_BYTES):
        words = (words + piece)[-_MOST_WORDS_BYTES:]
    lines = [line.strip() for line in words.decode(errors="replace").splitlines()]
    return "; ".join(line for line in lines[-n_lines:] if line.isprintable() and line)


async def end(process: asyncio.subprocess.Process) -> None:
    """Ask a program to end, and make it end if it does not within `CLOSE_TIMEOUT_S`; wait as long again at most."""
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await _wait(process)
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        # One that waits for a disk is not ended even so, and others of its own may keep its output open.
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await _wait(process)


async def _wait(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    # What it has said and nobody read: Python 3.11 and 3.12 wait for its end too (python/cpython#119710).
    while await process.stdout.read(_READ_BYTES):
        pass
    await process.wait()
