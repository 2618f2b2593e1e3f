"""What shows that the far end of a sending peer hears it: answers to consent checks, and receiver reports that move on.

aioice asks for consent every 5 s and gives up after 30 s. That is long for viewers, and RFC 7675 §5.1 allows no more
frequent asking as a rule; but once a question stays without an answer, or reports that came every second stay away, it
may be asked again like any connectivity check.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable

from aioice import Connection, stun

from bridge.media.clock import NS_PER_S

PRIVATE_NAMES = (
    "aioice.ice:Connection.query_consent",
    "aioice.ice:Connection.build_request",
    "aioice.ice:Connection._nominated",
    "aioice.ice:Connection._query_consent_task",
)

# RFC 7675 §5.1: consent is asked for every 5 s, give or take a fifth, and ends 30 s after its last answer.
ASK_EVERY_NS = 5 * NS_PER_S
CONSENT_NS = 30 * NS_PER_S
# A question is sent again after 0.5 s and waits 1 s more for its answer (RFC 8489 §6.2.1: the timeout doubles), which
# allows for any round trip that a live stream has. Asked again each second, that is a packet every half second.
ASK_AGAIN_NS = NS_PER_S
REPETITIONS = 1
# Six packets without an answer. Where one in three is lost each way (44 % come back), that is 3 % of the questions that
# are asked again; a change of route or of Wi-Fi cell, or a server's pause, mostly takes less.
SILENT_NS = 3 * NS_PER_S
# Reports that have come this long are a habit of this far end, and none a sign. It also keeps a server whose reports
# end by design, for want of viewers for example, from getting a new session more than once a minute.
HABIT_NS = 60 * NS_PER_S
# RFC 3550 §6.2 spaces reports at random, by up to half as much again: one may be lost (2), two in a row mean more (3).
OVERDUE_GAPS = 2
MISSING_GAPS = 3
N_GAPS = 8
# The interval of RFC 3550 §6.2: less says little, however often reports came before.
MISSING_NS = 5 * NS_PER_S
# A fraction of the shortest time here.
LOOK_S = 0.25


class Hearing:
    """Judges, from what has come back, whether the far end hears us. All times are monotonic nanoseconds."""

    def __init__(self, now_ns: int, spread: Callable[[], float] = random.random) -> None:
        """`spread`: 0 to 1, how consent checks of many sessions keep apart."""
        self._spread = spread
        self._consent_ns = now_ns
        self._asked_ns = now_ns
        self._unanswered_ns: int | None = None  # the first question since anything was heard
        self._next_ask_ns = now_ns + self._period_ns()
        self._reported_ns: int | None = None
        self._habit_since_ns = now_ns
        self._gaps_ns: deque[int] = deque(maxlen=N_GAPS)
        self._unreported_ns: int | None = None  # the first unit sent since a report moved

    def _period_ns(self) -> int:
        return round(ASK_EVERY_NS * (0.8 + 0.4 * self._spread()))

    def asked(self, now_ns: int) -> None:
        self._asked_ns = now_ns
        if self._unanswered_ns is None:
            self._unanswered_ns = now_ns
        self._next_ask_ns = now_ns + self._period_ns()

    def answered(self, now_ns: int) -> None:
        self._consent_ns = now_ns
        self._unanswered_ns = None

    def sent(self, now_ns: int) -> None:
        if self._unreported_ns is None:
            self._unreported_ns = now_ns

    def reported(self, now_ns: int) -> None:
        """A receiver report says that more of a stream has arrived than the one before."""
        if self._reported_ns is None:
            self._habit_since_ns = now_ns
        else:
            self._gaps_ns.append(now_ns - self._reported_ns)
        self._reported_ns = now_ns
        self._unanswered_ns = self._unreported_ns = None

    def wants_to_ask(self, now_ns: int) -> bool:
        if self._unanswered_ns is not None and now_ns - self._asked_ns >= ASK_AGAIN_NS:
            return True
        overdue_ns = self._due_ns(OVERDUE_GAPS, ASK_AGAIN_NS)
        if overdue_ns is not None and self._asked_ns < overdue_ns <= now_ns:
            return True
        return now_ns >= self._next_ask_ns

    def is_silent(self, now_ns: int) -> bool:
        """The far end does not hear us, as far as can be told; anything that comes back takes it back."""
        if self._unanswered_ns is not None and now_ns - self._unanswered_ns >= SILENT_NS:
            return True
        missing_ns = self._due_ns(MISSING_GAPS, MISSING_NS)
        if missing_ns is None or self._reported_ns is None or self._reported_ns - self._habit_since_ns < HABIT_NS:
            return False
        return now_ns >= missing_ns

    def has_consent(self, now_ns: int) -> bool:
        return now_ns - self._consent_ns < CONSENT_NS

    def _due_ns(self, n_gaps: int, least_ns: int) -> int | None:
        """When so many of the longest intervals of late have passed without a report on what was sent."""
        if self._unreported_ns is None or not self._gaps_ns:
            return None
        return self._unreported_ns + max(n_gaps * max(self._gaps_ns), least_ns)


def keep_consent(connection: Connection, hearing: Hearing) -> None:
    """Ask for consent on a connection, once it is up, as `hearing` wants, in the place of aioice."""

    async def query_consent() -> None:
        hearing.answered(time.monotonic_ns())
        async with asyncio.TaskGroup() as questions:
            while hearing.has_consent(now_ns := time.monotonic_ns()):
                if hearing.wants_to_ask(now_ns):
                    hearing.asked(now_ns)
                    questions.create_task(_ask(connection, hearing))
                await asyncio.sleep(LOOK_S)
        connection._query_consent_task = None  # which `close` would wait for
        await connection.close()

    setattr(connection, "query_consent", query_consent)  # noqa: B010  mypy refuses to assign to a method


async def _ask(connection: Connection, hearing: Hearing) -> None:
    assert connection.remote_password is not None  # from before the connection came up
    key = connection.remote_password.encode()
    for pair in tuple(connection._nominated.values()):
        request = connection.build_request(pair, nominate=False)
        try:
            await pair.protocol.request(request, pair.remote_addr, integrity_key=key, retransmissions=REPETITIONS)
        except stun.TransactionError:
            continue
        hearing.answered(time.monotonic_ns())
