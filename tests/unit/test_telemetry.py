import time
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from bridge.media.access_unit import AccessUnit, CaptureTime, Codec
from bridge.media.clock import NS_PER_MS
from bridge.ops.metrics import Metrics
from bridge.outputs.choice import Mode, Way
from bridge.telemetry import OutputTelemetry, Telemetry
from tests.unit.outputs.fakes import Rig, publish

GLASS = "avatar_bridge_glass_to_glass_seconds"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def output(registry: CollectorRegistry) -> OutputTelemetry:
    return Telemetry(Metrics(registry).session("leo", "navtalk")).output("live", "rtmp")


def test_a_picture_is_as_old_as_its_capture_when_it_is_written(
    registry: CollectorRegistry, output: OutputTelemetry
) -> None:
    now_ns = time.monotonic_ns()
    picture = AccessUnit(Codec.H264, b"", 0, arrival_ns=now_ns)
    output.on_written(replace(picture, captured=CaptureTime(now_ns - 700 * NS_PER_MS, "capture")))
    output.on_written(replace(picture, captured=CaptureTime(now_ns - 300 * NS_PER_MS, "sender_report")))
    output.on_written(picture)
    for basis, age_s in (("capture", 0.7), ("sender_report", 0.3)):
        labels = {"session": "leo", "output": "live", "basis": basis}
        assert registry.get_sample_value(f"{GLASS}_count", labels) == 1
        assert age_s <= (registry.get_sample_value(f"{GLASS}_sum", labels) or 0) < age_s + 0.1
    output.close()
    assert registry.get_sample_value(f"{GLASS}_count", labels) is None


def test_the_mode_of_an_output_is_one_series_and_latency_is_told_by_mode(registry: CollectorRegistry) -> None:
    rig = Rig(publish)
    output = Telemetry(Metrics(registry).session("leo", "navtalk")).output("live", "rtmp")
    picture = AccessUnit(Codec.H264, b"", 0, arrival_ns=time.monotonic_ns())
    labels = {"session": "leo", "output": "live"}
    for mode, count in ((Mode(Way.COPY, "as_received"), 1), (Mode(Way.ENCODE, "size"), 2)):
        rig.runner.on_mode(mode)
        output.on_change(rig.changes[-1])
        for _ in range(count):
            output.on_written(picture)
    modes = {("copy", "as_received"): 0, ("encode", "size"): 1}
    for (mode_name, reason), value in modes.items():
        series = labels | {"mode": mode_name, "reason": reason}
        assert registry.get_sample_value("avatar_bridge_output_mode", series) == value
    for mode_name, count in (("copy", 1), ("encode", 2)):
        series = labels | {"mode": mode_name}
        assert registry.get_sample_value("avatar_bridge_added_latency_seconds_count", series) == count
