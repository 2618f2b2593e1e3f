import asyncio
import math
import re

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from bridge.ops.app import exposition
from bridge.ops.metrics import EventLoopLag, Metrics

# contract: name without prefix -> type, labels. A change here breaks dashboards.
PROMISED = {
    "added_latency_seconds": ("histogram", "session output mode"),
    "glass_to_glass_seconds": ("histogram", "session output basis"),
    "event_loop_lag_seconds": ("histogram", ""),
    "jitter_buffer_seconds": ("gauge", "session kind"),
    "time_to_first_frame_seconds": ("histogram", "session phase"),
    "keyframe_interval_seconds": ("histogram", "session side"),
    "output_reconnect_seconds": ("histogram", "session output protocol"),
    "av_offset_seconds": ("gauge", "session"),
    "av_drift_ppm": ("gauge", "session"),
    "sender_reports_rejected": ("counter", "session"),
    "nudged_units": ("counter", "session"),
    "session_state": ("gauge", "session state"),
    "output_state": ("gauge", "session output state"),
    "output_mode": ("gauge", "session output mode reason"),
    "sessions": ("gauge", ""),
    "capacity_sessions": ("gauge", ""),
    "output_queue_seconds": ("gauge", "session output protocol"),
    "output_last_progress_timestamp_seconds": ("gauge", "session output protocol"),
    "input_level_dbfs": ("gauge", "session"),
    "provider_session_seconds": ("gauge", "session service"),
    "build_info": ("gauge", "version python"),
    "rtp_packets": ("counter", "session kind result"),
    "nack": ("counter", "session direction"),
    "pli": ("counter", "session direction reason"),
    "output_bytes": ("counter", "session output protocol"),
    "output_dropped_units": ("counter", "session output protocol reason"),
    "output_viewers": ("gauge", "session output protocol"),
    "output_viewer_requests": ("counter", "session output protocol type"),
    "output_viewer_packets_dropped": ("counter", "session output protocol"),
    "transcript_errors": ("counter", "session output protocol"),
    "output_reconnects": ("counter", "session output protocol reason"),
    "provider_reconnects": ("counter", "session service reason"),
    "provider_events": ("counter", "session service type"),
    "response_latency_seconds": ("histogram", "session"),
    "interrupt_to_silence_seconds": ("histogram", "session"),
    "tool_calls": ("counter", "session result"),
    "input_underruns": ("counter", "session"),
    "slate_active": ("gauge", "session"),
    "slate_seconds": ("counter", "session reason"),
    "freezes": ("counter", "session"),
    "late_units": ("counter", "session"),
    "freeze_seconds": ("counter", "session"),
    "datagrams_rejected": ("counter", "session reason"),
    "audio_concealed_seconds": ("counter", "session"),
}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def scrape(metrics: Metrics) -> dict[str, float]:
    """Every sample of ours as `name{labels}`, prefix and processes' own metrics left out."""
    samples = {}
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        for sample in family.samples:
            if sample.name.startswith("avatar_bridge_"):
                labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
                samples[f"{sample.name.removeprefix('avatar_bridge_')}{{{labels}}}"] = sample.value
    return samples


def test_names_types_and_labels_are_the_promised_ones(metrics: Metrics) -> None:
    found = {
        family.name.removeprefix("avatar_bridge_"): family.type
        for family in metrics.registry.collect()
        if family.name.startswith("avatar_bridge_")
    }
    assert found == {name: kind for name, (kind, _) in PROMISED.items()}
    for name, (_, labels) in PROMISED.items():
        attribute = f"{name}_total" if hasattr(metrics, f"{name}_total") else name
        if name != "build_info":
            assert " ".join(getattr(metrics, attribute)._labelnames) == labels, name


def test_names_and_help_texts_follow_the_naming_rules_that_promtool_checks(metrics: Metrics) -> None:
    for family in metrics.registry.collect():
        assert family.documentation, family.name
        if not family.name.startswith("avatar_bridge_"):
            continue
        assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name)
        assert not re.search(r"_(count|sum|bucket|total|info)$", family.name) or family.name.endswith("build_info")
        assert not re.search(
            r"_(milliseconds|ms|minutes|hours|kilobytes|percent|counter|gauge|histogram)\b", family.name
        )
        if family.type == "histogram":
            assert family.name.endswith("_seconds")


def test_latency_buckets_are_a_quarter_millisecond_to_a_second(metrics: Metrics) -> None:
    metrics.event_loop_lag_seconds.observe(0.0)
    bounds = [float(name.split("le=")[1].rstrip("}")) for name in scrape(metrics) if "lag_seconds_bucket" in name]
    expected_ms = [0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 250, 500, 1000]
    assert bounds[:-1] == pytest.approx([ms / 1000 for ms in expected_ms])
    assert bounds[-1] == float("inf")


def test_series_of_an_output_that_goes_are_removed_and_others_stay(metrics: Metrics) -> None:
    with metrics.session("leo", "navtalk") as leo:
        leo.pli_total(direction="out", reason="start").inc()
        with leo.output("archive", "file") as kept:
            kept.output_bytes_total().inc(7)
            with leo.output("twitch", "rtmp") as gone:
                gone.output_bytes_total().inc(5)
                gone.added_latency_seconds(mode="copy").observe(0.001)
            assert not [name for name in scrape(metrics) if "twitch" in name]
            assert scrape(metrics)["output_bytes_total{output=archive,protocol=file,session=leo}"] == 7
    assert not [name for name in scrape(metrics) if "leo" in name]


async def test_an_exposition_that_lets_others_work_between_families_is_the_whole_of_it(metrics: Metrics) -> None:
    others = 0

    async def work() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    with metrics.session("leo", "navtalk") as session:
        session.rtp_packets_total(kind="video", result="received").inc()
        working = asyncio.create_task(work())
        text = await exposition(metrics.registry)
        working.cancel()
        assert b'result="received"' in text
        # The process' CPU time goes on.
        lines, whole = (each.splitlines() for each in (text, generate_latest(metrics.registry)))
        assert [line for line in lines if b"process_" not in line] == [
            line for line in whole if b"process_" not in line
        ]
    assert others >= len(list(metrics.registry.collect()))


def test_the_count_of_sessions_is_that_of_open_contexts(metrics: Metrics) -> None:
    with metrics.session("a", "navtalk"), metrics.session("b", "navtalk"):
        assert scrape(metrics)["sessions{}"] == 2
    assert scrape(metrics)["sessions{}"] == 0


def test_what_has_to_be_found_out_has_no_series_before_and_is_nan_afterwards(metrics: Metrics) -> None:
    with metrics.session("leo", "navtalk") as leo:
        leo.av_offset_seconds.tell(None)
        assert "av_offset_seconds{session=leo}" not in scrape(metrics)
        leo.av_offset_seconds.tell(0.002)
        assert scrape(metrics)["av_offset_seconds{session=leo}"] == 0.002
        leo.av_offset_seconds.tell(None)
        assert math.isnan(scrape(metrics)["av_offset_seconds{session=leo}"])


def test_a_state_is_one_hot(metrics: Metrics) -> None:
    with metrics.session("leo", "navtalk") as leo:
        leo.session_state.switch(state="connecting")
        leo.session_state.switch(state="live")
        leo.session_state.switch(state="live")
        assert scrape(metrics)["session_state{session=leo,state=connecting}"] == 0
        assert scrape(metrics)["session_state{session=leo,state=live}"] == 1


def test_a_restarted_session_shows_no_state_of_the_outputs_before(metrics: Metrics) -> None:
    with metrics.session("leo", "navtalk") as leo:
        other, before = leo.output("other", "file"), leo.output("twitch", "rtmp")
        other.output_state.switch(state="publishing")
        before.output_state.switch(state="closed")
        before.output_mode.switch(mode="copy", reason="")
        after = leo.output("twitch", "rtmp")
        after.output_state.switch(state="publishing")
        states = {name: value for name, value in scrape(metrics).items() if name.startswith("output_state")}
        assert states == {
            "output_state{output=other,session=leo,state=publishing}": 1,
            "output_state{output=twitch,session=leo,state=publishing}": 1,
        }
        assert not [name for name in scrape(metrics) if name.startswith("output_mode")]


def test_a_counter_follows_a_total_and_takes_a_smaller_one_for_a_new_count(metrics: Metrics) -> None:
    with metrics.session("leo", "navtalk") as leo:
        for total in (3, 3, 10, 4):
            leo.rtp_packets_total.follow(total, kind="video", result="lost")
        assert scrape(metrics)["rtp_packets_total{kind=video,result=lost,session=leo}"] == 10 + 4


def test_no_series_exists_before_it_has_a_value(metrics: Metrics) -> None:
    with metrics.session("leo", "navtalk") as leo, leo.output("x", "rtmp"):
        assert not [name for name in scrape(metrics) if "leo" in name]


async def test_event_loop_lag_is_observed_until_cancelled(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventLoopLag, "INTERVAL_S", 0.0)
    async with asyncio.TaskGroup() as tasks:
        lag = tasks.create_task(EventLoopLag(metrics).run())
        for _ in range(5):
            await asyncio.sleep(0)
        lag.cancel()
    assert scrape(metrics)["event_loop_lag_seconds_count{}"] > 0
