"""Constant rate by showing again and leaving out, on absolute times."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.outputs.cadence import LONGEST_FILL_S, Cadence


def shown(cadence: Cadence, times_ns: Sequence[int]) -> list[tuple[int, int]]:
    """Of all places in turn, the place and the index of the picture in it."""
    found: list[tuple[int, int]] = []
    for index, pts_ns in enumerate(times_ns):
        repeats, place = cadence.show(pts_ns)
        found += [(each, index - 1) for each in repeats]
        found += [(place, index)] if place is not None else []
    return found


def times_of(rate: float, duration_s: float, *, phase: float = 0.0) -> list[int]:
    return [round((number + phase) * NS_PER_S / rate) for number in range(round(rate * duration_s))]


@pytest.mark.parametrize("rate", [1, 10, 24, 25, 29.97, 30, 50, 60, 120])
@pytest.mark.parametrize("fps", [25, 30, 60])
def test_every_place_is_taken_once_by_the_picture_that_is_nearest(rate: float, fps: int) -> None:
    times_ns, cadence = times_of(rate, 10), Cadence(fps)
    places = shown(cadence, times_ns)
    assert [place for place, _ in places] == list(range(len(places)))
    # Of a picture that is shown several times the first one counts.
    first = {index: place for place, index in reversed(places)}
    errors_ms = [(cadence.at_ns(place) - times_ns[index]) / NS_PER_MS for index, place in first.items()]
    half_ms = 1000 / fps / 2
    assert max(map(abs, errors_ms)) <= half_ms * 1.1 + 0.01
    assert abs(sum(errors_ms) / len(errors_ms)) <= 5


def test_a_source_of_the_same_rate_is_shown_picture_by_picture_though_it_jitters() -> None:
    times_ns = [ns + (-1) ** n * 12 * NS_PER_MS for n, ns in enumerate(times_of(30, 5))]
    times_ns[0] = 0
    assert [index for _, index in shown(Cadence(30), times_ns)] == list(range(len(times_ns)))


def test_a_twice_as_fast_source_that_jitters_is_halved_evenly() -> None:
    times_ns = [ns + (n % 3 - 1) * 2 * NS_PER_MS for n, ns in enumerate(times_of(60, 5), 1)]
    indices = [index for _, index in shown(Cadence(30), times_ns)]
    assert {later - earlier for earlier, later in itertools.pairwise(indices)} == {2}


def test_nothing_adds_up_over_a_day() -> None:
    cadence = Cadence(30)
    cadence.show(7)
    day_ns = 24 * 3600 * NS_PER_S
    _, place = cadence.show(7 + day_ns)
    assert place == 24 * 3600 * 30 and cadence.at_ns(place) == 7 + day_ns


def test_a_long_gap_is_left_open_and_a_short_one_is_filled() -> None:
    cadence = Cadence(30)
    cadence.show(0)
    assert len(cadence.show(2 * NS_PER_S)[0]) == 59
    assert len(cadence.show((3 + LONGEST_FILL_S) * NS_PER_S)[0]) == 0
    assert len(cadence.follow((4 + 2 * LONGEST_FILL_S) * NS_PER_S)) == 0


def test_pictures_that_pause_are_shown_again_and_the_next_one_is_shown_though_it_is_late() -> None:
    cadence = Cadence(30)
    assert not cadence.follow(NS_PER_S), "there is nothing to show"
    cadence.show(0)
    assert cadence.follow(NS_PER_S) == range(1, 31)
    assert not cadence.follow(NS_PER_S)
    assert cadence.show(900 * NS_PER_MS) == (range(0), 31)
    # It is up to date again at once.
    assert cadence.show(1000 * NS_PER_MS) == (range(0), None)
    assert cadence.show(1067 * NS_PER_MS) == (range(0), 32)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 3 * NS_PER_S), min_size=1, max_size=60), st.integers(1, 60), st.booleans())
def test_whatever_comes_places_only_grow(steps_ns: list[int], fps: int, follows: bool) -> None:
    cadence, pts_ns, last = Cadence(fps), 0, -1
    for step_ns in steps_ns:
        pts_ns += step_ns
        repeats, place = cadence.show(pts_ns)
        places = [*repeats, *([] if place is None else [place])]
        places += cadence.follow(pts_ns + step_ns // 2) if follows else []
        assert places == sorted(set(places)) and all(each > last for each in places)
        last = places[-1] if places else last
