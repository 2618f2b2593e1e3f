import time
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from bridge.media.access_unit import AccessUnit, CaptureTime, Codec
from bridge.media.clock import NS_PER_MS
from bridge.ops.metrics import Metrics
from bridge.telemetry import OutputTelemetry, Telemetry

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
