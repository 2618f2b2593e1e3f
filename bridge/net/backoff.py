"""How long to wait before the next attempt."""

import random


class Backoff:
    """Delays that double from `first_s` to `max_s`, each shortened by a random part of up to half.

    The jitter keeps many sessions that lost the same far end from coming back in step. `reset` belongs to the caller,
    and only after proven progress: a far end that accepts and drops at once must not be hammered.
    """

    def __init__(self, first_s: float, max_s: float, rng: random.Random) -> None:
        if not 0 < first_s <= max_s:
            raise ValueError(f"a backoff needs 0 < first_s <= max_s, not {first_s} and {max_s}")
        self._first_s = first_s
        self._max_s = max_s
        self._rng = rng
        self._next_s = first_s

    def next_delay_s(self) -> float:
        """The delay before the coming attempt: between half of the current step and all of it."""
        step_s = self._next_s
        self._next_s = min(2 * step_s, self._max_s)
        return step_s * (1 - self._rng.random() / 2)

    def reset(self) -> None:
        """Start again at `first_s`."""
        self._next_s = self._first_s
