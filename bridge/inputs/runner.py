"""Keeps one input giving sound: tries again by error type."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog

from bridge.errors import RemoteProtocolError, SourceError, SourceRejected
from bridge.media.audio import AudioBlock
from bridge.media.clock import NS_PER_S
from bridge.net.backoff import Backoff
from bridge.ports import AudioSource

# A listener notices a second of silence, so the first retry comes almost at once; 15 s is the longest that a station
# which is back goes unheard.
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 15.0
# A station that accepts, sends what it has buffered and drops gives some seconds of sound each time: only more than
# that is progress.
PROVEN_S = 10.0


class RetryingSource:
    """Runs a source until it ends, the operator must act, or it is cancelled.

    A source that is lost is tried again with backoff, which starts anew after `PROVEN_S` of sound. One that is refused
    ends it as long as there was no sound at all; later its far end is being changed, and is tried again too.

    Source time goes on over a loss, at the pace of the clock.
    """

    def __init__(
        self,
        source: AudioSource,
        *,
        backoff: Backoff | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.name = source.name
        self.is_live = source.is_live
        self.source = source
        self._backoff = backoff or Backoff(FIRST_RETRY_S, LONGEST_RETRY_S, random.Random())
        self._sleep = sleep
        self._now_ns = now_ns
        self._log = structlog.get_logger().bind(input=source.name)

    async def run(self, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        """Deliver. Raises SourceRejected."""
        attempt = _Attempt(emit, 0)
        began_ns, has_sounded = self._now_ns(), False
        while True:
            try:
                await self.source.run(attempt.take)
                return
            except (SourceError, RemoteProtocolError) as error:
                has_sounded = has_sounded or attempt.sounded_s > 0
                if not (error.retryable or (has_sounded and isinstance(error, SourceRejected))):
                    raise
                if attempt.sounded_s >= PROVEN_S:
                    self._backoff.reset()
                retry_in_s = self._backoff.next_delay_s()
                self._log.warning("input_lost", error=str(error), retry_in_s=round(retry_in_s, 1))
            await self._sleep(retry_in_s)
            attempt = _Attempt(emit, max(attempt.end_ns, self._now_ns() - began_ns))


class _Attempt:
    """Passes blocks on, their time moved to where this attempt begins."""

    def __init__(self, emit: Callable[[AudioBlock], Awaitable[None]], start_ns: int) -> None:
        self.end_ns = self._start_ns = start_ns
        self.sounded_s = 0.0
        self._emit = emit

    async def take(self, block: AudioBlock) -> None:
        moved = replace(block, pts_ns=block.pts_ns + self._start_ns)
        # What cannot be converted raises here, and was no sound.
        await self._emit(moved)
        self.end_ns = moved.pts_ns + round(block.duration_s * NS_PER_S)
        self.sounded_s += block.duration_s
