"""The soak's plan, and how it counts."""

import random
from itertools import pairwise

import pytest

from benchmarks.soak import ENDS, GRACE_S, growth_pct, longest_gap, plan
from benchmarks.stretches import Picture, Stretch


def test_ten_minutes_have_fifty_faults_of_every_kind() -> None:
    faults = plan(random.Random(1), 10.0)
    assert len(faults) == 50
    assert {sum(fault.name == kind for fault in faults) for kind in {fault.name for fault in faults}} == {5}


@pytest.mark.parametrize("seed", range(20))
def test_faults_leave_time_between_them_and_fit_into_the_run(seed: int) -> None:
    faults = plan(random.Random(seed), 2.0)
    times_s = [fault.at_s for fault in faults]
    assert min(later - earlier for earlier, later in pairwise(times_s)) > 3.5
    assert times_s[0] > GRACE_S
    assert times_s[-1] < 2 * 60 - GRACE_S


@pytest.mark.parametrize("seed", range(20))
def test_no_connection_is_to_have_a_fault_twice(seed: int) -> None:
    carried: set[str] = set()
    for fault in plan(random.Random(seed), 10.0):
        if fault.name in ENDS:
            carried = set()
        else:
            assert fault.name not in carried
            carried.add(fault.name)


def test_pictures_that_were_never_sent_are_no_gap() -> None:
    ms = 1_000_000
    stretch = Stretch(True, [Picture(0.0, (0, 0)), Picture(0.04, (1, 40 * ms)), Picture(0.24, (6, 240 * ms))])
    gap = longest_gap([stretch], ())
    assert str(gap) == "200 ms at 0.04 s between pictures 1 and 6, encoded 200 ms apart"
    assert longest_gap([stretch], (150 * ms,)).gap_s == pytest.approx(0.04)


def test_memory_that_grows_is_told_in_percent() -> None:
    assert growth_pct([1, 1, 1, 100, 100, 100, 103, 103, 103]) == pytest.approx(3.0)
