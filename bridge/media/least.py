"""The least of what was measured of late: a best arrival has waited in no queue."""


class Least:
    """Keeps the least value of the last `span_ns` to twice that, in which whatever creeps is seen again."""

    def __init__(self, span_ns: int) -> None:
        self._span_ns = span_ns
        self._least: int | None = None  # of this span
        self._before = 0  # of the span before
        self._span_end_ns = 0

    def push(self, value: int, now_ns: int) -> int:
        """Take a value; the least so far."""
        if self._least is None:
            self._least = self._before = value
            self._span_end_ns = now_ns + self._span_ns
        elif now_ns >= self._span_end_ns:
            self._before, self._least = self._least, value
            self._span_end_ns = now_ns + self._span_ns
        elif value < self._least:
            self._least = value
        return min(self._least, self._before)
