"""The queue between a live session and one reader: it would rather forget than wait."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Literal

from bridge.media.access_unit import AccessUnit
from bridge.media.clock import NS_PER_S

DropReason = Literal["lagging", "no_keyframe", "offline", "overload", "undecodable"]


class LiveQueue:
    """Access units of one session for one reader, bounded by media time.

    A reader that lags more than `max_s` loses every picture before the newest keyframe, and where that frees nothing,
    all pictures until the next one: old pictures are worthless to a live viewer, half a GOP is worthless to a decoder.
    Sound older than the pictures that stay goes with them; sound that alone is too old goes alone. Tracks may be
    skewed, so what waits spans `max_s` plus the skew. `put` never waits; only `get` does, for one reader.

    express  where it is set, a unit before which nothing waits goes there instead, within `put`: a reader's turn on
             the event loop comes after all that other sessions have to do. It says whether it has taken the unit; an
             error of its is the reader's, which `get` raises.

    `dropped` counts what was forgotten: lagging, the reader was too slow · no_keyframe, nothing could decode it ·
    offline, nobody was there to read. Who encodes for the reader counts here too what never came so far: overload, the
    machine was too slow · undecodable, there was nothing to encode.
    """

    def __init__(self, max_s: float) -> None:
        self._max_ns = round(max_s * NS_PER_S)
        self._units: deque[AccessUnit] = deque()
        self._changed = asyncio.Event()
        self._is_offline = False
        self._failure: asyncio.Future[None] | None = None
        self.express: Callable[[AccessUnit], bool] | None = None
        self.is_awaiting_keyframe = True
        self.is_finished = False
        self.dropped: Counter[DropReason] = Counter()

    def put(self, unit: AccessUnit) -> None:
        """Append a unit; a picture that no decoder could show, for want of its keyframe, is dropped."""
        if self._is_offline:
            self.dropped["offline"] += 1
            return
        if unit.codec.kind == "video":
            if self.is_awaiting_keyframe and not unit.is_keyframe:
                self.dropped["no_keyframe"] += 1
                return
            self.is_awaiting_keyframe = False
        if self.express is not None and not self._units and self._takes_at_once(self.express, unit):
            return
        self._units.append(unit)
        oldest_allowed_ns = unit.pts_ns - self._max_ns
        while self._units[0].pts_ns < oldest_allowed_ns:
            if self._units[0].codec.kind == "video":
                self._forget(oldest_allowed_ns)
                break
            # Alone, as most often where a reader waits for nothing but sound: no need to look at all the others.
            self._units.popleft()
            self.dropped["lagging"] += 1
        self._changed.set()

    def finish(self) -> None:
        """Let the reader take what is left and then stop."""
        self.is_finished = True
        self._changed.set()

    def reopen(self) -> None:
        """Take back `finish`, for a new reader after the one that took what was left."""
        self.is_finished = False

    def suspend(self) -> None:
        """Forget what waits and all that comes, until `restart`: there is no reader."""
        self.dropped["offline"] += len(self._units)
        self._units.clear()
        self._is_offline = True

    def restart(self) -> None:
        """Forget what waits, so that a new reader starts at the next keyframe."""
        self.suspend()
        self._is_offline = False
        self.is_awaiting_keyframe = True

    async def get(self) -> AccessUnit | None:
        """The oldest unit; None once finished and empty. Raises what `express` has raised."""
        while not self._units or self._failure is not None:
            if self._failure is not None:
                failure, self._failure = self._failure, None
                failure.result()
            if self.is_finished:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._units.popleft()

    def get_waiting(self, n_most: int) -> list[AccessUnit]:
        """What can be had at once, oldest first, `n_most` units at most."""
        return [self._units.popleft() for _ in range(min(n_most, len(self._units)))]

    def _takes_at_once(self, express: Callable[[AccessUnit], bool], unit: AccessUnit) -> bool:
        try:
            return express(unit)
        except Exception as failure:
            # Whoever puts is the session, which a bug in one of its readers is not to touch.
            self._failure = asyncio.get_running_loop().create_future()
            self._failure.set_exception(failure)
            self.express = None
            self._changed.set()
            return True

    @property
    def lag_s(self) -> float:
        """Media time that waits to be read."""
        if not self._units:
            return 0.0
        return max(0, self._units[-1].pts_ns - self._units[0].pts_ns) / NS_PER_S

    def _forget(self, oldest_allowed_ns: int) -> None:
        """The oldest unit is a picture that is too old: it goes, with all that is of no use without it."""
        pictures = [unit for unit in self._units if unit.codec.kind == "video"]
        if keyframes := [unit for unit in pictures[1:] if unit.is_keyframe]:
            kept = [unit for unit in self._units if unit.pts_ns >= keyframes[-1].pts_ns]
        else:
            kept = [unit for unit in self._units if unit.codec.kind == "audio" and unit.pts_ns >= oldest_allowed_ns]
            self.is_awaiting_keyframe = True
        self.dropped["lagging"] += len(self._units) - len(kept)
        self._units = deque(kept)
