"""What happens in a session, for whoever follows it from outside."""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass

from bridge.event_types import EventType

# A minute or two of an avatar that speaks without a pause, whose words come one by one; hours of anything else.
KEPT_EVENTS = 2000
# Of one text: a service's message may have a megabyte, and no turn of a conversation comes near this.
MAX_TEXT = 8000


@dataclass(frozen=True, slots=True)
class Event:
    """id: of this event of this session in this life of the process.  at_s: Unix time.  data: as JSON takes it."""

    id: str
    type: EventType
    at_s: float
    data: Mapping[str, str | int | float | None]


class EventLog:
    """Remembers the last `KEPT_EVENTS` events of a session, also from one run of it to the next.

    Followers read from what is remembered and have no queue of their own: one that lags has lost what was forgotten,
    and is told how much.
    """

    def __init__(self, now_s: Callable[[], float] = time.time) -> None:
        self.n_followers = 0
        self._now_s = now_s
        # By chance, not by time: sessions begin together, and whoever hears of both tells their events apart by it.
        self._epoch = secrets.token_hex(8)
        self._kept: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self._n_events = 0
        self._changed = asyncio.Event()
        self._is_over = False

    def note(self, type: EventType, **data: str | int | float | None) -> None:
        short = {key: value[:MAX_TEXT] if isinstance(value, str) else value for key, value in data.items()}
        self._n_events += 1
        self._kept.append(Event(f"{self._epoch}-{self._n_events}", type, self._now_s(), short))
        self._wake()

    def close(self) -> None:
        """Nothing more will happen: followers come to their end."""
        self._is_over = True
        self._wake()

    async def follow(self, after: str | None = None) -> AsyncGenerator[Event]:
        """Events as they happen, until `close`.

        after  the id of the last one that is known: those since then come first. Where it is of another life of the
               process, all that are remembered do. None: only what comes.
        """
        n_known = self._n_events if after is None else self._number(after)
        self.n_followers += 1
        try:
            while True:
                n_forgotten = self._n_events - len(self._kept)
                if n_known < n_forgotten:
                    lost = {"n_events": n_forgotten - n_known}
                    yield Event(f"{self._epoch}-{n_forgotten}", "lost", self._now_s(), lost)
                    n_known = n_forgotten
                elif n_known < self._n_events:
                    event = self._kept[n_known - n_forgotten]
                    n_known += 1
                    yield event
                elif self._is_over:
                    return
                else:
                    await self._changed.wait()
        finally:
            self.n_followers -= 1

    def _number(self, event_id: str) -> int:
        epoch, _, number = event_id.partition("-")
        is_ours = epoch == self._epoch and number.isascii() and number.isdigit() and len(number) < 20
        return min(int(number), self._n_events) if is_ours else self._n_events - len(self._kept)

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
