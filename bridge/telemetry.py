"""What a session tells about itself: its metrics, and what viewers get for its status."""

import contextlib
import functools
import time
from collections import deque

from bridge.connection import Connection
from bridge.media.access_unit import AccessUnit, Kind
from bridge.media.clock import NS_PER_S
from bridge.ops.metrics import OutputMetrics, SessionMetrics
from bridge.outputs.hub import Hub
from bridge.outputs.status import OutputState, OutputStatus
from bridge.programme import Programme
from bridge.reception import Reception
from bridge.status import MediaStatus
from bridge.timeline.splice import OnAir
from bridge.uplink import Uplink

# A minute of 30 pictures a second: enough for a 99th percentile that means something, and it forgets old trouble.
N_LATENCIES = 1800
# Sorting them takes long enough that whoever asks often gets the same answer again.
LATENCIES_HOLD_NS = NS_PER_S
KINDS: tuple[Kind, ...] = ("audio", "video")


class OutputTelemetry:
    """Follows one output; its methods are the runner's callbacks."""

    def __init__(self, metrics: OutputMetrics, protocol: str) -> None:
        self.is_live = protocol not in ("file", "hls")
        self.latencies_s: deque[float] = deque(maxlen=N_LATENCIES)
        self._series = contextlib.ExitStack()
        self._metrics = self._series.enter_context(metrics)
        self._latency = metrics.added_latency_seconds(mode="copy")
        self._mode = ("", "")
        self._glass = functools.cache(metrics.glass_to_glass_seconds)
        self._lost_ns: int | None = None

    def on_written(self, unit: AccessUnit) -> None:
        if unit.codec.kind == "video" and unit.arrival_ns:  # a slate does not arrive
            now_ns = time.monotonic_ns()
            latency_s = (now_ns - unit.arrival_ns) / NS_PER_S
            self.latencies_s.append(latency_s)
            self._latency.observe(latency_s)
            if unit.captured is not None:
                self._glass(basis=unit.captured.basis).observe((now_ns - unit.captured.at_ns) / NS_PER_S)

    def on_change(self, status: OutputStatus) -> None:
        self._metrics.output_state.switch(state=status.state.value)
        if (mode := (status.mode, status.mode_reason)) != self._mode:
            self._mode = mode
            self._metrics.output_mode.switch(mode=status.mode, reason=status.mode_reason)
            self._latency = self._metrics.added_latency_seconds(mode=status.mode)
        match status.state:
            case OutputState.BACKING_OFF if self._lost_ns is None and status.accepted:
                self._lost_ns = time.monotonic_ns()
            case OutputState.PUBLISHING if self._lost_ns is not None:
                self._metrics.output_reconnect_seconds().observe((time.monotonic_ns() - self._lost_ns) / NS_PER_S)
                self._lost_ns = None

    def close(self) -> None:
        """Remove its series."""
        self._series.close()

    def publish(self, status: OutputStatus) -> None:
        metrics = self._metrics
        metrics.output_queue_seconds().set(status.queue_s)
        metrics.output_bytes_total.follow(status.bytes_total)
        if status.protocol == "file":
            metrics.transcript_errors_total.follow(status.transcript_errors)
        if status.last_progress_s is not None:
            metrics.output_last_progress_timestamp_seconds().set(status.last_progress_s)
        if status.audience is not None:
            metrics.output_viewers().set(status.audience.viewers)
            metrics.output_viewer_requests_total.follow(status.audience.repeats_asked, type="repeat")
            metrics.output_viewer_requests_total.follow(status.audience.keyframes_asked, type="keyframe")
            metrics.output_viewer_packets_dropped_total.follow(status.audience.packets_dropped)
        for reason, count in status.dropped_units.items():
            metrics.output_dropped_units_total.follow(count, reason=reason)
        for reason, count in status.reconnects.items():
            metrics.output_reconnects_total.follow(count, reason=reason)


class Telemetry:
    """Follows one session: units as they pass, everything else when `publish` looks."""

    def __init__(self, metrics: SessionMetrics) -> None:
        self._metrics = metrics
        self._outputs: dict[str, OutputTelemetry] = {}
        self._started_ns = time.monotonic_ns()
        self._first_picture_s: float | None = None
        self._n_pictures = 0
        self._video_bytes = 0
        self._rates: deque[tuple[int, int, int]] = deque([(self._started_ns, 0, 0)], maxlen=2)
        self._last_keyframe_ns: int | None = None
        self._reception: Reception | None = None  # the newest: what it has counted holds after its end
        self._sorted_s: list[float] = []
        self._sorted_ns = self._started_ns - LATENCIES_HOLD_NS

    def output(self, name: str, protocol: str) -> OutputTelemetry:
        """The follower of one output."""
        self._outputs[name] = OutputTelemetry(self._metrics.output(name, protocol), protocol)
        return self._outputs[name]

    def forget(self, name: str) -> None:
        """An output is no more, and with it go its series."""
        self._outputs.pop(name).close()

    def on_unit(self, unit: AccessUnit) -> None:
        """A unit goes on air."""
        if unit.codec.kind != "video":
            return
        self._n_pictures += 1
        self._video_bytes += len(unit.payload)
        if not unit.arrival_ns:
            return  # a slate
        if self._first_picture_s is None:
            self._first_picture_s = (time.monotonic_ns() - self._started_ns) / NS_PER_S
            self._metrics.time_to_first_frame_seconds(phase="avatar").observe(self._first_picture_s)
        if unit.is_keyframe:
            if self._last_keyframe_ns is not None:
                interval_s = (unit.pts_ns - self._last_keyframe_ns) / NS_PER_S
                self._metrics.keyframe_interval_seconds(side="received").observe(interval_s)
            self._last_keyframe_ns = unit.pts_ns

    def publish(self, uplink: Uplink, connection: Connection | None, programme: Programme, hub: Hub) -> None:
        """Publish what nobody announces; to be called once a second."""
        self._rates.append((time.monotonic_ns(), self._n_pictures, self._video_bytes))
        metrics, splice = self._metrics, programme.splice
        metrics.input_level_dbfs().set(uplink.level_dbfs)
        metrics.input_underruns_total.follow(uplink.underruns)
        metrics.audio_concealed_seconds_total.follow(hub.repairs.concealed_s)
        metrics.slate_active().set(splice.state is OnAir.SLATE)
        metrics.freezes_total.follow(splice.freezes)
        metrics.freeze_seconds_total.follow(splice.frozen_ns / NS_PER_S)
        metrics.late_units_total.follow(splice.late_units)
        for cause, slate_ns in programme.slate_total_ns.items():
            metrics.slate_seconds_total.follow(slate_ns / NS_PER_S, reason=cause)
        metrics.av_offset_seconds.tell(connection.reception.av_offset_s if connection else None)
        metrics.av_drift_ppm.tell(connection.reception.av_drift_ppm if connection else None)
        if connection is not None:
            self._publish_connection(connection)
        for runner in hub.runners:
            self._outputs[runner.name].publish(runner.status())

    def _publish_connection(self, connection: Connection) -> None:
        metrics, reception = self._metrics, connection.reception
        self._reception = reception
        metrics.sender_reports_rejected_total.follow(reception.rejected_reports)
        metrics.nudged_units_total.follow(reception.nudged_units)
        metrics.nack_total.follow(reception.nacks, direction="sent")
        for reason, count in reception.keyframe_requests.items():
            metrics.pli_total.follow(count, direction="sent", reason=reason)
        for kind in KINDS:
            metrics.jitter_buffer_seconds(kind=kind).set(reception.longest_hold_s(kind))
            if stats := reception.stats(kind):
                for result in ("received", "lost", "recovered", "late", "invalid"):
                    metrics.rtp_packets_total.follow(getattr(stats, result), kind=kind, result=result)
        if connection.link is not None:
            for reason, count in connection.link.datagrams_rejected.items():
                metrics.datagrams_rejected_total.follow(count, reason=reason)
        if connection.link is not None and connection.ready_ns is not None:
            age_ns = time.monotonic_ns() - connection.ready_ns
            metrics.provider_session_seconds().set(age_ns / NS_PER_S)

    def status(self, reception: Reception | None, hub: Hub) -> MediaStatus:
        reception = self._reception = reception or self._reception
        now_ns = time.monotonic_ns()
        then_ns, n_pictures, video_bytes = self._rates[0]
        elapsed_s = max(0.001, (now_ns - then_ns) / NS_PER_S)
        latencies_s = self._latencies_s(now_ns)
        lost = sum(stats.lost for kind in KINDS if reception and (stats := reception.stats(kind)))
        return MediaStatus(
            fps=(self._n_pictures - n_pictures) / elapsed_s,
            video_bps=8 * (self._video_bytes - video_bytes) / elapsed_s,
            av_offset_s=reception.av_offset_s if reception else None,
            added_latency_s=latencies_s[len(latencies_s) // 2] if latencies_s else None,
            added_latency_p95_s=latencies_s[len(latencies_s) * 95 // 100] if latencies_s else None,
            added_latency_p99_s=latencies_s[len(latencies_s) * 99 // 100] if latencies_s else None,
            n_pictures=self._n_pictures,
            n_lost_packets=lost,
            first_picture_s=self._first_picture_s,
            ignores_keyframe_requests=reception is not None and reception.ignores_keyframe_requests,
            concealment=hub.concealment,
            concealed_s=hub.repairs.concealed_s,
            restored_s=hub.repairs.restored_s,
        )

    def _latencies_s(self, now_ns: int) -> list[float]:
        """The last ones of all outputs that are live, or else of all, in order."""
        if now_ns - self._sorted_ns >= LATENCIES_HOLD_NS:
            outputs = self._outputs.values()
            # The preview is live, and mostly nobody watches it.
            counted = [output for output in outputs if output.is_live and output.latencies_s] or outputs
            self._sorted_s = sorted(latency_s for output in counted for latency_s in output.latencies_s)
            self._sorted_ns = now_ns
        return self._sorted_s
