"""Every metric there is, in one file: base units, low cardinality, one registry that is passed in.

A session and an output hold their metrics with their own labels filled in, so that a call site is one line:

    metrics.rtp_packets_total(kind="video", result="lost").inc()

When they go, their series go with them.
"""

import asyncio
import math
import platform
from collections.abc import Mapping, Sequence
from typing import Final, Generic, Self, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.metrics import MetricWrapperBase

import bridge

PREFIX: Final = "avatar_bridge_"

# From a write on an idle loop to a stall that viewers see.
LATENCY_BUCKETS_S = (0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
# From an answer that feels immediate to one that nobody waits for.
WAIT_BUCKETS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 10.0)

FamilyT = TypeVar("FamilyT", Counter, Gauge, Histogram)
MetricT = TypeVar("MetricT", bound=MetricWrapperBase)

_SESSION = ("session",)
_SERVICE = ("session", "service")
_OUTPUT = ("session", "output", "protocol")


class Metrics:
    """All families of a process. Names, labels and buckets are a promise to dashboards and alerts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        # A second series per counter and histogram that nothing reads.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry
        self._families: list[tuple[MetricWrapperBase, frozenset[str]]] = []
        ProcessCollector(registry=registry)

        def keep(family: FamilyT, labels: Sequence[str]) -> FamilyT:
            self._families.append((family, frozenset(labels)))
            return family

        def counter(name: str, text: str, labels: Sequence[str]) -> Counter:
            return keep(Counter(PREFIX + name, text, labels, registry=registry), labels)

        def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
            return keep(Gauge(PREFIX + name, text, labels, registry=registry), labels)

        def latency(name: str, text: str, labels: Sequence[str] = ()) -> Histogram:
            buckets = LATENCY_BUCKETS_S
            return keep(Histogram(PREFIX + name, text, labels, buckets=buckets, registry=registry), labels)

        def wait(name: str, text: str, labels: Sequence[str]) -> Histogram:
            buckets = WAIT_BUCKETS_S
            return keep(Histogram(PREFIX + name, text, labels, buckets=buckets, registry=registry), labels)

        # The process.
        self.event_loop_lag_seconds = latency(
            "event_loop_lag_seconds", "How late the event loop runs what was due; everything else waits as long."
        )
        self.sessions = gauge("sessions", "Sessions that run.")
        self.capacity_sessions = gauge("capacity_sessions", "Beyond so many, API calls begin none.")
        build_info = gauge("build_info", "Always 1; the labels tell what runs.", ("version", "python"))
        build_info.labels(version=bridge.__version__, python=platform.python_version()).set(1)

        # A session.
        self.session_state = gauge("session_state", "1 for the state the session is in.", (*_SESSION, "state"))
        self.av_offset_seconds = gauge(
            "av_offset_seconds",
            "Sound against picture as published; above 0 sound is early (ITU-R BT.1359). NaN: not known at present.",
            _SESSION,
        )
        self.av_drift_ppm = gauge(
            "av_drift_ppm",
            "The avatar's media clock against ours, in millionths; above 0 it runs fast. NaN: not known at present.",
            _SESSION,
        )
        self.sender_reports_rejected_total = counter(
            "sender_reports_rejected_total", "Pairs of sender reports that contradict the arrivals of media.", _SESSION
        )
        self.nudged_units_total = counter(
            "nudged_units_total", "Units moved because they would not have been later than the one before.", _SESSION
        )
        self.jitter_buffer_seconds = gauge(
            "jitter_buffer_seconds",
            "Longest that a packet was held back for a missing one, in the second before.",
            (*_SESSION, "kind"),
        )
        self.time_to_first_frame_seconds = wait(
            "time_to_first_frame_seconds", "Start of the session to the phase's end.", (*_SESSION, "phase")
        )
        self.keyframe_interval_seconds = wait(
            "keyframe_interval_seconds", "Media time from one keyframe to the next.", (*_SESSION, "side")
        )
        self.rtp_packets_total = counter(
            "rtp_packets_total",
            "RTP packets; result is received, lost, recovered, late or invalid.",
            (*_SESSION, "kind", "result"),
        )
        self.nack_total = counter("nack_total", "Retransmissions asked for (RFC 4585).", (*_SESSION, "direction"))
        self.pli_total = counter("pli_total", "Keyframes asked for (RFC 4585).", (*_SESSION, "direction", "reason"))
        self.datagrams_rejected_total = counter(
            "datagrams_rejected_total", "UDP datagrams that the guard dropped.", (*_SESSION, "reason")
        )
        self.input_level_dbfs = gauge("input_level_dbfs", "Level of what the input delivers, dBFS.", _SESSION)
        self.input_underruns_total = counter(
            "input_underruns_total", "Times an input that plays had no sound ready when it was due.", _SESSION
        )

        self.audio_concealed_seconds_total = counter(
            "audio_concealed_seconds_total",
            "Sound that was lost or broken and made up; what in-band FEC restored is not counted.",
            _SESSION,
        )

        # What its viewers get.
        self.slate_active = gauge("slate_active", "1 while a slate stands in for the avatar.", _SESSION)
        self.slate_seconds_total = counter(
            "slate_seconds_total",
            "Time on slates; reason is starting, avatar, operator or no_video.",
            (*_SESSION, "reason"),
        )
        self.freezes_total = counter("freezes_total", "Times the pictures paused for half a second or more.", _SESSION)
        self.freeze_seconds_total = counter(
            "freeze_seconds_total", "How long pictures stood still, until live again or a slate.", _SESSION
        )

        self.late_units_total = counter(
            "late_units_total", "Live units that came after what had to stand in for them.", _SESSION
        )

        # Its avatar service.
        self.provider_session_seconds = gauge(
            "provider_session_seconds", "Age of the session at the avatar service; 0 without one.", _SERVICE
        )
        self.provider_reconnects_total = counter(
            "provider_reconnects_total", "New sessions at the avatar service after the first.", (*_SERVICE, "reason")
        )
        self.provider_events_total = counter(
            "provider_events_total", "Events of the avatar service, by the kind the bridge sees.", (*_SERVICE, "type")
        )
        self.response_latency_seconds = wait(
            "response_latency_seconds",
            "The end of speech in a conversation to the arrival of the avatar's first voiced sound.",
            _SESSION,
        )
        self.interrupt_to_silence_seconds = wait(
            "interrupt_to_silence_seconds",
            "An interruption of the avatar to the arrival of its first silent sound.",
            _SESSION,
        )
        self.tool_calls_total = counter(
            "tool_calls_total", "Tool calls of the avatar's model: answered, default or unsent.", (*_SESSION, "result")
        )

        # An output.
        self.output_state = gauge("output_state", "1 for the state the output is in.", ("session", "output", "state"))
        self.output_mode = gauge(
            "output_mode",
            "1 for how pictures reach the output, and why: copy, encode, or slate in place of what it cannot have.",
            ("session", "output", "mode", "reason"),
        )
        self.added_latency_seconds = latency(
            "added_latency_seconds",
            "Last packet of a picture received to its last byte written.",
            ("session", "output", "mode"),
        )
        self.glass_to_glass_seconds = wait(
            "glass_to_glass_seconds",
            "Capture of a picture at the avatar to its last byte written, by an estimate of the avatar's clock that"
            " errs by half of how much longer one direction of the path is. basis is capture (its sender has stamped"
            " it) or sender_report (only its RTP timestamp tells, mostly without the encoding).",
            ("session", "output", "basis"),
        )
        self.output_queue_seconds = gauge("output_queue_seconds", "Media time that waits to be written.", _OUTPUT)
        self.output_last_progress_timestamp_seconds = gauge(
            "output_last_progress_timestamp_seconds", "Unix time at which bytes last left for the far end.", _OUTPUT
        )
        self.output_reconnect_seconds = wait(
            "output_reconnect_seconds", "Loss of an output to its next acceptance by the far end.", _OUTPUT
        )
        self.output_bytes_total = counter("output_bytes_total", "Bytes that left for the far end.", _OUTPUT)
        self.output_dropped_units_total = counter(
            "output_dropped_units_total", "Pictures and sound dropped before the output.", (*_OUTPUT, "reason")
        )
        self.output_viewers = gauge("output_viewers", "Viewers that are connected, or about to be.", _OUTPUT)
        self.output_viewer_requests_total = counter(
            "output_viewer_requests_total",
            "What viewers asked for; type is repeat (a lost packet) or keyframe.",
            (*_OUTPUT, "type"),
        )
        self.output_viewer_packets_dropped_total = counter(
            "output_viewer_packets_dropped_total", "Packets for viewers that the network could not take.", _OUTPUT
        )
        self.transcript_errors_total = counter(
            "transcript_errors_total", "Utterances that could not be written beside a recording.", _OUTPUT
        )
        self.output_reconnects_total = counter(
            "output_reconnects_total", "Attempts to publish after the first.", (*_OUTPUT, "reason")
        )

    def session(self, name: str, service: str) -> "SessionMetrics":
        """The metrics of one session; a context that counts it, and removes its series at the end."""
        return SessionMetrics(self, name, service)

    def remove(self, labels: Mapping[str, str]) -> None:
        """Remove every series that carries all of these labels."""
        for family, names in self._families:
            if labels.keys() <= names:
                family.remove_by_labels(dict(labels))


class Bound(Generic[MetricT]):
    """A family with some labels filled in; calling it with the others gives the series."""

    def __init__(self, family: MetricT, labels: Mapping[str, str]) -> None:
        self._family = family
        self._labels = labels

    def __call__(self, **labels: str) -> MetricT:
        return self._family.labels(**self._labels, **labels)


class BoundCounter(Bound[Counter]):
    """A counter, which may also follow a total that is kept elsewhere."""

    def __init__(self, family: Counter, labels: Mapping[str, str]) -> None:
        super().__init__(family, labels)
        self._totals: dict[frozenset[tuple[str, str]], float] = {}

    def follow(self, total: float, **labels: str) -> None:
        """Count up to `total`. A total smaller than the one before is a new count that began at zero."""
        series = frozenset(labels.items())
        last = self._totals.get(series, 0.0)
        self(**labels).inc(total - last if total >= last else total)
        self._totals[series] = total


class Finding(Bound[Gauge]):
    """A gauge of what has to be found out: there is no series before it is known, and it is NaN when it is no more."""

    def __init__(self, family: Gauge, labels: Mapping[str, str]) -> None:
        super().__init__(family, labels)
        self._was_known = False

    def tell(self, value: float | None) -> None:
        """None: not known."""
        self._was_known |= value is not None
        if self._was_known:
            self().set(math.nan if value is None else value)


class OneHot(Bound[Gauge]):
    """A gauge of which one series is 1: the state, the mode. A new one forgets what one before it has set."""

    def __init__(self, family: Gauge, labels: Mapping[str, str]) -> None:
        super().__init__(family, labels)
        self._current: Gauge | None = None
        family.remove_by_labels(dict(labels))

    def switch(self, **labels: str) -> None:
        """Set one series to 1, and the one that was set before to 0."""
        if self._current is not None:
            self._current.set(0)
        self._current = self(**labels)
        self._current.set(1)


class SessionMetrics:
    """The metrics of one session, of its input and of its avatar service."""

    def __init__(self, metrics: Metrics, name: str, service: str) -> None:
        self._metrics = metrics
        self._session = session = {"session": name}
        with_service = {**session, "service": service}
        self.session_state = OneHot(metrics.session_state, session)
        self.av_offset_seconds = Finding(metrics.av_offset_seconds, session)
        self.av_drift_ppm = Finding(metrics.av_drift_ppm, session)
        self.sender_reports_rejected_total = BoundCounter(metrics.sender_reports_rejected_total, session)
        self.nudged_units_total = BoundCounter(metrics.nudged_units_total, session)
        self.jitter_buffer_seconds = Bound(metrics.jitter_buffer_seconds, session)
        self.time_to_first_frame_seconds = Bound(metrics.time_to_first_frame_seconds, session)
        self.keyframe_interval_seconds = Bound(metrics.keyframe_interval_seconds, session)
        self.rtp_packets_total = BoundCounter(metrics.rtp_packets_total, session)
        self.nack_total = BoundCounter(metrics.nack_total, session)
        self.pli_total = BoundCounter(metrics.pli_total, session)
        self.datagrams_rejected_total = BoundCounter(metrics.datagrams_rejected_total, session)
        self.input_level_dbfs = Bound(metrics.input_level_dbfs, session)
        self.input_underruns_total = BoundCounter(metrics.input_underruns_total, session)
        self.audio_concealed_seconds_total = BoundCounter(metrics.audio_concealed_seconds_total, session)
        self.slate_active = Bound(metrics.slate_active, session)
        self.slate_seconds_total = BoundCounter(metrics.slate_seconds_total, session)
        self.freezes_total = BoundCounter(metrics.freezes_total, session)
        self.late_units_total = BoundCounter(metrics.late_units_total, session)
        self.freeze_seconds_total = BoundCounter(metrics.freeze_seconds_total, session)
        self.provider_session_seconds = Bound(metrics.provider_session_seconds, with_service)
        self.provider_reconnects_total = BoundCounter(metrics.provider_reconnects_total, with_service)
        self.provider_events_total = BoundCounter(metrics.provider_events_total, with_service)
        self.response_latency_seconds = Bound(metrics.response_latency_seconds, session)
        self.interrupt_to_silence_seconds = Bound(metrics.interrupt_to_silence_seconds, session)
        self.tool_calls_total = BoundCounter(metrics.tool_calls_total, session)

    def __enter__(self) -> Self:
        self._metrics.sessions.inc()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._metrics.sessions.dec()
        self._metrics.remove(self._session)

    def output(self, name: str, protocol: str) -> "OutputMetrics":
        """The metrics of one output; a context that removes its series at the end."""
        return OutputMetrics(self._metrics, {**self._session, "output": name}, protocol)


class OutputMetrics:
    """The metrics of one output."""

    def __init__(self, metrics: Metrics, output: Mapping[str, str], protocol: str) -> None:
        self._metrics = metrics
        self._output = output
        with_protocol = {**output, "protocol": protocol}
        self.output_state = OneHot(metrics.output_state, output)
        self.output_mode = OneHot(metrics.output_mode, output)
        self.added_latency_seconds = Bound(metrics.added_latency_seconds, output)
        self.glass_to_glass_seconds = Bound(metrics.glass_to_glass_seconds, output)
        self.output_queue_seconds = Bound(metrics.output_queue_seconds, with_protocol)
        self.output_last_progress_timestamp_seconds = Bound(
            metrics.output_last_progress_timestamp_seconds, with_protocol
        )
        self.output_reconnect_seconds = Bound(metrics.output_reconnect_seconds, with_protocol)
        self.output_bytes_total = BoundCounter(metrics.output_bytes_total, with_protocol)
        self.output_dropped_units_total = BoundCounter(metrics.output_dropped_units_total, with_protocol)
        self.output_reconnects_total = BoundCounter(metrics.output_reconnects_total, with_protocol)
        self.transcript_errors_total = BoundCounter(metrics.transcript_errors_total, with_protocol)
        self.output_viewers = Bound(metrics.output_viewers, with_protocol)
        self.output_viewer_requests_total = BoundCounter(metrics.output_viewer_requests_total, with_protocol)
        self.output_viewer_packets_dropped_total = BoundCounter(
            metrics.output_viewer_packets_dropped_total, with_protocol
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._metrics.remove(self._output)


class EventLoopLag:
    """Measures how late the event loop runs what is due."""

    # Often enough to meet a stall of one frame time now and then, at a cost of 0.01 % of a core.
    INTERVAL_S = 0.1

    def __init__(self, metrics: Metrics) -> None:
        self._lag = metrics.event_loop_lag_seconds

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + self.INTERVAL_S
            await asyncio.sleep(self.INTERVAL_S)
            self._lag.observe(max(0.0, loop.time() - due_s))
