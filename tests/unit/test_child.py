"""The end of programs that work for us."""

import asyncio
import contextlib
import os
import signal

import pytest

from bridge import child


async def program(script: str) -> asyncio.subprocess.Process:
    """A shell's; it has said one line."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("sh", "-c", script, stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    process.first_line = await process.stdout.readline()  # type: ignore[attr-defined]
    return process


async def test_a_program_that_does_not_end_when_it_is_asked_is_made_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "CLOSE_TIMEOUT_S", 0.2)
    process = await program("trap '' TERM; echo ready; while :; do read _ < /dev/zero; done")
    async with asyncio.timeout(5):
        await child.end(process)
    assert process.returncode == -signal.SIGKILL
    await process.communicate()


async def test_nobody_waits_for_a_program_whose_end_cannot_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "CLOSE_TIMEOUT_S", 0.2)
    # One of its own keeps its output open.
    process = await program("sleep 60 & echo $!; wait")
    try:
        async with asyncio.timeout(5):
            await child.end(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process.first_line), signal.SIGKILL)  # type: ignore[attr-defined]
    await process.communicate()


async def test_the_last_words_are_those_of_the_last_lines_that_can_be_printed() -> None:
    process = await program("echo; printf 'first\\nsecond\\n\\033[1m\\nthird\\n' >&2")
    assert process.stderr is not None
    assert await child.last_words(process.stderr, 3) == "second; third"
    await child.end(process)
