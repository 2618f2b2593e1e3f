"""What time it is at a service, which says in times of its own clock when a session ends."""

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime


class ServiceClock:
    """Unix time as a service has it: by the Date of its answer (RFC 9110 §6.6.1), else by our own clock.

    Right to a second and the way of the answer; neither clock's being set later changes it.
    """

    def __init__(
        self,
        date: str | None,
        now_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`date`: of an answer that has just come; None: it has none."""
        self._monotonic_s = monotonic_s
        self._began_s = monotonic_s()
        try:
            self._date_s = now_s() if date is None else parsedate_to_datetime(date).timestamp()
        except (ValueError, OverflowError):
            self._date_s = now_s()

    def left_s(self, until_s: float) -> float:
        """How long it is until a Unix time of the service's."""
        return until_s - self._date_s - (self._monotonic_s() - self._began_s)
