"""Sends one shared track to one viewer: from the last keyframe on, fast until it is in the present."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aiortc import RTCDtlsTransport
from aiortc.rtcrtpparameters import RTCRtpSendParameters

from bridge.media.clock import NS_PER_S
from bridge.net.aiortc_sender import EncodedSender, SenderClock
from bridge.net.shared_track import SharedTrack, SharedUnit
from bridge.net.wire import Format

# What a viewer has missed since the last keyframe is sent this many times as fast as it was made: two seconds in 0.3 s,
# at a rate that any path has which carries the stream at all (20 Mb/s for one of 2.5).
HASTE = 8
# A viewer that asks for everything again gets half as much more at most; what is lost at its beginning is on top.
FREE_REPEATS = 256


@dataclass(frozen=True, slots=True)
class Haste:
    """How past pictures are shown fast, so that the present comes at its own time.

    Pictures of the past are stamped as if they were made `HASTE` times as fast and had just been made, and are sent at
    that pace: for the far end's clock the stream is in the present from its first picture on, so nothing of its past is
    left in a jitter buffer, and the sound that begins meanwhile is in step with it.

    ends_ns  the picture with which the present is reached, in media time.
    """

    ends_ns: int

    @classmethod
    def from_past(cls, first_ns: int, newest_ns: int) -> "Haste":
        """It takes until more has been made: what is sent in t seconds is `HASTE` t long, and t of it new."""
        return cls(newest_ns + (newest_ns - first_ns) // (HASTE - 1))

    def shown_ns(self, pts_ns: int) -> int:
        """The time that a picture is stamped with."""
        return self.ends_ns - (self.ends_ns - pts_ns) // HASTE if pts_ns < self.ends_ns else pts_ns


class ViewerSender(EncodedSender):
    """Sends what a `SharedTrack` numbers, in the place of an aiortc sender.

    on_ready  the far end takes this track, and the connection is up.
    on_gone   it is not any more.
    repeats_asked  packets that the far end has asked for again.
    """

    def __init__(
        self,
        track: SharedTrack,
        transport: RTCDtlsTransport,
        clock: SenderClock,
        on_ready: Callable[["ViewerSender"], None],
        on_gone: Callable[[], None],
        on_keyframe_request: Callable[[], None],
        on_received: Callable[[], None],
    ) -> None:
        super().__init__(track.kind, transport, clock, track.origin, on_keyframe_request, on_received=on_received)
        self.repeats_asked = 0
        self._track = track
        self._on_ready = on_ready
        self._on_gone = on_gone
        self._format: Format | None = None
        self._haste = Haste(0)
        self._began_s = 0.0
        self._behind: deque[SharedUnit] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def has_begun(self) -> bool:
        return self._format is not None

    @property
    def dropped_packets(self) -> int:
        return self.exit.dropped_packets if self.exit is not None else 0

    def begin(self, past: Iterable[SharedUnit]) -> None:
        """Send the past, from a keyframe on; what `follow` is given comes after it."""
        self._behind.extend(past)
        first = self._behind[0]
        assert self.exit is not None
        self._format = Format(self._payload_type, self._extension, first.number & 0x8000, self.exit.tag_bytes)
        self._haste = Haste.from_past(first.pts_ns, self._behind[-1].pts_ns)
        self._began_s = asyncio.get_running_loop().time() - self._haste.shown_ns(first.pts_ns) / NS_PER_S
        self._catch_up()

    def follow(self, unit: SharedUnit) -> bool:
        """Send a unit that has just been made; whether it has left. Those before a keyframe are of no use."""
        if self._behind:
            self._behind.append(unit)
            return False
        if not self.has_begun:
            if unit.is_keyframe:
                self.begin((unit,))
            return self.has_begun
        return self._send_now(unit)

    def _catch_up(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._behind:
            due_s = self._began_s + self._haste.shown_ns(self._behind[0].pts_ns) / NS_PER_S
            if due_s > loop.time():
                self._timer = loop.call_at(due_s, self._catch_up)
                return
            if not self._send_now(self._behind.popleft()):
                return

    def _send_now(self, unit: SharedUnit) -> bool:
        assert self._format is not None and self.exit is not None
        shown_ns = self._haste.shown_ns(unit.pts_ns)
        try:
            self.exit.send_runs(self._track.runs(unit, self._format, shown_ns))
            self.packets_sent += len(unit.payloads)
            self.payload_bytes_sent += unit.n_bytes
            if report := self._due_report(self._clock.monotonic_ns(), self._track.newest_pts_ns):
                self.exit.report(report)
        except ConnectionError:
            self._on_gone()
            return False
        return True

    def _sent(self, sequence_number: int) -> bytes | None:
        self.repeats_asked += 1
        if self._format is None or self.packets_retransmitted > FREE_REPEATS + self.packets_sent // 2:
            return None
        found = self._track.find(sequence_number, self._format)
        if found is None:
            return None
        unit, index = found
        return self._track.packet(unit, index, self._format, self._haste.shown_ns(unit.pts_ns))

    # ------------------------------------------------------------------ what aiortc calls, under its names

    async def send(self, parameters: RTCRtpSendParameters) -> None:
        is_ready = self.exit is not None
        await super().send(parameters)
        if not is_ready:
            self._on_ready(self)

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._behind.clear()
        await super().stop()
