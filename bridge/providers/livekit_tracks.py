"""Which of a room's tracks the listener hears: publishers come, go and publish anew, on one connection."""

from collections.abc import Callable

from bridge.media.access_unit import Kind
from bridge.media.clock import NS_PER_MS
from bridge.media.rtp import RtpPacket, SenderReport
from bridge.ports import RemoteTrack, TrackSink

# A section of a connection that is used again for a new track, while the one that had taken its place goes quiet:
# ten packets of sound, and far less than a pause that is seen.
QUIET_NS = 200 * NS_PER_MS


class Tracks:
    """Gives one track of each kind to the listener: the newest, and an older one again when only that one flows."""

    def __init__(self, announce: Callable[[RemoteTrack], TrackSink]) -> None:
        self._announce = announce
        self._current: dict[Kind, _Tap] = {}

    def on_track(self, track: RemoteTrack) -> TrackSink:
        """A section of the connection begins to carry media."""
        tap = _Tap(track, self)
        self.choose(tap)
        return tap

    def choose(self, tap: "_Tap") -> None:
        """Put a tap in the place of the one of its kind.

        A kind that comes a second time ends all of its listener's tracks: the other one follows it.
        """
        replaced = self._current.get(tap.track.kind)
        self._current[tap.track.kind] = tap
        if replaced is not None:
            replaced.sink = None
        taps = [tap] if replaced is None else [tap, *(each for each in self._current.values() if each is not tap)]
        for each in taps:
            each.sink = self._announce(each.track)

    def revive(self, tap: "_Tap", now_ns: int) -> None:
        """One that was replaced has a packet."""
        current = self._current[tap.track.kind]
        if now_ns - current.last_ns >= QUIET_NS:
            self.choose(tap)


class _Tap:
    """Passes one track on while it has a sink."""

    def __init__(self, track: RemoteTrack, tracks: Tracks) -> None:
        self.track = track
        self.sink: TrackSink | None = None
        self.last_ns = 0
        self._tracks = tracks

    def on_packet(self, packet: RtpPacket) -> None:
        self.last_ns = packet.arrival_ns
        if self.sink is None:
            self._tracks.revive(self, packet.arrival_ns)
        if self.sink is not None:
            self.sink.on_packet(packet)

    def on_sender_report(self, report: SenderReport) -> None:
        if self.sink is not None:
            self.sink.on_sender_report(report)
