import pytest

from bridge.media.clock import NS_PER_S
from bridge.media.rtp import RtpUnwrapper, SenderReport, sequence_distance


@pytest.mark.parametrize(
    ("newer", "older", "distance"),
    [(11, 10, 1), (10, 11, -1), (10, 10, 0), (0, 65535, 1), (65535, 0, -1), (32767, 0, 32767), (32768, 0, -32768)],
)
def test_distances_of_sequence_numbers_go_the_short_way_round(newer: int, older: int, distance: int) -> None:
    assert sequence_distance(newer, older) == distance


def test_the_first_timestamp_maps_to_itself() -> None:
    assert RtpUnwrapper().unwrap(4_000_000_000) == 4_000_000_000


def test_ticks_grow_across_the_wrap_from_ten_seconds_before_it() -> None:
    unwrapper = RtpUnwrapper()
    start = 2**32 - 10 * 90_000
    ticks = [unwrapper.unwrap((start + 3600 * n) % 2**32) for n in range(500)]
    assert ticks == [start + 3600 * n for n in range(500)]


def test_a_late_timestamp_steps_back_across_the_wrap() -> None:
    unwrapper = RtpUnwrapper()
    unwrapper.unwrap(2**32 - 100)
    assert unwrapper.unwrap(100) == 2**32 + 100
    assert unwrapper.unwrap(2**32 - 50) == 2**32 - 50
    assert unwrapper.unwrap(200) == 2**32 + 200


def test_a_report_that_runs_ahead_does_not_move_the_unwrapper() -> None:
    unwrapper = RtpUnwrapper()
    unwrapper.unwrap(1000)
    assert unwrapper.nearest(2**31) == 2**31
    assert unwrapper.nearest(2**32 - 1) == -1
    assert unwrapper.unwrap(2000) == 2000


def test_before_any_packet_a_report_keeps_its_timestamp() -> None:
    assert RtpUnwrapper().nearest(123) == 123


def test_ntp_time_is_converted_to_nanoseconds() -> None:
    report = SenderReport(ssrc=1, ntp_q32=(3_900_000_000 << 32) + (1 << 31), rtp_timestamp=0, arrival_ns=0)
    assert report.ntp_ns == 3_900_000_000 * NS_PER_S + NS_PER_S // 2
