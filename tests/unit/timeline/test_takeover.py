"""Splice and timelines together: connections of different clocks follow each other on one broadcast."""

import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from bridge.media.access_unit import AccessUnit, Codec, Kind
from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.media.slate_pictures import SlatePictures
from bridge.timeline.splice import OnAir, Splice
from bridge.timeline.sync import CLOCK_HZ, SessionTimeline

MS = NS_PER_MS
HOUR_NS = 3600 * NS_PER_S
STEP_NS: dict[Kind, int] = {"audio": 20 * MS, "video": 40 * MS}
SLATE = SlatePictures(b"slate config", (b"slate",), 40 * MS)


@dataclass
class Broadcast:
    now_ns: int = 0
    units: list[AccessUnit] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.splice = Splice(0, NS_PER_S, self.units.append)
        self.splice.slate = SLATE

    def run(self, duration_ns: int, *connections: "Connection") -> None:
        """Pass time; connections deliver at the pace of their own clocks."""
        until_ns = self.now_ns + duration_ns
        while self.now_ns < until_ns:
            self.now_ns += 5 * MS
            for connection in connections:
                connection.deliver(self.now_ns)
            if self.now_ns >= self.splice.next_deadline_ns():
                self.splice.poll(self.now_ns)

    def sleep(self, duration_ns: int, *connections: "Connection") -> None:
        """Hours in which everything went on, left out: the broadcast has had what came."""
        self.now_ns += duration_ns
        for connection in connections:
            connection.skip(self.now_ns)

    def gaps_ms(self, kind: Kind, since: int) -> list[float]:
        times_ns = [unit.pts_ns for unit in self.units[since:] if unit.codec.kind == kind]
        return [(later - earlier) / MS for earlier, later in pairwise(times_ns)]


class Connection:
    """One session of the service: a keyframe every second, sound all the time, jitter up to 10 ms."""

    def __init__(self, number: int, broadcast: Broadcast, origin_ns: int, ppm: int) -> None:
        self.timeline = SessionTimeline(origin_ns, {}, broadcast.splice.last_ns)
        self._number, self._ppm, self._began_ns = number, ppm, broadcast.now_ns
        self._put = broadcast.splice.put
        self._random = random.Random(number)
        self._next: dict[Kind, int] = {"audio": 0, "video": 0}  # media time of the next unit
        self._due_ns: dict[Kind, int] = {"audio": 0, "video": 0}

    def deliver(self, now_ns: int) -> None:
        for kind, media_ns in self._next.items():
            if self._at_ns(media_ns) + self._due_ns[kind] > now_ns:
                continue
            self._next[kind] += STEP_NS[kind]
            self._due_ns[kind] = 20 * MS + self._random.randrange(10 * MS)
            ticks = media_ns * CLOCK_HZ[kind] // NS_PER_S + 1000 * self._number
            pts_ns = self.timeline.place(kind, ticks, now_ns)
            is_keyframe = kind == "audio" or media_ns % NS_PER_S == 0
            codec = Codec.OPUS if kind == "audio" else Codec.H264
            payload = b"%d" % self._number
            self._put(self._number, AccessUnit(codec, payload, pts_ns, 20 * MS, is_keyframe), now_ns)

    def skip(self, now_ns: int) -> None:
        for kind, step_ns in STEP_NS.items():
            elapsed_ns = (now_ns - self._began_ns) * (1_000_000 + self._ppm) // 1_000_000
            self._next[kind] = elapsed_ns // NS_PER_S * NS_PER_S + NS_PER_S // step_ns * step_ns

    def _at_ns(self, media_ns: int) -> int:
        return self._began_ns + media_ns * 1_000_000 // (1_000_000 + self._ppm)


def after_six_hours(ppm: int) -> tuple[Broadcast, Connection]:
    broadcast = Broadcast()
    first = Connection(1, broadcast, 0, ppm)
    broadcast.splice.follow(1)
    broadcast.run(30 * NS_PER_S, first)
    for _ in range(12):  # a step of a second and more would be another clock
        broadcast.sleep(HOUR_NS // 2, first)
        broadcast.run(20 * NS_PER_S, first)
    return broadcast, first


@pytest.mark.parametrize("ppm", [-200, 200])
def test_a_renewal_after_hours_at_a_sender_of_another_clock_is_not_seen(ppm: int) -> None:
    broadcast, first = after_six_hours(ppm)
    assert abs(broadcast.now_ns - broadcast.splice.last_ns["video"]) > 4 * NS_PER_S
    second = Connection(2, broadcast, first.timeline.origin_ns, -ppm)
    began, before = len(broadcast.units), (broadcast.splice.freezes, broadcast.splice.late_units)
    broadcast.run(2 * NS_PER_S, first, second)  # it is opened ahead
    broadcast.splice.follow(2)
    broadcast.run(3 * NS_PER_S, first, second)
    broadcast.run(10 * NS_PER_S, second)
    assert broadcast.units[-1].payload == b"2" and broadcast.splice.state is OnAir.LIVE
    assert broadcast.splice.freezes == before[0] and broadcast.splice.late_units - before[1] <= 2
    assert max(broadcast.gaps_ms("video", began)) <= 80 and max(broadcast.gaps_ms("audio", began)) <= 60


@pytest.mark.parametrize("ppm", [-200, 200])
def test_the_slate_and_who_comes_after_it_keep_the_distance_that_hours_have_made(ppm: int) -> None:
    broadcast, first = after_six_hours(ppm)
    began, late_before = len(broadcast.units), broadcast.splice.late_units
    broadcast.run(5 * NS_PER_S)
    assert broadcast.splice.state is OnAir.SLATE
    second = Connection(2, broadcast, first.timeline.origin_ns, 0)
    broadcast.splice.follow(2)
    broadcast.run(10 * NS_PER_S, second)
    assert broadcast.splice.state is OnAir.LIVE and broadcast.splice.late_units == late_before
    # The slate comes after a second of hold, and lies 100 ms behind.
    assert sorted(broadcast.gaps_ms("video", began))[-2] <= 200 and max(broadcast.gaps_ms("video", began)) <= 1200
    assert max(broadcast.gaps_ms("audio", began)) <= 60
