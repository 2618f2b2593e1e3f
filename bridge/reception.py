"""The way down: from an avatar's RTP packets to access units on session time."""

import time
from collections import Counter
from collections.abc import Callable, Mapping

from bridge.media.access_unit import AccessUnit, Kind, ReceivedUnit
from bridge.media.clock import NS_PER_S
from bridge.media.rtp import RtpPacket, SenderReport
from bridge.ports import RemoteTrack, TrackSink
from bridge.receive.jitter import ReceiveStats
from bridge.receive.track import Feedback
from bridge.timeline.capture import CaptureTimes
from bridge.timeline.sync import MIN_STEP_NS, SessionTimeline
from bridge.track_reception import TrackReception


class Reception:
    """Receives the tracks of one avatar session, on the broadcast's session time.

    `emit` gets every unit, on the event loop, in the order of arrival. A track that comes a second time belongs to a
    new connection: both tracks are aligned anew.

    origin_ns             `time.monotonic_ns` of session time 0, by the clock of the sender before; see `origin_ns`.
    on_air_ns             per track, where the broadcast is: tracks that begin are placed behind it.
    keyframe_interval_ns  how far keyframes may lie apart; None: any distance.
    keyframe_requests     PLIs sent, by reason.  nacks: packets asked for again.
    heard_ns              `time.monotonic_ns` of the newest packet, or of the track that is to bring it; None: no track.
    """

    def __init__(
        self,
        origin_ns: int,
        emit: Callable[[AccessUnit], None],
        on_air_ns: Mapping[Kind, int],
        keyframe_interval_ns: int | None = None,
    ) -> None:
        self.keyframe_interval_ns = keyframe_interval_ns
        self.keyframe_requests: Counter[str] = Counter()
        self.nacks = 0
        self.heard_ns: int | None = None
        self.emit = emit
        self._on_air_ns = on_air_ns
        self._tracks: dict[Kind, _Track] = {}
        self._timeline = SessionTimeline(origin_ns, {})
        self._captures = CaptureTimes(0)
        self._nudged_before = self._rejected_before = 0  # on timelines of connections before

    def on_track(self, track: RemoteTrack) -> TrackSink:
        """Begin to receive a track."""
        if track.kind in self._tracks:
            self.close()
        if not self._tracks:
            earliest_ns: dict[Kind, int] = {
                kind: on_air_ns + MIN_STEP_NS for kind, on_air_ns in self._on_air_ns.items()
            }
            self._nudged_before, self._rejected_before = self.nudged_units, self.rejected_reports
            self._timeline = SessionTimeline(self.origin_ns, earliest_ns, self._on_air_ns)
            self._captures = CaptureTimes(track.round_trip_ns)
            self.heard_ns = time.monotonic_ns()
        self._tracks[track.kind] = _Track(track, self, self._timeline, self._captures)
        return self._tracks[track.kind]

    @property
    def has_pictures(self) -> bool:
        """Whether there is a track of them."""
        return "video" in self._tracks

    def set_keyframe_interval_ns(self, interval_ns: int | None) -> None:
        """How far keyframes may lie apart from now on."""
        self.keyframe_interval_ns = interval_ns
        if video := self._tracks.get("video"):
            video.receiver.set_keyframe_interval_ns(interval_ns)

    def request_keyframe(self) -> None:
        """Ask the avatar service for a keyframe, as soon as the throttle allows."""
        if video := self._tracks.get("video"):
            video.request_keyframe()

    def close(self) -> None:
        """The connection is gone: nothing more is asked of it."""
        for track in self._tracks.values():
            track.close()
        self._tracks.clear()
        self.heard_ns = None

    def stats(self, kind: Kind) -> ReceiveStats | None:
        """Counts of the track that is received now."""
        track = self._tracks.get(kind)
        return track.receiver.stats if track else None

    def longest_hold_s(self, kind: Kind) -> float:
        """How long a packet was held back for a missing one, at most, since this was asked the last time."""
        track = self._tracks.get(kind)
        return track.receiver.longest_hold_ns(time.monotonic_ns()) / NS_PER_S if track else 0.0

    @property
    def origin_ns(self) -> int:
        """`time.monotonic_ns` of session time 0 by the sender's clock: where the next one goes on."""
        return self._timeline.origin_ns

    @property
    def nudged_units(self) -> int:
        """Units moved because they would not have been later than the one before."""
        return self._nudged_before + self._timeline.nudged_units

    @property
    def rejected_reports(self) -> int:
        """Pairs of sender reports that contradict the arrivals."""
        return self._rejected_before + self._timeline.rejected_reports

    @property
    def av_drift_ppm(self) -> float | None:
        """How much faster than ours the sender's media clock runs, in millionths. None: not known yet."""
        return self._timeline.drift.ppm

    @property
    def av_offset_s(self) -> float | None:
        """Sound against picture as emitted, in seconds; above 0 sound is early (ITU-R BT.1359). None: not known, for
        want of sender reports."""
        return self._timeline.av_offset_s if self._timeline.is_synchronised else None

    @property
    def ignores_keyframe_requests(self) -> bool:
        """Whether the service has left several requests in a row without a keyframe."""
        video = self._tracks.get("video")
        return video is not None and video.receiver.ignores_keyframe_requests


class _Track(TrackReception):
    """One track of the avatar, on the broadcast's timeline."""

    def __init__(
        self, track: RemoteTrack, reception: Reception, timeline: SessionTimeline, captures: CaptureTimes
    ) -> None:
        self._kind = track.kind
        self._reception = reception
        self._timeline = timeline
        self._captures = captures
        super().__init__(track, self._place)
        self.receiver.set_keyframe_interval_ns(reception.keyframe_interval_ns)

    def on_packet(self, packet: RtpPacket) -> None:
        if not self._is_closed:
            self._reception.heard_ns = packet.arrival_ns
        super().on_packet(packet)

    def on_sender_report(self, report: SenderReport) -> None:
        ticks = self.receiver.report_ticks(report)
        if ticks is not None and report.ntp_q32 and not self._is_closed:
            self._timeline.on_sender_report(self._kind, ticks, report.ntp_ns, report.arrival_ns)
            picture_ticks = ticks if self._kind == "video" else None
            self._captures.on_sender_report(report.ntp_ns, report.arrival_ns, picture_ticks)

    def on_asked(self, feedback: Feedback) -> None:
        self._reception.nacks += len(feedback.nacks)
        if feedback.keyframe_reason is not None:
            self._reception.keyframe_requests[feedback.keyframe_reason] += 1

    def _place(self, unit: ReceivedUnit) -> None:
        # By the first packet: a sender paces the packets of a large picture, so the last one says less about the clock.
        pts_ns = self._timeline.place(self._kind, unit.rtp_ticks, unit.first_arrival_ns)
        captured = self._captures.of(unit) if self._kind == "video" else None
        self._reception.emit(unit.at(pts_ns, captured, has_moved=self._timeline.has_moved(self._kind)))
