import pytest

from benchmarks.capacity import cumulated, quantile

INF = float("inf")
METRICS = """\
# TYPE avatar_bridge_added_latency_seconds histogram
avatar_bridge_added_latency_seconds_bucket{le="0.001",mode="copy",output="out",session="a"} 90
avatar_bridge_added_latency_seconds_bucket{le="0.01",mode="copy",output="out",session="a"} 98
avatar_bridge_added_latency_seconds_bucket{le="+Inf",mode="copy",output="out",session="a"} 100
avatar_bridge_added_latency_seconds_count{mode="copy",output="out",session="a"} 100
avatar_bridge_added_latency_seconds_sum{mode="copy",output="out",session="a"} 1
avatar_bridge_added_latency_seconds_bucket{le="0.001",mode="copy",output="out",session="b"} 100
avatar_bridge_added_latency_seconds_bucket{le="0.01",mode="copy",output="out",session="b"} 100
avatar_bridge_added_latency_seconds_bucket{le="+Inf",mode="copy",output="out",session="b"} 100
# TYPE avatar_bridge_event_loop_lag_seconds histogram
avatar_bridge_event_loop_lag_seconds_bucket{le="0.001"} 7
"""


def test_the_latencies_of_all_sessions_are_taken_together() -> None:
    assert cumulated(METRICS) == {0.001: 190, 0.01: 198, INF: 200}


@pytest.mark.parametrize(
    ("share", "value"), [(0.475, 0.0005), (0.95, 0.001), (0.99, 0.01), (0.97, 0.0055), (0.995, INF)]
)
def test_a_quantile_lies_in_its_bucket_as_if_values_lay_evenly_there(share: float, value: float) -> None:
    assert quantile({0.001: 190, 0.01: 198, INF: 200}, share) == pytest.approx(value)


def test_of_nothing_there_is_no_quantile() -> None:
    assert quantile({0.001: 0, INF: 0}, 0.99) is None
    assert quantile({}, 0.99) is None
