"""A broadcast of made-up units: sources give a picture every 40 ms and a packet every 20 ms, in virtual time."""

from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.media.opus import SILENCE_20_MS
from bridge.media.slate_pictures import SlatePictures
from bridge.timeline.splice import HOLD_NS, SILENCE_BEHIND_NS, START_NS, OnAir, Splice

MS = NS_PER_MS
SLATE = SlatePictures(b"slate config", (b"slate idr", b"slate p", b"slate p"), 40 * MS)


@dataclass
class Source:
    """One connection. pictures, sound: whether they flow. keyframe_every: pictures; the first one is always one."""

    number: int
    pictures: bool = True
    sound: bool = True
    keyframe_every: int = 50
    codec: Codec = Codec.H264
    behind_ms: int = 0
    shown: int = 0


@dataclass
class Broadcast:
    slate: SlatePictures | None = SLATE
    units: list[AccessUnit] = field(default_factory=list)
    emitted_ns: list[int] = field(default_factory=list)
    now_ns: int = 0

    def __post_init__(self) -> None:
        self.splice = Splice(0, NS_PER_S, self._on_air)
        self.splice.slate = self.slate

    def _on_air(self, unit: AccessUnit) -> None:
        self.units.append(unit)
        self.emitted_ns.append(self.now_ns)

    def run(self, duration_ms: int, *sources: Source) -> None:
        """Time passes in steps of 20 ms; `poll` runs at its deadlines only."""
        for _ in range(duration_ms // 20):
            self.now_ns += 20 * MS
            for source in sources:
                self._deliver(source)
            due_ns = self.splice.next_deadline_ns()
            if due_ns is not None and self.now_ns >= due_ns:
                self.splice.poll(self.now_ns)

    def _deliver(self, source: Source) -> None:
        pts_ns = self.now_ns - source.behind_ms * MS
        name = b"live %d" % source.number
        if source.sound:
            self.splice.put(source.number, AccessUnit(Codec.OPUS, name, pts_ns, 20 * MS), self.now_ns)
        if source.pictures and self.now_ns % (40 * MS) == 0:
            is_keyframe = source.shown % source.keyframe_every == 0
            source.shown += 1
            unit = AccessUnit(
                source.codec, name, pts_ns, is_keyframe=is_keyframe, codec_config=name if is_keyframe else b""
            )
            self.splice.put(source.number, unit, self.now_ns)

    def track(self, kind: str) -> list[AccessUnit]:
        return [unit for unit in self.units if unit.codec.kind == kind]

    @property
    def story(self) -> list[str]:
        """What pictures showed, each change once."""
        names = [unit.payload.decode().rpartition(" ")[0 if b"slate" in unit.payload else 2] for unit in self.pictures]
        return [name for before, name in pairwise(["", *names]) if name != before]

    @property
    def pictures(self) -> list[AccessUnit]:
        return self.track("video")

    @property
    def sound(self) -> list[AccessUnit]:
        return self.track("audio")

    def check(self) -> None:
        """What holds whatever happens."""
        for kind in ("audio", "video"):
            times_ns = [unit.pts_ns for unit in self.track(kind)]
            assert times_ns == sorted(set(times_ns))
        needs_keyframe, last = True, b""
        for unit in self.pictures:
            family = unit.payload.split(b" ")[0] + unit.payload[-1:] if unit.payload.startswith(b"live") else b"slate"
            assert unit.is_keyframe or (family == last and not needs_keyframe), "a picture without its keyframe"
            needs_keyframe, last = False, family


@pytest.fixture
def broadcast() -> Broadcast:
    return Broadcast()


def on_air(broadcast: Broadcast, duration_ms: int = 1000) -> Source:
    source = Source(1)
    broadcast.splice.follow(1)
    broadcast.run(duration_ms, source)
    return source


def gaps_ms(units: list[AccessUnit]) -> list[float]:
    return [(b.pts_ns - a.pts_ns) / MS for a, b in pairwise(units)]


def test_live_media_goes_on_air_as_it_comes(broadcast: Broadcast) -> None:
    on_air(broadcast)
    assert broadcast.splice.state is OnAir.LIVE
    assert len(broadcast.pictures) == 25
    assert set(gaps_ms(broadcast.pictures)) == {40.0} and set(gaps_ms(broadcast.sound)) == {20.0}
    assert not broadcast.splice.wants_keyframe
    broadcast.check()


def test_nothing_goes_on_air_before_a_keyframe(broadcast: Broadcast) -> None:
    source = Source(1, shown=1)
    broadcast.splice.follow(1)
    broadcast.run(400, source)
    assert not broadcast.units
    assert broadcast.splice.wants_keyframe


def test_a_short_pause_is_held_and_sound_runs_on_as_silence(broadcast: Broadcast) -> None:
    source = on_air(broadcast)
    broadcast.run(800)
    assert broadcast.splice.state is OnAir.HELD
    assert broadcast.sound[-1].payload == SILENCE_20_MS
    assert broadcast.now_ns - broadcast.sound[-1].pts_ns <= SILENCE_BEHIND_NS + 40 * MS
    broadcast.run(400, source)
    assert broadcast.splice.state is OnAir.LIVE
    assert broadcast.splice.freezes == 1
    assert 700 * MS < broadcast.splice.frozen_ns < 900 * MS
    assert max(gaps_ms(broadcast.sound)) <= 20 + 20
    assert b"slate idr" not in [unit.payload for unit in broadcast.pictures]
    broadcast.check()


def test_sound_that_pauses_alone_becomes_silence_and_no_slate(broadcast: Broadcast) -> None:
    source = on_air(broadcast)
    source.sound = False
    broadcast.run(5000, source)
    assert broadcast.splice.state is OnAir.LIVE and broadcast.splice.freezes == 0
    assert set(gaps_ms(broadcast.sound)) == {20.0}
    source.sound = True
    broadcast.run(400, source)
    assert broadcast.sound[-1].payload == b"live 1"
    assert max(gaps_ms(broadcast.sound)) <= 40
    broadcast.check()


def test_sound_that_begins_anew_leaves_no_gap_however_short(broadcast: Broadcast) -> None:
    source = on_air(broadcast)
    broadcast.run(200)
    assert broadcast.sound[-1].payload == b"live 1"  # too early for silence by itself
    broadcast.run(400, source)
    assert set(gaps_ms(broadcast.sound)) == {20.0}
    assert [unit.payload for unit in broadcast.sound].count(SILENCE_20_MS) == 10


@pytest.mark.parametrize(("lost", "n_filled"), [(3, 0), (4, 4)])
def test_packets_that_are_lost_are_left_to_the_decoder_if_they_are_few(
    lost: int, n_filled: int, broadcast: Broadcast
) -> None:
    on_air(broadcast)
    pts_ns = broadcast.sound[-1].pts_ns + (lost + 1) * 20 * MS
    unit = AccessUnit(Codec.OPUS, b"after a loss", pts_ns, 20 * MS, is_discontinuity=True, lost_ns=lost * 20 * MS)
    broadcast.splice.put(1, unit, pts_ns)
    assert [unit.payload for unit in broadcast.sound].count(SILENCE_20_MS) == n_filled


def test_a_gap_that_a_jump_of_the_sound_leaves_is_silence(broadcast: Broadcast) -> None:
    on_air(broadcast)
    pts_ns = broadcast.sound[-1].pts_ns + 2 * 20 * MS + 5 * MS
    broadcast.splice.put(1, AccessUnit(Codec.OPUS, b"after a jump", pts_ns, 20 * MS, is_discontinuity=True), pts_ns)
    assert [unit.payload for unit in broadcast.sound].count(SILENCE_20_MS) == 1
    assert broadcast.sound[-1].is_discontinuity


def test_pictures_that_pause_alone_leave_the_sound_on_air(broadcast: Broadcast) -> None:
    source = on_air(broadcast)
    source.pictures = False
    broadcast.run(2000, source)
    assert broadcast.splice.state is OnAir.SLATE
    assert {unit.payload for unit in broadcast.sound} == {b"live 1"}
    broadcast.check()


def test_a_long_pause_shows_the_slate_and_live_returns_at_a_keyframe(broadcast: Broadcast) -> None:
    source = on_air(broadcast)
    last_live_ns = broadcast.pictures[-1].pts_ns
    broadcast.run(3000)
    first_slate = next(unit for unit in broadcast.pictures if unit.payload == b"slate idr")
    assert first_slate.codec_config == b"slate config" and first_slate.is_keyframe
    assert 900 * MS <= first_slate.pts_ns - last_live_ns <= 1100 * MS
    assert broadcast.splice.cause == "avatar" and broadcast.splice.wants_keyframe
    broadcast.run(400, source)
    assert broadcast.splice.state is OnAir.SLATE, "pictures that refer to lost ones stay off air"
    source.shown = 0
    broadcast.run(400, source)
    assert broadcast.splice.state is OnAir.LIVE
    assert broadcast.story == ["1", "slate", "1"]
    assert broadcast.splice.slate_total_ns(broadcast.now_ns)["avatar"] > 2 * NS_PER_S
    broadcast.check()


def test_the_slate_repeats_its_group_at_its_own_pace(broadcast: Broadcast) -> None:
    on_air(broadcast)
    broadcast.run(4000)
    slate = [unit for unit in broadcast.pictures if unit.payload.startswith(b"slate")]
    assert set(gaps_ms(slate)) == {40.0}
    assert [unit.is_keyframe for unit in slate[:6]] == [True, False, False, True, False, False]


def test_without_a_slate_the_last_picture_is_held_until_there_is_one() -> None:
    broadcast = Broadcast(slate=None)
    on_air(broadcast)
    broadcast.run(3000)
    assert broadcast.splice.state is OnAir.HELD
    broadcast.splice.slate = SLATE
    broadcast.run(100)
    assert broadcast.splice.state is OnAir.SLATE
    broadcast.check()


def test_an_avatar_that_does_not_show_itself_at_the_start_gives_way_to_the_slate(broadcast: Broadcast) -> None:
    broadcast.splice.follow(1)
    broadcast.run(START_NS // MS - 100)
    assert not broadcast.units
    broadcast.run(1000)
    assert broadcast.splice.cause == "starting"
    assert broadcast.pictures[0].is_keyframe and broadcast.sound
    broadcast.run(400, Source(1))
    assert broadcast.story == ["slate", "1"]
    broadcast.check()


def test_a_new_connection_takes_over_from_the_slate(broadcast: Broadcast) -> None:
    on_air(broadcast)
    broadcast.run(3000)
    broadcast.splice.follow(2)
    broadcast.run(1000, Source(2))
    assert broadcast.story == ["1", "slate", "2"]
    assert broadcast.sound[-1].payload == b"live 2"
    broadcast.check()


def test_a_second_connection_takes_over_at_its_keyframe_without_a_gap(broadcast: Broadcast) -> None:
    first, second = on_air(broadcast), Source(2, shown=13)
    broadcast.run(1000, first, second)
    assert broadcast.story == ["1"], "nobody asked for the second one yet"
    broadcast.splice.follow(2)
    assert broadcast.splice.is_switching and broadcast.splice.wants_keyframe
    broadcast.run(3000, first, second)
    assert not broadcast.splice.is_switching
    assert broadcast.story == ["1", "2"]
    assert broadcast.splice.freezes == 0
    assert max(gaps_ms(broadcast.pictures)) <= 40 and max(gaps_ms(broadcast.sound)) <= 40
    broadcast.check()


def test_a_second_connection_that_is_a_little_behind_catches_up(broadcast: Broadcast) -> None:
    first, second = on_air(broadcast), Source(2, behind_ms=100)
    broadcast.splice.follow(2)
    broadcast.run(2000, first, second)
    assert broadcast.story == ["1", "2"]
    assert gaps_ms(broadcast.pictures)[-40:] == [40.0] * 40
    broadcast.check()


def test_a_second_connection_that_is_far_behind_waits_for_a_keyframe_that_is_new(broadcast: Broadcast) -> None:
    first, second = on_air(broadcast), Source(2, behind_ms=300)
    broadcast.splice.follow(2)
    broadcast.run(200, first, second)
    assert broadcast.story == ["1"]
    first.pictures = False
    second.shown = 0
    broadcast.run(400, first, second)
    second.shown = 0
    broadcast.run(400, first, second)
    assert broadcast.story == ["1", "2"]
    broadcast.check()


def test_a_connection_that_was_replaced_is_not_heard_any_more(broadcast: Broadcast) -> None:
    first = on_air(broadcast)
    broadcast.splice.follow(2)
    broadcast.run(1000, Source(2))
    broadcast.run(200, first)
    assert broadcast.story == ["1", "2"]
    assert {unit.payload for unit in broadcast.sound[-5:]} == {b"live 2"}


def test_the_operator_s_slate_comes_at_once_with_silence_and_goes_at_a_keyframe(broadcast: Broadcast) -> None:
    source = on_air(broadcast)
    broadcast.splice.show_slate("a word from our sponsor", broadcast.now_ns)
    broadcast.run(2000, source)
    assert broadcast.splice.cause == "operator" and not broadcast.splice.wants_keyframe
    assert broadcast.story == ["1", "slate"]
    assert {unit.payload for unit in broadcast.sound[-50:]} == {SILENCE_20_MS}
    broadcast.splice.show_slate("", broadcast.now_ns)
    assert broadcast.splice.wants_keyframe
    source.shown = 0
    broadcast.run(400, source)
    assert broadcast.story == ["1", "slate", "1"]
    assert broadcast.sound[-1].payload == b"live 1"
    assert max(gaps_ms(broadcast.sound)) <= 40
    broadcast.check()


@pytest.mark.parametrize("behind_ms", [0, 60, -1400])
def test_the_operator_s_slate_does_not_wait_for_the_clock_however_far_live_media_is_from_it(
    broadcast: Broadcast, behind_ms: int
) -> None:
    broadcast.splice.follow(1)
    # The first of it comes at its time: how far the rest is from the clock is still being learnt.
    broadcast.run(40, Source(1))
    broadcast.run(400, Source(1, behind_ms=behind_ms))
    last_ns = broadcast.pictures[-1].pts_ns
    broadcast.splice.show_slate("now", broadcast.now_ns)
    assert (broadcast.pictures[-1].payload, broadcast.pictures[-1].is_keyframe) == (b"slate idr", True)
    assert last_ns < broadcast.pictures[-1].pts_ns <= last_ns + 40 * MS
    assert broadcast.story == ["1", "slate"]
    broadcast.run(1000, Source(1, behind_ms=behind_ms))
    broadcast.check()


def test_after_a_burst_of_what_was_held_up_the_slate_keeps_its_pace(broadcast: Broadcast) -> None:
    source = on_air(broadcast)
    for source.behind_ms in range(880, 0, -40):  # all of it now
        broadcast._deliver(source)
    source.behind_ms = 0
    broadcast.run(120, source)
    broadcast.splice.show_slate("now", broadcast.now_ns)
    n_before = len(broadcast.pictures)
    broadcast.run(120, source)
    assert len(broadcast.pictures) - n_before >= 2
    broadcast.check()


def test_a_muted_broadcast_keeps_its_pictures(broadcast: Broadcast) -> None:
    source = on_air(broadcast)
    broadcast.splice.is_muted = True
    broadcast.run(1000, source)
    assert {unit.payload for unit in broadcast.sound[-50:]} == {SILENCE_20_MS}
    assert set(gaps_ms(broadcast.sound)) == {20.0}
    broadcast.splice.is_muted = False
    broadcast.run(100, source)
    assert broadcast.sound[-1].payload == b"live 1"
    assert broadcast.story == ["1"]


def test_media_that_was_held_up_on_the_way_comes_too_late_for_the_slate(broadcast: Broadcast) -> None:
    source = on_air(broadcast)
    broadcast.run(2000)
    late = Source(1, behind_ms=1500)
    broadcast.run(400, late)
    assert broadcast.splice.late_units > 0
    assert broadcast.splice.state is OnAir.SLATE
    source.shown = 0
    broadcast.run(400, source)
    assert broadcast.splice.state is OnAir.LIVE
    broadcast.check()


def test_after_a_machine_has_slept_there_is_no_burst(broadcast: Broadcast) -> None:
    on_air(broadcast)
    broadcast.run(2000)
    n_units = len(broadcast.units)
    broadcast.now_ns += 3600 * NS_PER_S
    broadcast.run(20)
    assert len(broadcast.units) - n_units < 20
    broadcast.check()


def test_the_hold_is_no_shorter_than_its_definition() -> None:
    splice = Splice(0, 0, lambda unit: None)
    splice.follow(1)
    splice.put(1, AccessUnit(Codec.H264, b"", 0, codec_config=b"c"), 0)
    assert splice.next_deadline_ns() == HOLD_NS


def test_nothing_is_due_that_needs_a_slate_before_there_is_one() -> None:
    splice = Splice(0, 0, lambda unit: None)
    assert splice.next_deadline_ns() is None
    splice.follow(1)
    splice.put(1, AccessUnit(Codec.H264, b"", 0, codec_config=b"c"), 0)
    splice.poll(HOLD_NS)
    assert (splice.state, splice.next_deadline_ns()) == (OnAir.HELD, None)
    splice.slate = SLATE
    assert splice.next_deadline_ns() == HOLD_NS


def test_every_keyframe_of_a_slate_says_how_it_is_decoded(broadcast: Broadcast) -> None:
    payloads = (b"slate idr", b"slate p", b"slate idr", b"slate p", b"slate p")
    broadcast.splice.slate = SlatePictures(b"slate config", payloads, 40 * MS, frozenset({0, 2}))
    on_air(broadcast)
    broadcast.run(3000)
    slate = [unit for unit in broadcast.pictures if unit.payload.startswith(b"slate")]
    assert [unit.payload for unit in slate[:10]] == [*payloads, *payloads]
    assert all(unit.is_keyframe == (unit.payload == b"slate idr") == bool(unit.codec_config) for unit in slate)
    broadcast.check()


def test_a_slate_that_replaces_one_on_air_begins_with_its_keyframe(broadcast: Broadcast) -> None:
    on_air(broadcast)
    broadcast.run(2000)
    n_before = len(broadcast.pictures)
    broadcast.splice.slate = SlatePictures(b"other config", (b"slate other idr", b"slate other p"), 40 * MS)
    broadcast.run(200)
    first, second = broadcast.pictures[n_before : n_before + 2]
    assert (first.payload, first.is_keyframe, first.codec_config) == (b"slate other idr", True, b"other config")
    assert (second.payload, second.is_keyframe) == (b"slate other p", False)
    assert set(gaps_ms(broadcast.pictures[n_before - 1 :])) == {40.0}
    broadcast.check()


@pytest.mark.parametrize("drift_ppm", [-10_000, 10_000])
def test_a_sender_whose_clock_is_wrong_is_heard_and_comes_back_from_a_slate(
    broadcast: Broadcast, drift_ppm: int
) -> None:
    source = on_air(broadcast)
    for _ in range(60):
        broadcast.run(1000, source)
        source.behind_ms -= drift_ppm // 1000  # 10 ms a second
    assert {unit.payload for unit in broadcast.sound[-50:]} == {b"live 1"}
    assert broadcast.splice.late_units <= 2 and broadcast.splice.freezes == 0
    n_late = broadcast.splice.late_units
    broadcast.splice.show_slate("a break", broadcast.now_ns)
    broadcast.run(2000, source)
    broadcast.splice.show_slate("", broadcast.now_ns)
    source.shown = 0
    broadcast.run(1000, source)
    assert broadcast.splice.state is OnAir.LIVE and broadcast.sound[-1].payload == b"live 1"
    assert broadcast.splice.late_units - n_late <= 2
    assert max(gaps_ms(broadcast.pictures)[-60:]) <= 200 and max(gaps_ms(broadcast.sound)[-100:]) <= 40
    broadcast.check()


def test_a_path_that_becomes_longer_for_good_costs_a_moment_of_sound(broadcast: Broadcast) -> None:
    source = on_air(broadcast)
    source.behind_ms = 500
    broadcast.run(3000, source)
    assert {unit.payload for unit in broadcast.sound[-50:]} == {b"live 1"}
    broadcast.check()


def test_a_muted_sender_of_long_packets_is_silent_without_holes(broadcast: Broadcast) -> None:
    broadcast.splice.follow(1)
    broadcast.splice.is_muted = True
    broadcast.run(40, Source(1))
    for index in range(5):
        pts_ns = (60 + 60 * index) * MS
        broadcast.splice.put(1, AccessUnit(Codec.OPUS, b"long", pts_ns, 60 * MS), pts_ns)
    assert set(gaps_ms(broadcast.sound)) == {20.0}
    assert {unit.payload for unit in broadcast.sound} == {SILENCE_20_MS}


# ---------------------------------------------------------------------------------------------- nothing to be shown


def vp8(number: int = 1) -> Source:
    return Source(number, codec=Codec.VP8)


def test_pictures_of_another_codec_are_live_like_any(broadcast: Broadcast) -> None:
    on_air(broadcast)
    broadcast.splice.follow(2)
    broadcast.run(1000, vp8(2))
    assert broadcast.story == ["1", "2"] and broadcast.splice.state is OnAir.LIVE
    assert {unit.codec for unit in broadcast.pictures} == {Codec.H264, Codec.VP8}
    broadcast.run(2000)
    assert broadcast.story[-1] == "slate"
    broadcast.check()


def test_sound_waits_for_the_first_slate() -> None:
    broadcast = Broadcast(slate=None)
    broadcast.splice.follow(1)
    source = Source(1, pictures=False)
    broadcast.splice.hear(1, broadcast.now_ns)
    broadcast.run(1000, source)
    assert broadcast.units == []
    broadcast.splice.slate = SLATE
    broadcast.splice.poll(broadcast.now_ns)
    broadcast.run(1000, source)
    assert broadcast.units[0].codec.kind == "video" and b"live 1" in [unit.payload for unit in broadcast.sound]
    broadcast.check()


def test_a_connection_without_pictures_is_heard(broadcast: Broadcast) -> None:
    source = Source(1, pictures=False)
    broadcast.splice.follow(1)
    broadcast.run(500, source)
    assert broadcast.sound == []
    broadcast.splice.hear(1, broadcast.now_ns)
    broadcast.run(2000, source)
    assert (broadcast.splice.state, broadcast.splice.cause) == (OnAir.SLATE, "no_video")
    assert sum(unit.payload == b"live 1" for unit in broadcast.sound) > 80
    broadcast.check()


def test_a_successor_without_pictures_takes_over_with_the_slate(broadcast: Broadcast) -> None:
    on_air(broadcast)
    broadcast.splice.follow(2)
    broadcast.splice.hear(2, broadcast.now_ns)
    broadcast.run(1000, Source(2, pictures=False))
    assert broadcast.story == ["1", "slate"]
    assert (broadcast.splice.state, broadcast.splice.cause) == (OnAir.SLATE, "no_video")
    assert broadcast.sound[-1].payload == b"live 2"
    assert not broadcast.splice.wants_keyframe, "nobody can make one"
    broadcast.check()


def test_pictures_come_back_with_a_connection_that_has_them(broadcast: Broadcast) -> None:
    broadcast.splice.follow(1)
    broadcast.splice.hear(1, broadcast.now_ns)
    broadcast.run(1000, Source(1, pictures=False))
    broadcast.splice.follow(2)
    broadcast.run(1000, Source(2))
    assert broadcast.story == ["slate", "2"] and broadcast.splice.state is OnAir.LIVE
    assert not broadcast.splice.wants_keyframe
    broadcast.check()


def test_the_slate_of_an_avatar_that_goes_away_says_so(broadcast: Broadcast) -> None:
    broadcast.splice.follow(1)
    broadcast.splice.hear(1, broadcast.now_ns)
    broadcast.run(1000, Source(1, pictures=False))
    broadcast.run(2000)
    assert (broadcast.splice.state, broadcast.splice.cause) == (OnAir.SLATE, "avatar")
    assert broadcast.splice.slate_total_ns(broadcast.now_ns).keys() == {"no_video", "avatar"}
    assert set(gaps_ms(broadcast.pictures)) <= {40.0}
    broadcast.check()


def test_the_operators_slate_goes_before(broadcast: Broadcast) -> None:
    source = Source(1, pictures=False)
    broadcast.splice.follow(1)
    broadcast.splice.show_slate("break", 0)
    broadcast.splice.hear(1, broadcast.now_ns)
    broadcast.run(1000, source)
    assert broadcast.splice.cause == "operator"
    assert {unit.payload for unit in broadcast.sound} == {SILENCE_20_MS}
    broadcast.splice.show_slate("", broadcast.now_ns)
    broadcast.run(1000, source)
    assert broadcast.splice.cause == "no_video" and broadcast.sound[-1].payload == b"live 1"
    broadcast.check()
