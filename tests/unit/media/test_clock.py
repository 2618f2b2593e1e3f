import random

import pytest

from bridge.media.clock import NS_PER_S, OPUS_CLOCK_HZ, VIDEO_CLOCK_HZ, ns_to_ticks, ticks_to_ns

CLOCKS_HZ = [VIDEO_CLOCK_HZ, OPUS_CLOCK_HZ, 24_000, 44_100]


@pytest.mark.parametrize("clock_hz", CLOCKS_HZ)
def test_a_second_of_ticks_is_a_second(clock_hz: int) -> None:
    assert ticks_to_ns(clock_hz, clock_hz) == NS_PER_S
    assert ns_to_ticks(NS_PER_S, clock_hz) == clock_hz


@pytest.mark.parametrize("clock_hz", CLOCKS_HZ)
def test_ticks_survive_the_way_to_nanoseconds_and_back(clock_hz: int) -> None:
    chance = random.Random(1)
    for ticks in [0, 1, -1, 2**32, *(chance.randrange(-(2**48), 2**48) for _ in range(1000))]:
        assert ns_to_ticks(ticks_to_ns(ticks, clock_hz), clock_hz) == ticks


def test_conversion_is_off_by_less_than_a_nanosecond_however_long_the_session() -> None:
    year_ticks = 365 * 86_400 * VIDEO_CLOCK_HZ + 7
    assert 0 <= year_ticks * NS_PER_S - ticks_to_ns(year_ticks, VIDEO_CLOCK_HZ) * VIDEO_CLOCK_HZ < VIDEO_CLOCK_HZ
