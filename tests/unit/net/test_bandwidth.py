import pytest

from bridge.media.clock import NS_PER_S
from bridge.net.bandwidth import CEILING_BPS, FLOOR_BPS, BandwidthEstimate


class Path:
    """A second at a time: so many megabits arrive, and a share of the packets does not."""

    def __init__(self) -> None:
        self.estimate = BandwidthEstimate(0)
        self.now_ns = 0

    def second(self, received_mbps: float, share_lost: float) -> int:
        self.now_ns += NS_PER_S
        self.estimate.received_bytes += round(received_mbps * 125_000)
        return self.estimate.update(self.now_ns, share_lost)


def test_a_path_that_loses_little_is_told_the_ceiling() -> None:
    path = Path()
    assert [path.second(2.5, share) for share in (0.0, 0.01, 0.05)] == [CEILING_BPS] * 3


def test_a_path_that_loses_more_is_told_less_than_it_carried() -> None:
    path = Path()
    assert path.second(2.0, 0.06) == 1_700_000
    assert path.second(1.0, 0.5) == 850_000


def test_afterwards_it_is_told_eight_per_cent_more_each_second_up_to_the_ceiling() -> None:
    path = Path()
    path.second(2.0, 0.06)
    assert path.second(1.7, 0.0) == pytest.approx(1_700_000 * 1.08, abs=2)
    assert path.second(1.7, 0.0) == pytest.approx(1_700_000 * 1.08**2, abs=2)
    assert [path.second(1.7, 0.0) for _ in range(60)][-1] == CEILING_BPS


def test_a_sender_at_rest_is_not_throttled_to_nothing() -> None:
    path = Path()
    assert path.second(0.0, 1.0) == FLOOR_BPS
