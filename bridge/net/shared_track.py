"""One track of RTP for many far ends: numbered, packetized and kept once, whoever it is sent to."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from bridge.media.access_unit import Kind
from bridge.media.clock import NS_PER_S, OPUS_CLOCK_HZ, VIDEO_CLOCK_HZ, ns_to_ticks
from bridge.net.aiortc_sender import HISTORY_PACKETS, RtpOrigin
from bridge.net.wire import Format, Run, lay_out

# What is asked for again later than this comes too late to be shown: a whole GOP of two seconds, and a second more.
HISTORY_NS = 3 * NS_PER_S


@dataclass(slots=True)
class SharedUnit:
    """The packets of one unit. number: of the first one; it never wraps.

    runs  how it is laid out for the formats that it was wanted in, as long as it is the newest.
    """

    payloads: Sequence[bytes]
    number: int
    pts_ns: int
    is_keyframe: bool
    n_bytes: int
    runs: dict[Format, list[Run]] = field(default_factory=dict)


class SharedTrack:
    """Every far end gets the same SSRC, sequence numbers and timestamps: its keys are its own, so nobody can tell.

    Sequence numbers differ by half of their circle: where a far end begins, they lie in its lower half, so that SRTP
    can tell a loss before the first wrap from the wrap (RFC 3711 §3.3.1).
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.origin = RtpOrigin()
        self.newest_pts_ns = 0
        self._clock_rate_hz = VIDEO_CLOCK_HZ if kind == "video" else OPUS_CLOCK_HZ
        self._next_number = self.origin.sequence_number
        self._units: deque[SharedUnit] = deque()

    def add(self, payloads: Sequence[bytes], pts_ns: int, *, is_keyframe: bool) -> SharedUnit:
        """Number the RTP payloads of a unit, the newest from now on."""
        if self._units:
            self._units[-1].runs.clear()
        unit = SharedUnit(payloads, self._next_number, pts_ns, is_keyframe, sum(map(len, payloads)))
        self._next_number += len(payloads)
        self.newest_pts_ns = pts_ns
        self._units.append(unit)
        while self._units[0].pts_ns < pts_ns - HISTORY_NS:
            self._units.popleft()
        return unit

    def clear(self) -> None:
        """Nobody is there who could ask for anything again."""
        self._units.clear()

    def runs(self, unit: SharedUnit, format: Format, pts_ns: int) -> list[Run]:
        """A unit as it goes to far ends of this format, with the timestamp of `pts_ns`."""
        if pts_ns != unit.pts_ns:
            return self._lay_out(unit, format, pts_ns)
        if format not in unit.runs:
            unit.runs[format] = self._lay_out(unit, format, pts_ns)
        return unit.runs[format]

    def find(self, sequence_number: int, format: Format) -> tuple[SharedUnit, int] | None:
        """The unit of a packet that was sent to a far end of this format, and its place in there; None: too old."""
        newest = self._next_number - 1
        behind = (newest - (sequence_number ^ format.flipped)) & 0xFFFF
        if behind < HISTORY_PACKETS:
            number = newest - behind
            for unit in reversed(self._units):
                if unit.number <= number:
                    return unit, number - unit.number
        return None

    def packet(self, unit: SharedUnit, index: int, format: Format, pts_ns: int) -> bytes:
        """One packet of a unit, as it went to far ends of this format."""
        (run,) = self._lay_out(unit, format, pts_ns, slice(index, index + 1))
        start, n_bytes = run.packets[0]
        return run.layout[start : start + n_bytes]

    def _lay_out(self, unit: SharedUnit, format: Format, pts_ns: int, part: slice = slice(None)) -> list[Run]:
        timestamp = (self.origin.timestamp + ns_to_ticks(pts_ns, self._clock_rate_hz)) & 0xFFFFFFFF
        first, end, _ = part.indices(len(unit.payloads))
        marks_end = self.kind == "video" and end == len(unit.payloads)
        payloads = unit.payloads[part]
        return lay_out(payloads, unit.number + first, timestamp, self.origin.ssrc, format, marks_end=marks_end)
