from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from bridge.providers.service_clock import ServiceClock

OURS_S = 1_800_000_000.0


class Monotonic:
    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def http_date(time_s: float) -> str:
    return format_datetime(datetime.fromtimestamp(time_s, UTC), usegmt=True)


def clock(date: str | None, monotonic: Monotonic) -> ServiceClock:
    return ServiceClock(date, now_s=lambda: OURS_S, monotonic_s=monotonic)


@pytest.mark.parametrize("ahead_s", [-86_400.0, 0.0, 3600.0])
def test_a_time_of_the_services_is_told_by_its_own_clock_however_wrong_ours_is(ahead_s: float) -> None:
    monotonic = Monotonic()
    service = clock(http_date(OURS_S + ahead_s), monotonic)
    until_s = OURS_S + ahead_s + 60.0
    assert service.left_s(until_s) == 60.0
    monotonic.now_s += 45.0
    assert service.left_s(until_s) == 15.0


@pytest.mark.parametrize("date", [None, "", "yesterday", "Mon, 99 Foo 2026 00:00:00 GMT"])
def test_where_a_service_does_not_say_what_time_it_is_our_clock_counts(date: str | None) -> None:
    assert clock(date, Monotonic()).left_s(OURS_S + 60.0) == 60.0
