"""The thread for what blocks."""

import asyncio
import threading

import pytest

from bridge.worker import SharedWorker, Worker


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


async def test_those_who_share_a_worker_share_its_thread_until_the_last_one_leaves() -> None:
    shared = SharedWorker("test that is shared")
    async with shared as first:
        async with shared as second:
            ours = {await worker.call(threading.get_ident) for worker in (first, second)}
        ours.add(await first.call(threading.get_ident))
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "test that is shared")
    await asyncio.to_thread(thread.join, 10)
    assert ours == {thread.ident}
    assert not thread.is_alive()

    async with shared as third:
        assert await third.call(threading.get_ident) != threading.get_ident()


def test_a_call_that_ends_after_its_event_loop_leaves_the_thread_alive() -> None:
    go, ended = threading.Event(), threading.Event()

    async def begin() -> None:
        async with Worker("test that outlives") as worker:
            calls = [asyncio.create_task(worker.call(go.wait, 10)), asyncio.create_task(worker.call(ended.set))]
            await asyncio.wait(calls, timeout=0)

    asyncio.run(begin())
    go.set()
    assert ended.wait(10)
