"""The thread for what blocks."""

import asyncio
import threading

import pytest

from bridge.worker import Worker


async def test_calls_run_in_one_other_thread_in_turn() -> None:
    async with Worker("test") as worker:
        threads = {await worker.call(threading.get_ident) for _ in range(3)}

    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_an_error_comes_back_to_the_caller_and_the_thread_goes_on() -> None:
    async with Worker("test") as worker:
        with pytest.raises(ValueError, match="invalid literal"):
            await worker.call(int, "x")

        assert await worker.call(int, "7") == 7


async def test_a_cancelled_call_still_runs_and_before_the_next_one() -> None:
    order: list[str] = []
    go = threading.Event()

    def wait() -> None:
        go.wait(10)
        order.append("first")

    async with Worker("test") as worker:
        first = asyncio.create_task(worker.call(wait))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go.set()
        await worker.call(order.append, "second")

    assert order == ["first", "second"]


async def test_leaving_ends_the_thread() -> None:
    async with Worker("test that ends"):
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "test that ends")

    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()
