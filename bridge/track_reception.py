"""One received track on the event loop: packets as they come, and a timer for what is due without one."""

import asyncio
import time
from collections.abc import Callable

import structlog

from bridge.media.access_unit import ReceivedUnit
from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.media.rtp import RtpPacket, SenderReport
from bridge.ports import RemoteTrack
from bridge.receive.track import Feedback, TrackReceiver

log = structlog.get_logger()


class TrackReception:
    """Gives the units of a track to `emit`, in the order of the sender, and its sender what `receive` has to say."""

    def __init__(self, track: RemoteTrack, emit: Callable[[ReceivedUnit], None]) -> None:
        now_ns = time.monotonic_ns()
        self.receiver = TrackReceiver(track.codecs, track.kind, now_ns, track.round_trip_ns)
        self._emit = emit
        self._feedback = track.feedback
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_ns = 0
        self._has_warned = False
        self._is_closed = False
        self._set_timer(now_ns)

    def on_packet(self, packet: RtpPacket) -> None:
        if self._is_closed:
            return
        units = self.receiver.push(packet)
        for unit in units:
            self._emit(unit)
        if units or not self.receiver.is_calm:
            self._set_timer(packet.arrival_ns)

    def on_sender_report(self, report: SenderReport) -> None:
        """The sender's clock matters to those who align tracks."""

    def on_asked(self, feedback: Feedback) -> None:
        """The sender has just been asked for something."""

    def request_keyframe(self) -> None:
        self.receiver.request_keyframe()
        self._set_timer(time.monotonic_ns())

    def close(self) -> None:
        """The connection is gone: nothing more is asked of it, and nothing that still comes is taken."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self, now_ns: int) -> None:
        """Poll if something is due, else be woken when it will be."""
        deadline_ns = self.receiver.next_deadline_ns()
        if deadline_ns is None:
            return
        if deadline_ns <= now_ns:
            self._poll()
        else:
            self._wake_at(deadline_ns)

    def _wake_at(self, deadline_ns: int) -> None:
        if self._timer is not None:
            if self._timer_at_ns <= deadline_ns:
                return  # most deadlines only move away: being woken too early is cheaper than a new timer per packet
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline_ns / NS_PER_S, self._wake)
        self._timer_at_ns = deadline_ns

    def _wake(self) -> None:
        self._timer = None
        self._set_timer(time.monotonic_ns())

    def _poll(self) -> None:
        now_ns = time.monotonic_ns()
        feedback = self.receiver.poll(now_ns)
        if feedback.nacks:
            self._feedback.send_nack(feedback.nacks)
        if feedback.keyframe_reason is not None:
            self._feedback.send_pli()
            self._warn_if_ignored()
        if feedback.nacks or feedback.keyframe_reason is not None:
            self.on_asked(feedback)
        for unit in feedback.units:
            self._emit(unit)
        deadline_ns = self.receiver.next_deadline_ns()
        if deadline_ns is not None:
            # Whatever is due again at once waits a millisecond: the loop has other work.
            self._wake_at(max(deadline_ns, now_ns + NS_PER_MS))

    def _warn_if_ignored(self) -> None:
        is_ignored = self.receiver.ignores_keyframe_requests
        if is_ignored and not self._has_warned:
            log.warning("keyframe_requests_ignored", n_requests=self.receiver.unanswered_keyframe_requests)
        self._has_warned = is_ignored
