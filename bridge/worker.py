"""A thread for what blocks: libav's codecs, and files."""

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Worker:
    """Runs one function at a time in a thread of its own, so that only this thread touches what they work on.

    Each owner awaits a call before the next one, which bounds the inbox to one call of each and the closing one.
    Leaving the `async with` block ends the thread after what it is doing; nobody waits for that, and it is a daemon
    thread, because a disk that never answers must not keep the process from ending.
    """

    def __init__(self, name: str) -> None:
        self._inbox: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    async def __aenter__(self) -> "Worker":
        self._thread.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._inbox.put(None)

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` in the thread; its result or error comes back. Cancelled: it is run all the same.

        It sees the caller's context variables, so that what it logs names its session.
        """
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()
        self._inbox.put(_Call(loop, outcome, partial(contextvars.copy_context().run, function, *args, **kwargs)))
        return await outcome

    def _serve(self) -> None:
        while (call := self._inbox.get()) is not None:
            try:
                result = call.function()
            except BaseException as error:
                # The error belongs to whoever awaits the call.
                call.set_exception(error)
            else:
                call.set_result(result)
            del call  # what it holds is not the thread's to keep until the next one


class _Call(NamedTuple):
    """A call under way. asyncio's own bridge between threads and futures costs as much again as waking the thread."""

    loop: asyncio.AbstractEventLoop
    outcome: asyncio.Future[Any]
    function: Callable[[], Any]

    def set_result(self, result: object) -> None:
        self._settle(self.outcome.set_result, result)

    def set_exception(self, error: BaseException) -> None:
        self._settle(self.outcome.set_exception, error)

    def _settle(self, settle: Callable[[Any], None], value: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(self._settle_if_awaited, settle, value)

    def _settle_if_awaited(self, settle: Callable[[Any], None], value: object) -> None:
        if not self.outcome.done():
            settle(value)


class SharedWorker:
    """One thread for the like work of all sessions, a `Worker` as long as anybody is in its `async with`.

    For work that never waits: whoever blocks blocks all. Fewer threads are fewer to wake, and each costs memory: its
    own pools, in which freed blocks stay.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._n_users = 0
        self._worker: Worker | None = None

    async def __aenter__(self) -> Worker:
        if self._worker is None:
            self._worker = await Worker(self._name).__aenter__()
        self._n_users += 1
        return self._worker

    async def __aexit__(self, *exc: object) -> None:
        self._n_users -= 1
        if not self._n_users and self._worker is not None:
            worker, self._worker = self._worker, None
            await worker.__aexit__(*exc)
