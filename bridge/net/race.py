"""Things that are waited for: several at the same time, of which the first to end decides, or one within a deadline."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def race(*coroutines: Coroutine[Any, Any, T]) -> T:
    """Run until the first of them ends; the others are cancelled, and how they end then tells nobody anything.

    Raises what one of those that have ended raised, else gives the result of the one that is named first.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    results = [task.result() for task in tasks if task in done]
    return results[0]


async def in_time(event: asyncio.Event, timeout_s: float) -> bool:
    """Whether an event comes within so many seconds."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
