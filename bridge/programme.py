"""What viewers get: the splice on the event loop, its slate, and the outputs behind it."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from bridge.media.access_unit import AccessUnit, Kind
from bridge.media.clock import NS_PER_S
from bridge.media.picture_format import is_same_format
from bridge.media.slate_pictures import SlatePictures
from bridge.timeline.splice import OnAir, Splice
from bridge.worker import SharedWorker

# A sender that is asked again before it could answer would only make more keyframes: one in 200 ms is what browsers do.
ASK_EVERY_NS = NS_PER_S // 5
# The last group of pictures, of which the newest is the slate: more than this between keyframes is no live stream.
MAX_GROUP = 600

# Drawing takes 0.4 s of CPU at 720x1280. Of seven sessions that begin together, side by side, it held up the event loop
# by 34 ms (99th percentile); one after another, by 3 ms. And one thread keeps one session's worth of memory after it.
_drawing = SharedWorker("slate")

# Live pictures mostly come within a second, and tell what a slate has to look like; drawing one takes half a second of
# a core, which is better not spent while everything else begins.
UNLIKE_S, SETTLE_S = 5.0, 1.0
# Draws and encodes a slate like the live pictures of that keyframe, None before there were any, given the pictures
# since the last one. Blocks.
MakeSlate = Callable[[AccessUnit | None, Sequence[AccessUnit]], SlatePictures]


class Programme:
    """Takes the units of avatar connections and emits what goes on air, without end.

    emit             gets it, on the event loop, strictly increasing per track.
    request_keyframe asks the connection that is to be on air.  on_change: told when `on_air` has changed.
    slate_after_s    without pictures, until the slate is shown.  log: with the name of the session.
    wants_last       whether the slate is the last live picture, so that it is made when there is a last one.
    """

    def __init__(
        self,
        make_slate: MakeSlate,
        *,
        slate_after_s: float,
        wants_last: bool,
        origin_ns: int,
        emit: Callable[[AccessUnit], None],
        request_keyframe: Callable[[], None],
        on_change: Callable[[OnAir], None],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._log = log
        self._origin_ns = origin_ns
        self._request_keyframe = request_keyframe
        self._on_change = on_change
        self._splice = Splice(time.monotonic_ns() - origin_ns, round(slate_after_s * NS_PER_S), emit)
        self._on_air, self._cause = self._splice.state, self._splice.cause
        self._make_slate = make_slate
        self._keeps_group = wants_last
        self._followed: int | None = None  # the connection that is, or is to go, on air
        self._group: list[AccessUnit] = []
        self._of_group: int | None = None  # the connection that it is from
        self._like: AccessUnit | None = None  # the first keyframe of what went on air last or would have
        self._slate_wanted = asyncio.Event()
        self._switched = asyncio.Event()
        self._asked_ns = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_ns = 0

    @property
    def splice(self) -> Splice:
        """For those who count and show."""
        return self._splice

    @property
    def on_air_ns(self) -> Mapping[Kind, int]:
        """Session time of what went on air last, per track."""
        return self._splice.last_ns

    async def run(self) -> None:
        """Do what is due without live media, and draw slates; until cancelled."""
        try:
            self._act()
            async with _drawing as worker:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(UNLIKE_S):
                        await self._slate_wanted.wait()
                        if self._splice.state is OnAir.LIVE:
                            await asyncio.sleep(SETTLE_S)
                self._slate_wanted.set()
                while True:
                    await self._slate_wanted.wait()
                    self._slate_wanted.clear()
                    like = self._like
                    slate = await worker.call(self._make_slate, like, tuple(self._group))
                    if like is self._like:
                        self._show_from_now_on(slate)
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def put(self, connection: int, unit: AccessUnit) -> None:
        """A unit of an avatar connection has come."""
        if unit.codec.kind == "video":
            self._follow_live(connection, unit)
        was_switching = self._splice.is_switching
        self._splice.put(connection, unit, self._now_ns())
        self._after_switch(was_switching)

    def hear(self, connection: int) -> None:
        """An avatar connection has no pictures, and will have none: it is heard over the slate."""
        if connection == self._followed and self._splice.slate is None:
            self._slate_wanted.set()  # no live picture will tell what it has to look like
        was_switching = self._splice.is_switching
        self._splice.hear(connection, self._now_ns())
        self._after_switch(was_switching)

    def _after_switch(self, was_switching: bool) -> None:
        if was_switching and not self._splice.is_switching:
            self._switched.set()
        self._settle()

    async def follow(self, connection: int) -> None:
        """Put this connection on air at its next keyframe; returns then. Cancelled: it is put on air all the same."""
        self.put_on_air(connection)
        await self._switched.wait()

    def put_on_air(self, connection: int) -> None:
        self._switched.clear()
        self._followed = connection
        self._splice.follow(connection)
        self._asked_ns = 0
        self._settle()

    def show_slate(self, reason: str) -> None:
        """On air at once; an empty reason ends it, at the next live keyframe."""
        if reason and self._splice.slate is None:
            self._slate_wanted.set()
        elif reason and self._keeps_group:
            self._renew_last()
        self._splice.show_slate(reason, self._now_ns())
        self._settle()

    def mute(self, on: bool) -> None:
        self._splice.is_muted = on

    @property
    def wants_silence(self) -> bool:
        """Whether the operator does: muted, or on a slate of the operator's own."""
        return self._splice.is_muted or bool(self._splice.operator_reason)

    @property
    def slate_total_ns(self) -> Mapping[str, int]:
        """Time on slates by cause, the present one included."""
        return self._splice.slate_total_ns(self._now_ns())

    # ------------------------------------------------------------------------------------------ the slate

    def _follow_live(self, connection: int, unit: AccessUnit) -> None:
        if unit.is_keyframe and connection == self._followed:
            self._group.clear()
            self._of_group = connection
            # Encoders may number their parameter sets anew at every keyframe: the slate is the same.
            if self._like is None or not is_same_format(unit, self._like):
                self._like = unit
                # A slate of another format would begin a new recording: until it is drawn the last picture is held.
                self._splice.slate = None
                self._slate_wanted.set()
        if self._keeps_group and connection == self._of_group and len(self._group) < MAX_GROUP:
            self._group.append(unit)
            if len(self._group) == MAX_GROUP:
                # Nobody else needs one, it seems: the last picture is to be one of the present all the same.
                self._request_keyframe()

    def redraw_slate(self) -> None:
        """The slate is another one from now on; until it is drawn, the one before is shown."""
        self._slate_wanted.set()

    def _renew_last(self) -> None:
        """The last picture is another one now: until it is drawn it is held, not the one before."""
        self._splice.slate = None
        self._slate_wanted.set()

    def _show_from_now_on(self, slate: SlatePictures) -> None:
        self._splice.slate = slate
        self._act()

    # ------------------------------------------------------------------------------------------ time

    def _now_ns(self) -> int:
        return time.monotonic_ns() - self._origin_ns

    def _act(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._splice.poll(self._now_ns())
        self._settle()

    def _settle(self) -> None:
        """After anything has happened: ask for what is needed, tell what has changed, and be back in time."""
        now_ns = self._now_ns()
        if self._splice.wants_keyframe and now_ns - self._asked_ns >= ASK_EVERY_NS:
            self._asked_ns = now_ns
            self._request_keyframe()
        if (self._splice.state, self._splice.cause) != (self._on_air, self._cause):
            self._on_air, self._cause = self._splice.state, self._splice.cause
            if self._on_air is OnAir.HELD and self._keeps_group:
                self._renew_last()
            words = {"cause": self._splice.cause, "reason": self._splice.operator_reason}
            self._log.info(f"on_air_{self._on_air.value}", **{key: value for key, value in words.items() if value})
            self._on_change(self._on_air)
        self._set_timer(now_ns)

    def _set_timer(self, now_ns: int) -> None:
        due_ns = self._splice.next_deadline_ns()
        if due_ns is None:
            return
        # One deadline may pass while another is dealt with.
        due_ns = max(due_ns, now_ns)
        if self._timer is not None:
            if self._timer_at_ns <= due_ns:
                return  # most deadlines only move away: waking too early is cheaper than a timer per unit
            self._timer.cancel()
        self._timer_at_ns = due_ns
        self._timer = asyncio.get_running_loop().call_at((due_ns + self._origin_ns) / NS_PER_S, self._act)
