import random

import pytest

from bridge.net.backoff import Backoff


class _NoJitter(random.Random):
    def random(self) -> float:
        return 0.0


def test_delays_double_from_the_first_to_the_longest() -> None:
    backoff = Backoff(0.5, 3.0, _NoJitter())
    assert [backoff.next_delay_s() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_jitter_shortens_a_delay_by_at_most_half() -> None:
    backoff = Backoff(1.0, 1.0, random.Random(1))
    delays = [backoff.next_delay_s() for _ in range(1000)]
    assert min(delays) > 0.5 and max(delays) <= 1.0
    assert max(delays) - min(delays) > 0.45


def test_reset_starts_again_at_the_first_delay() -> None:
    backoff = Backoff(0.5, 8.0, _NoJitter())
    for _ in range(4):
        backoff.next_delay_s()
    backoff.reset()
    assert backoff.next_delay_s() == 0.5


@pytest.mark.parametrize(("first_s", "max_s"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0)])
def test_limits_that_make_no_sense_are_refused(first_s: float, max_s: float) -> None:
    with pytest.raises(ValueError, match="backoff needs"):
        Backoff(first_s, max_s, random.Random())
