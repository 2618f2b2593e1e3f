"""Replaces a session of the avatar service before its limit by one that is ready: make before break."""

import asyncio
import contextlib
import math
import random
from collections.abc import Awaitable, Callable

import structlog

from bridge.connection import Connection, Served
from bridge.errors import BridgeError, ProviderUnavailable
from bridge.net.backoff import Backoff
from bridge.programme import Programme

# How long before its limit a session is renewed: the next one connects and draws within 2 s, or fails and is tried
# again; then a pause of speech is waited for; the rest is for the change-over, pause or not.
OPEN_AHEAD_S, PAUSE_AHEAD_S, CHANGE_AHEAD_S = 20.0, 10.0, 3.0
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 5.0
# A third of the shortest pause that counts.
LOOK_FOR_PAUSE_S = 0.08
# What a service says that has no room for a second session beside the first.
NO_ROOM = ("connection_limit_exceeded", "gpu_full")

log = structlog.get_logger()


class Renewal:
    """Opens a second session, puts it on air at a keyframe in a pause of speech, and gives it to whoever closes the
    first one.

    Where the service has no room for a second one that is remembered, and the first one has to be closed before. While
    no session may begin, the first one lasts as long as its service lets it.

    A session's limit is the earlier of the operator's and the service's own, which may be told late, and be changed.

    limit_s    how long a session may last by what the operator says; None: for ever.
    begin      a new connection and the task that serves it; may_begin: whether there is a budget for one.
    speak_to   makes a connection the one that is spoken to.  is_pausing: whether neither side speaks.
    seek_pause lets the next pause be one of both sides.

    has_successor  a second session is ready.  hurry: it is to take over at once, for the first one has ended.
    """

    def __init__(
        self,
        limit_s: float | None,
        *,
        begin: Callable[[], Served],
        may_begin: Callable[[], bool],
        speak_to: Callable[[Connection], Awaitable[None]],
        is_pausing: Callable[[], bool],
        seek_pause: Callable[[], None],
        programme: Programme,
    ) -> None:
        self.has_successor = False
        self.hurry = asyncio.Event()
        self._limit_s = math.inf if limit_s is None else limit_s
        self._begin = begin
        self._may_begin = may_begin
        self._speak_to = speak_to
        self._is_pausing = is_pausing
        self._seek_pause = seek_pause
        self._programme = programme
        self._may_overlap = True

    async def successor(self, connection: Connection) -> Served:
        """Wait until it is time, then give the session that has taken over, on air and spoken to.

        Raises ProviderUnavailable, with the reason renewal, where the present session has to be closed first.
        """
        self.has_successor = False
        self.hurry.clear()
        await connection.is_ready.wait()
        loop = asyncio.get_running_loop()

        def ends_at_s() -> float:
            # Counted from the first sign that there is one: it may have been ready for long before it went on air.
            began_s = loop.time() if connection.accepted_s is None else connection.accepted_s
            return min(began_s + self._limit_s, connection.ends_at_s)

        await _until(lambda: ends_at_s() - OPEN_AHEAD_S, connection.limit_changed)
        while self._may_overlap and loop.time() < ends_at_s() - PAUSE_AHEAD_S:
            opened = await self._open(ends_at_s() - PAUSE_AHEAD_S)
            if opened is not None and await self._take_over(*opened, lambda: ends_at_s() - CHANGE_AHEAD_S):
                return opened[0]
        if not self._may_begin():
            await asyncio.sleep(math.inf)
        await self._pause(None, lambda: ends_at_s() - CHANGE_AHEAD_S)
        raise ProviderUnavailable("the session is about to reach its limit", reason="renewal")

    async def _take_over(self, served: Served, feeding: asyncio.Task[None], until_s: Callable[[], float]) -> bool:
        """Put the second session on air in a pause; False: it has ended before, and is closed."""
        self.has_successor = True
        is_on_air = False
        try:
            await self._pause(served, until_s)
            if served.serving.done():
                log.warning("avatar_successor_failed", reason=_failure(served.serving))
                return False
            await _end(feeding)
            await self._speak_to(served.connection)
            # The first one stays on air until the second one has a keyframe.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHANGE_AHEAD_S):
                    await self._programme.follow(served.connection.number)
            is_on_air = True
        finally:
            self.has_successor = False
            if not is_on_air:
                await _end(feeding)
                await served.close()
        log.info("avatar_renewed", connection=served.connection.number)
        return True

    async def _open(self, until_s: float) -> tuple[Served, asyncio.Task[None]] | None:
        """A second session that shows pictures, and the task that feeds it silence; None if there is none in time."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S, random.Random())
        while loop.time() < until_s and self._may_begin():
            served = self._begin()
            feeding = asyncio.create_task(served.connection.feed_silence(), name="avatar silence")
            showing = asyncio.create_task(served.connection.is_live.wait(), name="avatar showing")
            is_open = False
            try:
                await asyncio.wait(
                    (served.serving, showing), timeout=until_s - loop.time(), return_when=asyncio.FIRST_COMPLETED
                )
                is_open = showing.done() and not served.serving.done()
                if is_open:
                    return served, feeding
            finally:
                showing.cancel()
                if not is_open:
                    await _end(feeding)
                    await served.close()
            reason = _failure(served.serving)
            log.warning("avatar_successor_failed", reason=reason)
            if reason in NO_ROOM:
                self._may_overlap = False
                return None
            await asyncio.sleep(backoff.next_delay_s())
        return None

    async def _pause(self, served: Served | None, until_s: Callable[[], float]) -> None:
        """Wait for a pause of speech, but no longer than that, than the second session lasts, or than is urgent."""
        loop = asyncio.get_running_loop()
        self._seek_pause()
        # Pauses are counted in samples of speech by whoever paces them; nobody tells when one begins.
        while loop.time() < until_s() and not self._is_pausing() and not self.hurry.is_set():
            if served is not None and served.serving.done():
                return
            await asyncio.sleep(LOOK_FOR_PAUSE_S)


async def _until(at_s: Callable[[], float], changed: asyncio.Event) -> None:
    """Wait until a time that may change; `changed` says that it has."""
    loop = asyncio.get_running_loop()
    while (due_s := at_s()) > loop.time():
        changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(due_s if math.isfinite(due_s) else None):
                await changed.wait()


async def _end(feeding: asyncio.Task[None]) -> None:
    feeding.cancel()
    await asyncio.wait((feeding,))
    if not feeding.cancelled() and (error := feeding.exception()) is not None:
        log.debug("avatar_silence_ended", error=str(error))


def _failure(serving: asyncio.Task[None]) -> str:
    """Why a connection has ended, for people and metrics; a bug is raised."""
    if serving.cancelled():
        return "late"
    error = serving.exception()
    if isinstance(error, BridgeError):
        return error.reason or type(error).__name__
    if error is not None:
        raise error
    return "ended"
