"""Live stretches and what stands in for them, in broadcasts whose truth is known."""

from collections.abc import Sequence

from benchmarks.stretches import Picture, Recorded, stretches


def live(first_number: int, n: int, *, starts_s: float, every_s: float = 0.04) -> list[Picture]:
    numbers = range(first_number, first_number + n)
    return [Picture(starts_s + i * every_s, (number, number)) for i, number in enumerate(numbers)]


def slate(n: int, *, starts_s: float) -> list[Picture]:
    return [Picture(starts_s + i * 0.04, None) for i in range(n)]


def kinds(pictures: Sequence[Picture]) -> list[tuple[bool, int]]:
    return [(stretch.is_live, len(stretch.pictures)) for stretch in stretches(pictures)]


def test_a_slate_stands_between_two_live_stretches() -> None:
    pictures = [*live(0, 50, starts_s=0), *slate(25, starts_s=3), *live(0, 10, starts_s=4.1)]
    assert kinds(pictures) == [(True, 50), (False, 25), (True, 10)]


def test_another_session_of_the_service_is_another_stretch() -> None:
    assert kinds([*live(0, 50, starts_s=0), *live(3, 10, starts_s=2.01)]) == [(True, 50), (True, 10)]


def test_after_a_hold_it_is_live_again() -> None:
    assert kinds([*live(0, 50, starts_s=0), *live(65, 10, starts_s=2.6)]) == [(True, 50), (True, 10)]
    assert kinds([*live(0, 50, starts_s=0), *live(55, 10, starts_s=2.2)]) == [(True, 60)]


def test_the_first_picture_of_each_second_but_the_very_first_is_a_flash() -> None:
    (stretch,) = stretches(live(0, 60, starts_s=10))
    assert [flash.time_s for flash in stretch.flashes()] == [11.0, 12.0]


def test_times_that_go_back_are_counted_on_either_track() -> None:
    pictures = [Picture(time_s, None) for time_s in (0.0, 0.04, 0.04, 0.08)]
    found = Recorded(pictures, [0.0, 0.02, 0.01, 0.03])
    assert found.timestamps_back == 2
    assert abs(found.longest_silence_s - 0.02) < 1e-9
