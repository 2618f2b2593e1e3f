"""How a session was doing in the last ten minutes, for whoever looks only now."""

import math
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping

from bridge.media.clock import NS_PER_S
from bridge.status import SessionStatus

KEPT_S, EVERY_S = 600.0, 2.0
# Looks come once a second and a little late: every other one is kept, whatever its delay.
_SOONEST_NS = round(0.75 * EVERY_S * NS_PER_S)

# Under their names in the status; queue_s is the longest of all outputs.
_COLUMNS: Mapping[str, Callable[[SessionStatus], float | None]] = {
    "added_latency_p99_s": lambda status: status.media.added_latency_p99_s,
    "av_offset_s": lambda status: status.media.av_offset_s,
    "video_bps": lambda status: status.media.video_bps,
    "fps": lambda status: status.media.fps,
    "freezes": lambda status: status.freezes,
    "queue_s": lambda status: max((output.queue_s for output in status.outputs), default=0.0),
}


class Trend:
    """Remembers a point every two seconds, for ten minutes: 300 points, 36 KiB. It outlives a run of the session."""

    def __init__(self, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._now_ns = now_ns
        self._newest_ns = now_ns() - _SOONEST_NS
        self._points: deque[array[float]] = deque(maxlen=round(KEPT_S / EVERY_S))

    def look(self, status: Callable[[], SessionStatus]) -> None:
        """Keep how the session is doing, if the last time was long enough ago."""
        now_ns = self._now_ns()
        if now_ns - self._newest_ns >= _SOONEST_NS:
            self._newest_ns = now_ns
            values = (value(now) for now in (status(),) for value in _COLUMNS.values())
            self._points.append(array("d", (now_ns / NS_PER_S, *(math.nan if v is None else v for v in values))))

    def columns(self) -> dict[str, list[float | None]]:
        """Of all points, the oldest first: how many seconds ago (`age_s`), and by name what was; None: not known."""
        now_s = self._now_ns() / NS_PER_S
        ages_s: list[float | None] = [round(now_s - point[0], 3) for point in self._points]
        return {"age_s": ages_s} | {
            name: [None if math.isnan(point[i]) else round(point[i], 6) for point in self._points]
            for i, name in enumerate(_COLUMNS, 1)
        }
