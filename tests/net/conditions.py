"""What a network does to the datagrams of one direction, decided from a seed and the time: nothing moves here."""

import random
from dataclasses import dataclass

_NS_PER_MS = 1_000_000
_NS_PER_S = 1_000_000_000
# IPv4 and UDP headers (RFC 791, RFC 768): a link's rate counts them.
_HEADER_BYTES = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """One direction of a link. Shares are 0 to 1; the default changes nothing.

    delay_ms    what every datagram takes; half of the round trip on a link that is the same both ways.
    jitter_ms   delays spread evenly over ± this, as queues on the way do: nothing overtakes.
    loss        share of the datagrams lost, in runs of `burst` datagrams.
    reorder     share of those that take `reorder_ms` longer than the rest, and are overtaken.
    duplicate   share of those that come twice, the second time a millisecond later.
    rate_bps    what the link carries, headers counted; 0: anything. It queues for `queue_ms`, then drops.
    outages_s   spans without any delivery: beginning and length, counted from the session's first datagram.
    clear_s     so long after the first datagram nothing but delay, rate and outages apply: connections come up.
    """

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    burst: int = 1
    reorder: float = 0.0
    reorder_ms: float = 10.0
    duplicate: float = 0.0
    rate_bps: float = 0.0
    queue_ms: float = 200.0
    outages_s: tuple[tuple[float, float], ...] = ()
    clear_s: float = 0.0


class Direction:
    """Conditions at work. The same seed, times and sizes give the same result."""

    def __init__(self, conditions: Conditions, seed: int) -> None:
        self.passed = self.lost = 0
        self._conditions = conditions
        self._random = random.Random(seed)
        self._left_in_burst = 0
        self._free_at_ns = 0
        self._last_due_ns = 0
        # Each datagram outside of a burst begins one with this probability: then `loss` of all are inside.
        share, length = conditions.loss, conditions.burst
        self._begins = share / (share + length * (1 - share)) if share else 0.0
        self._outages_ns = [
            (round(begin_s * _NS_PER_S), round((begin_s + length_s) * _NS_PER_S))
            for begin_s, length_s in conditions.outages_s
        ]

    def pass_on(self, now_ns: int, n_bytes: int) -> list[int]:
        """When a datagram sent at `now_ns` arrives: nothing if it is lost. Times count from the first datagram."""
        due_ns = self._due(now_ns, n_bytes)
        self.passed += bool(due_ns)
        self.lost += not due_ns
        return due_ns

    def _due(self, now_ns: int, n_bytes: int) -> list[int]:
        conditions = self._conditions
        if any(begin_ns <= now_ns < end_ns for begin_ns, end_ns in self._outages_ns):
            return []
        sent_ns = now_ns
        if conditions.rate_bps:
            if self._free_at_ns - now_ns > conditions.queue_ms * _NS_PER_MS:
                return []
            takes_ns = round((n_bytes + _HEADER_BYTES) * 8 * _NS_PER_S / conditions.rate_bps)
            sent_ns = self._free_at_ns = max(now_ns, self._free_at_ns) + takes_ns
        due_ns = sent_ns + round(conditions.delay_ms * _NS_PER_MS)
        if now_ns < conditions.clear_s * _NS_PER_S:
            return [due_ns]
        if self._is_lost():
            return []
        if conditions.jitter_ms:
            due_ns += round(self._random.uniform(-conditions.jitter_ms, conditions.jitter_ms) * _NS_PER_MS)
            due_ns = self._last_due_ns = max(due_ns, self._last_due_ns, sent_ns)
        if conditions.reorder and self._random.random() < conditions.reorder:
            due_ns += round(conditions.reorder_ms * _NS_PER_MS)
        if conditions.duplicate and self._random.random() < conditions.duplicate:
            return [due_ns, due_ns + _NS_PER_MS]
        return [due_ns]

    def _is_lost(self) -> bool:
        if self._left_in_burst:
            self._left_in_burst -= 1
            return True
        if self._begins and self._random.random() < self._begins:
            self._left_in_burst = self._conditions.burst - 1
            return True
        return False
