from bridge.media.clock import NS_PER_S
from bridge.media.least import Least


def test_the_least_is_remembered_for_one_to_two_spans() -> None:
    least = Least(NS_PER_S)
    found = [least.push(value, second * NS_PER_S // 2) for second, value in enumerate([5, 3, 7, 8, 9, 9, 9])]
    assert found == [5, 3, 3, 3, 7, 7, 9]
