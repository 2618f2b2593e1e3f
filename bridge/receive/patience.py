"""How long a missing packet is waited for, and when it is asked for again: what a path has taught so far.

Times are in nanoseconds. The constants were chosen in simulated time, over seeds, with the real receiver between a
sender and links that are bad both ways (`tests/unit/receive/test_loss_bounds.py`).
"""

from dataclasses import dataclass

from bridge.media.access_unit import Kind
from bridge.media.clock import NS_PER_MS

# Between two cities of one continent. Only until the first answer, and only if nothing better is known.
UNKNOWN_ROUND_TRIP_NS = 50 * NS_PER_MS
# Timers of an event loop are late by so much: an answer is not overtaken by its own repetition (G of RFC 6298 §2.3).
GRANULARITY_NS = 2 * NS_PER_MS
# A missing packet is given up when the last of so many rounds of requests must have been answered, within limits.
# Video: at 1 % loss both ways four rounds fail once in 10^7 packets; a picture later than 400 ms is no repair any more.
# Sound: two or three packets can be concealed, and outputs wait with what follows.
N_ROUNDS: dict[Kind, int] = {"video": 4, "audio": 2}
MIN_WAIT_NS: dict[Kind, int] = {"video": 100 * NS_PER_MS, "audio": 40 * NS_PER_MS}
MAX_WAIT_NS: dict[Kind, int] = {"video": 400 * NS_PER_MS, "audio": 120 * NS_PER_MS}
# A round sooner than this would ask for what is on its way even on a short path: a sender paces retransmissions.
MIN_SPACING_NS = 20 * NS_PER_MS
# Each round waits longer than the one before: a lossy path is asked often, a dead one is not flooded. With a half more
# each time only three rounds fit into 400 ms at a round trip of 80 ms.
SPACING_GROWTH = (5, 4)
# What swallowed a request or its answer may swallow the next as well: the second round asks twice, later ones three
# times, so far apart. At 1 % loss both ways one packet in fifty sees a second round, so copies cost nothing; in bursts
# of five at 5 % they take the longest freeze of a minute from 510 ms (median of twelve seeds) to 320 ms.
MAX_COPIES = 3
COPY_SPACING_NS = 10 * NS_PER_MS
# What has been asked for in a second round and is missing for so long may come no sooner than a keyframe: that is asked
# for as well. Sooner, every repeated request on a short path would cost a keyframe.
TROUBLE_NS = 100 * NS_PER_MS
# Overtaken packets are let come for so long before they are asked for. More would be paid by every loss.
MAX_REORDER_WAIT_NS = 15 * NS_PER_MS
# A sender that has answered for none of so many packets is not waited for. For sound most do not answer.
MAX_UNANSWERED = 5
# So many answers in a row that might each answer any of several requests are no accident of loss.
MAX_AMBIGUOUS = 5


class RoundTrip:
    """Smoothed time from a request to its answer, and its deviation (RFC 6298 §2).

    begin_ns  what the connection's own checks have measured; 0: nothing. It stands until the first answer.
    """

    def __init__(self, begin_ns: int = 0) -> None:
        self.smoothed_ns = begin_ns or UNKNOWN_ROUND_TRIP_NS
        self.deviation_ns = 0
        self._is_measured = False

    def measure(self, sample_ns: int) -> None:
        if not self._is_measured:
            # RFC 6298 halves the first sample for its deviation, because a connection begins with nothing else. A wrong
            # guess costs a repetition here, and not the connection.
            self._is_measured = True
            self.smoothed_ns, self.deviation_ns = sample_ns, sample_ns // 8
            return
        self.deviation_ns += (abs(sample_ns - self.smoothed_ns) - self.deviation_ns) // 4
        self.smoothed_ns += (sample_ns - self.smoothed_ns) // 8

    @property
    def patience_ns(self) -> int:
        """What has not been answered by then will not be: four deviations, as in RFC 6298, but at most a half more."""
        return self.smoothed_ns + max(min(4 * self.deviation_ns, self.smoothed_ns // 2), GRANULARITY_NS)


class Lateness:
    """How late packets come that others have overtaken: so long it is not worth asking for a missing one.

    0 while nothing is ever overtaken, so that a loss costs no time more on links that keep the order.
    """

    def __init__(self) -> None:
        self.usual_ns = 0

    def overtaken(self, late_ns: int) -> None:
        """A packet came late by so much, and had not been lost."""
        self.usual_ns = max(late_ns, self.usual_ns - self.usual_ns // 16)

    def lost(self) -> None:
        """A packet came only because it was asked for, or not at all: waiting for it before that was in vain."""
        self.usual_ns -= self.usual_ns // 16


@dataclass(slots=True)
class Missing:
    """One packet that later ones have overtaken. Requests go out in rounds, each of one or several copies."""

    since_ns: int
    ask_at_ns: int
    n_rounds: int = 0
    first_asked_ns: int = 0
    round_began_ns: int = 0
    next_round_ns: int = 0
    copies_left: int = 0

    def ask(self, now_ns: int, spacing_ns: int) -> None:
        """A request goes out now; where it begins a round the next one is due after `spacing_ns`."""
        if not self.n_rounds:
            self.first_asked_ns = now_ns
        if self.copies_left:
            self.copies_left -= 1
        else:
            self.copies_left = min(self.n_rounds, MAX_COPIES - 1)
            self.n_rounds += 1
            self.round_began_ns = now_ns
            self.next_round_ns = now_ns + spacing_ns
        self.ask_at_ns = min(self.next_round_ns, now_ns + COPY_SPACING_NS) if self.copies_left else self.next_round_ns


class Patience:
    """What the answers of one sender say about how long to wait for the next.

    wait_ns       how long a missing packet is waited for as things are, from when it is noticed.
    ask_after_ns  how long it is left to come by itself.
    """

    def __init__(self, kind: Kind, round_trip_ns: int = 0) -> None:
        self.wait_ns = self.ask_after_ns = 0
        self._kind: Kind = kind
        self._round_trip = RoundTrip(round_trip_ns)
        self._lateness = Lateness()
        self._unanswered = 0  # packets given up in a row
        self._ambiguous = 0  # answers in a row of which nobody knows what request they answer
        self._ambiguous_ns = 0
        self._decide()

    @property
    def answer_ns(self) -> int:
        """What has not been answered by then will not be."""
        return self._round_trip.patience_ns

    def spacing_ns(self, n_rounds: int) -> int:
        """From the beginning of a round before which so many have been to the next one."""
        numerator, denominator = SPACING_GROWTH
        spacing_ns = max(self._round_trip.patience_ns, MIN_SPACING_NS)
        for _ in range(n_rounds):
            spacing_ns = spacing_ns * numerator // denominator
        return spacing_ns

    def on_arrival(self, missing: Missing, now_ns: int, is_retransmission: bool) -> bool:
        """A missing packet has come; whether that is because it was asked for."""
        is_too_soon = now_ns - missing.first_asked_ns < self._round_trip.smoothed_ns // 2
        is_answer = missing.n_rounds > 0 and (is_retransmission or not is_too_soon)
        if is_answer:
            self._lateness.lost()
            self.on_answer(missing, now_ns)
        else:
            self._lateness.overtaken(now_ns - missing.since_ns)
            self._decide()
        return is_answer

    def on_answer(self, missing: Missing, now_ns: int) -> None:
        """A packet that was asked for has come, in time or not."""
        self._unanswered = 0
        # Karn's rule, RFC 6298 §3: after a repeat it is open which request was answered, unless it has just gone out.
        # Where no answer is clear any more the way has become longer than the spacing, and they answer the first.
        has_just_repeated = now_ns - missing.round_began_ns < self._round_trip.smoothed_ns // 2
        is_clear = missing.n_rounds == 1 or (missing.n_rounds == 2 and has_just_repeated)
        if is_clear:
            self._ambiguous = 0
        elif missing.first_asked_ns != self._ambiguous_ns:  # packets lost together count once
            self._ambiguous += 1
            self._ambiguous_ns = missing.first_asked_ns
        if is_clear or self._ambiguous >= MAX_AMBIGUOUS:
            self._round_trip.measure(now_ns - missing.first_asked_ns)
        self._decide()

    def on_given_up(self, n_packets: int) -> None:
        self._unanswered += n_packets
        self._lateness.lost()
        self._decide()

    def _decide(self) -> None:
        kind = self._kind
        # A quarter more, or what comes as late as ever is asked for in the moment in which it comes.
        self.ask_after_ns = wait_ns = min(self._lateness.usual_ns * 5 // 4, MAX_REORDER_WAIT_NS)
        if self._unanswered < MAX_UNANSWERED:
            wait_ns += sum(map(self.spacing_ns, range(N_ROUNDS[kind] - 1))) + self._round_trip.patience_ns
        self.wait_ns = min(max(wait_ns, MIN_WAIT_NS[kind]), MAX_WAIT_NS[kind])
