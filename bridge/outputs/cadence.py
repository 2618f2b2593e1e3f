"""Which picture of a source each picture of a constant rate shows."""

from collections import deque

from bridge.media.clock import NS_PER_S

# What jitters right at the border between two places would be left out and shown twice in turn: it goes on as it began,
# so far beyond that border, in places. More would move the mean of 25 pictures a second in 30, which lie 0.1 from it.
_STICKS = 0.05
# Over so many pictures the rate of a source is told: two may jitter by half a place against each other.
_N_RECENT = 9
# A longer gap is left open: the machine slept, and nobody watches seconds of one picture in one burst.
LONGEST_FILL_S = 10


class Cadence:
    """Counts the pictures of a constant rate, and says which ones a source's picture is shown in.

    The first one lies on the first picture of the source, and all others on multiples of the rate from there, computed
    absolutely: nothing adds up. A picture is shown in the place nearest to it; of those that come faster than the rate
    the nearest one is shown; a place that nothing is near to shows the picture before again.
    """

    def __init__(self, fps: int) -> None:
        self._fps = fps
        self._origin_ns: int | None = None
        self._last = -1  # the last place that is taken
        self._last_is_repeat = False
        self._recent_ns: deque[int] = deque(maxlen=_N_RECENT)  # when the source's last pictures were

    def at_ns(self, place: int) -> int:
        """Session time of a place."""
        assert self._origin_ns is not None, "no picture has come yet"
        return self._origin_ns + place * NS_PER_S // self._fps

    def show(self, pts_ns: int) -> tuple[range, int | None]:
        """The places where the picture before is shown again, and the one of this picture; None: it is not shown."""
        if self._origin_ns is None:
            self._origin_ns = pts_ns
        self._recent_ns.append(pts_ns)
        n_intervals = len(self._recent_ns) - 1
        interval = min(1.0, (pts_ns - self._recent_ns[0]) * self._fps / n_intervals / NS_PER_S) if n_intervals else 1.0
        exact = (pts_ns - self._origin_ns) * self._fps / NS_PER_S
        following = self._last + 1
        # A source that is faster than the rate has another picture within its interval. One that was waited for, while
        # the picture before was shown again, is shown, be it late.
        if exact < following - interval / 2 - _STICKS and not self._last_is_repeat:
            return range(0), None
        place = following if exact < following + 0.5 + _STICKS else round(exact)
        first = following if place - following <= LONGEST_FILL_S * self._fps else place
        self._last, self._last_is_repeat = place, False
        return range(first, place), place

    def follow(self, until_ns: int) -> range:
        """The places up to a time at which nothing has come, in which the picture before is shown again."""
        if self._origin_ns is None:
            return range(0)
        following = self._last + 1
        last = (until_ns - self._origin_ns) * self._fps // NS_PER_S
        if last < following or last - following > LONGEST_FILL_S * self._fps:
            return range(0)
        self._last, self._last_is_repeat = last, True
        return range(following, last + 1)
