"""The sender's media clock against ours, in millionths.

A network only ever delays: the packets that travelled fastest tell how the clocks run, and how late the others were
says nothing. A path that changes and a clock that is reset show as steps, which are left out.
"""

from collections import deque
from itertools import pairwise
from statistics import median

from bridge.media.clock import NS_PER_MS, NS_PER_S

# The best of 500 packets of sound: on the internet such bests scatter by a millisecond.
SPAN_NS = 10 * NS_PER_S
# Ten minutes, in which a millisecond of scatter is 2 ppm; crystals err by tens, and change with the hour.
N_SPANS = 61
# A minute's end: a millisecond is 17 ppm by then. What would be said before would be noise.
N_SURE_SPANS = 7
# Bests that are further from where their neighbours point to than jitter makes them: the path is another one.
STEP_NS = 5 * NS_PER_MS


class DriftMeter:
    """Measures over the last ten minutes how much faster than ours a sender's media clock runs.

    ppm  above 0 it runs fast. None: not known yet.
    """

    def __init__(self) -> None:
        self.ppm: float | None = None
        self._first_behind_ns: int | None = None
        # Arrival, and how far behind it the media clock is: the best of this span, and those of spans before.
        self._best: tuple[int, int] | None = None
        self._span_ends_ns = 0
        self._bests: deque[tuple[int, int]] = deque(maxlen=N_SPANS)

    def note(self, media_ns: int, arrival_ns: int) -> None:
        """A unit of that media time has arrived; both in the nanoseconds of its own clock."""
        behind_ns = arrival_ns - media_ns
        if self._best is None or arrival_ns >= self._span_ends_ns:
            if self._best is not None:
                if self._first_behind_ns is None:
                    self._first_behind_ns = self._best[1]
                self._bests.append(self._best)
                self._measure()
            self._best = arrival_ns, behind_ns
            self._span_ends_ns = arrival_ns + SPAN_NS
        elif behind_ns < self._best[1]:
            self._best = arrival_ns, behind_ns

    @property
    def moved_ns(self) -> int:
        """How much further behind ours the media clock is than at the beginning, steps included."""
        if self._first_behind_ns is None or self._best is None:
            return 0
        return min(self._best[1], self._bests[-1][1]) - self._first_behind_ns

    def _measure(self) -> None:
        if len(self._bests) < N_SURE_SPANS:
            return
        moves = [(later[0] - earlier[0], later[1] - earlier[1]) for earlier, later in pairwise(self._bests)]
        usual = median(behind_ns / elapsed_ns for elapsed_ns, behind_ns in moves)
        steady = [move for move in moves if abs(move[1] - usual * move[0]) <= STEP_NS]
        if elapsed_ns := sum(elapsed_ns for elapsed_ns, _ in steady):
            self.ppm = -1e6 * sum(behind_ns for _, behind_ns in steady) / elapsed_ns
