"""What session time it is: that of what comes from the avatar now, by the best arrivals of late."""

from bridge.media.access_unit import AccessUnit
from bridge.media.clock import NS_PER_S
from bridge.media.least import Least

# How long a best arrival of the avatar's media counts: what its clock drifts meanwhile is less than a millisecond.
_LAG_SPAN_NS = 2 * NS_PER_S


class Moment:
    """Follows what goes on air, sound and pictures alike. Times that are no session time are monotonic."""

    def __init__(self, origin_ns: int) -> None:
        self._origin_ns = origin_ns
        self._lag, self._lag_ns = Least(_LAG_SPAN_NS), 0

    def follow(self, unit: AccessUnit) -> None:
        """A unit goes on air."""
        if unit.arrival_ns:
            self._lag_ns = self._lag.push(unit.arrival_ns - self._origin_ns - unit.pts_ns, unit.arrival_ns)

    def at(self, now_ns: int) -> int:
        """Session time then."""
        return now_ns - self._origin_ns - self._lag_ns
