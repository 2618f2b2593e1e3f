"""The queue between a live session and one output: it would rather forget than wait."""

import asyncio
from collections import deque

from bridge.media.access_unit import AccessUnit
from bridge.media.clock import NS_PER_S


class LiveQueue:
    """Access units of one session for one reader, bounded by media time.

    A reader that lags more than `max_s` loses everything before the newest keyframe, and until one is there it
    loses pictures: old ones are worthless to a live viewer, half a GOP is worthless to a decoder. Sound is dropped
    with the pictures it belongs to. The first unit read after a drop has `is_discontinuity`-free content by
    construction: it is a keyframe or sound. `dropped_units` counts all that was forgotten.

    `put` never waits and is called on the event loop; `get` waits for the next unit.
    """

    def __init__(self, max_s: float) -> None:
        self._max_ns = round(max_s * NS_PER_S)
        self._units: deque[AccessUnit] = deque()
        self._awaiting_keyframe = True
        self._finished = False
        self._changed = asyncio.Event()
        self.dropped_units = 0

    def put(self, unit: AccessUnit) -> None:
        """Append a unit; pictures before the first keyframe are dropped, as no decoder could show them."""
        if unit.codec.kind == "video":
            if self._awaiting_keyframe and not unit.is_keyframe:
                self.dropped_units += 1
                return
            self._awaiting_keyframe = False
        self._units.append(unit)
        if unit.pts_ns - self._units[0].pts_ns > self._max_ns:
            self._forget()
        self._changed.set()

    def finish(self) -> None:
        """Let the reader take what is left and then stop."""
        self._finished = True
        self._changed.set()

    def restart(self) -> None:
        """Forget what waits, so that a new connection starts at the next keyframe."""
        self.dropped_units += len(self._units)
        self._units.clear()
        self._awaiting_keyframe = True

    async def get(self) -> AccessUnit | None:
        """The oldest unit; None once finished and empty."""
        while not self._units:
            if self._finished:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._units.popleft()

    @property
    def lag_s(self) -> float:
        """Media time that waits to be read."""
        if not self._units:
            return 0.0
        return max(0, self._units[-1].pts_ns - self._units[0].pts_ns) / NS_PER_S

    def _forget(self) -> None:
        keyframes = [u.pts_ns for u in self._units if u.codec.kind == "video" and u.is_keyframe]
        oldest_ns = self._units[0].pts_ns
        # A keyframe at the very front frees nothing: then pictures wait for the next one.
        fresh_ns = keyframes[-1] if keyframes and keyframes[-1] > oldest_ns else None
        if fresh_ns is None:
            newest_ns = self._units[-1].pts_ns
            kept = [u for u in self._units if u.codec.kind == "audio" and newest_ns - u.pts_ns <= self._max_ns // 2]
            self._awaiting_keyframe = True
        else:
            kept = [u for u in self._units if u.pts_ns >= fresh_ns]
        self.dropped_units += len(self._units) - len(kept)
        self._units = deque(kept)
