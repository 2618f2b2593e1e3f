"""A thread for what blocks: libav's codecs, and files."""

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Worker:
    """Runs one function at a time in a thread of its own, so that only this thread touches what they work on.

    Its owner awaits each call before the next one, which bounds the inbox to one call and the closing one. Leaving
    the `async with` block ends the thread after what it is doing; nobody waits for that, and it is a daemon thread,
    because a disk that never answers must not keep the process from ending.
    """

    def __init__(self, name: str) -> None:
        self._inbox: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
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
        job: Future[T] = Future()
        job.set_running_or_notify_cancel()
        context = contextvars.copy_context()
        self._inbox.put((job, lambda: context.run(function, *args, **kwargs)))
        return await asyncio.wrap_future(job)

    def _serve(self) -> None:
        while (item := self._inbox.get()) is not None:
            job, function = item
            try:
                result = function()
            except BaseException as error:
                # The error belongs to whoever awaits the call.
                job.set_exception(error)
            else:
                job.set_result(result)
