from benchmarks.intact import intact, longest_gap_ms
from benchmarks.tap import Picture

WHOLE = {1, 2, 3}


def shown(*pictures: tuple[int, int, bool]) -> list[int]:
    """The numbers of the intact ones, of pictures given by number, checksum and whether they are keyframes."""
    return [p.number or 0 for p in intact([Picture(0, 0, n, checksum, key) for n, checksum, key in pictures], WHOLE)]


def test_a_picture_is_intact_while_all_before_it_back_to_a_keyframe_are() -> None:
    assert shown((10, 1, True), (11, 2, False), (12, 3, False)) == [10, 11, 12]


def test_after_a_missing_one_none_is_until_the_next_keyframe() -> None:
    assert shown((10, 1, True), (12, 3, False), (13, 1, False), (14, 1, True), (15, 2, False)) == [10, 14, 15]


def test_after_a_damaged_one_none_is_either() -> None:
    assert shown((10, 1, True), (11, 99, False), (12, 3, False), (13, 99, True), (14, 1, False)) == [10]


def test_pictures_of_others_such_as_a_slate_are_not_counted() -> None:
    assert intact([Picture(0, None, None, 1, True)], WHOLE) == []


def test_a_gap_is_measured_to_the_ends_of_the_span_too() -> None:
    times_ns = [t * 1_000_000 for t in (5, 100, 130, 400)]
    assert longest_gap_ms(times_ns, 90_000_000, 200_000_000) == 70
    assert longest_gap_ms(times_ns, 0, 140_000_000) == 95
    assert longest_gap_ms([], 0, 50_000_000) == 50
