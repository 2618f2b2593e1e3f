"""Lip-sync over a simulated sender: both media clocks, its NTP clock, and a network with its delays."""

import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from bridge.media.access_unit import Kind
from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.timeline.sync import CLOCK_HZ, CREEP_NS_PER_S, MIN_STEP_NS, SessionTimeline

ORIGIN_NS = 77 * NS_PER_S
UNIT_MS: dict[Kind, float] = {"audio": 20, "video": 40}


def ms(time_ms: float) -> int:
    return round(time_ms * NS_PER_MS)


@dataclass
class Clock:
    """A track's media clock: `start_ticks` at time 0, running `drift_ppm` fast."""

    kind: Kind
    start_ticks: int = 0
    drift_ppm: float = 0

    def ticks(self, time_ms: float) -> int:
        return self.start_ticks + round(time_ms * (1 + self.drift_ppm * 1e-6) * CLOCK_HZ[self.kind] / 1000)


@dataclass
class World:
    """A sender, a network and a timeline. Times are milliseconds since the session began.

    `delay_ms` is how long packets travel; `wall_ms` how far off the clock is that stamps a track's reports. `places`
    keeps (captured, session time) of every unit.
    """

    timeline: SessionTimeline = field(default_factory=lambda: SessionTimeline(ORIGIN_NS, {}))
    clocks: dict[Kind, Clock] = field(
        default_factory=lambda: {"audio": Clock("audio", 4_000_000), "video": Clock("video", 90_000_000)}
    )
    delay_ms: dict[Kind, float] = field(default_factory=lambda: {"audio": 10.0, "video": 10.0})
    wall_ms: dict[Kind, float] = field(default_factory=lambda: {"audio": 0.0, "video": 0.0})
    jitter_ms: float = 0
    places: dict[Kind, list[tuple[float, float]]] = field(default_factory=lambda: {"audio": [], "video": []})
    _random: random.Random = field(default_factory=lambda: random.Random(1))

    def unit(self, kind: Kind, time_ms: float, extra_delay_ms: float = 0) -> float:
        delay_ms = self.delay_ms[kind] + self._random.uniform(0, self.jitter_ms) + extra_delay_ms
        arrival_ns = ORIGIN_NS + ms(time_ms + delay_ms)
        pts_ms = self.timeline.place(kind, self.clocks[kind].ticks(time_ms), arrival_ns) / NS_PER_MS
        self.places[kind].append((time_ms, pts_ms))
        return pts_ms

    def report(self, kind: Kind, time_ms: float, error_ms: float = 0) -> None:
        ntp_ns = 3_900_000_000 * NS_PER_S + ms(time_ms + self.wall_ms[kind] + error_ms)
        arrival_ns = ORIGIN_NS + ms(time_ms + self.delay_ms[kind])
        self.timeline.on_sender_report(kind, self.clocks[kind].ticks(time_ms), ntp_ns, arrival_ns)

    def reports(self, time_ms: float) -> None:
        self.report("audio", time_ms)
        self.report("video", time_ms)

    def play(self, from_ms: float, until_ms: float, report_every_ms: float | None = 1000) -> None:
        """Units of both tracks in the order they were captured, with reports of both in between."""
        next_report_ms = from_ms + (report_every_ms or 0)
        events = [(from_ms + i * UNIT_MS[k], k) for k in UNIT_MS for i in range(int((until_ms - from_ms) / UNIT_MS[k]))]
        for time_ms, kind in sorted(events):
            if report_every_ms and time_ms >= next_report_ms:
                self.reports(time_ms)
                next_report_ms += report_every_ms
            self.unit(kind, time_ms)

    def video_late_ms(self) -> float:
        """How much later than sound the newest picture is shown, compared with when they were captured."""
        (sound, sound_at), (picture, picture_at) = self.places["audio"][-1], self.places["video"][-1]
        return (picture_at - picture) - (sound_at - sound)


def steps(world: World, kind: Kind) -> list[float]:
    pts = [at for _, at in world.places[kind]]
    return [b - a for a, b in pairwise(pts)]


# ------------------------------------------------------------------------------------------- placing


def test_the_first_unit_is_placed_at_its_arrival() -> None:
    world = World()
    assert world.unit("audio", 100) == 110
    assert world.unit("audio", 120) == 130


def test_sound_is_spaced_by_its_timestamps_whatever_the_network_does() -> None:
    world = World(jitter_ms=80)
    world.play(0, 20_000, report_every_ms=None)
    assert steps(world, "audio") == pytest.approx([20] * 999, abs=1e-5)


def test_times_are_converted_absolutely_so_that_nothing_adds_up() -> None:
    timeline = SessionTimeline(0, {})
    first_ns = timeline.place("video", 12_345, 0)
    for n in range(1, 100_000, 997):
        # 3003 ticks: 30000/1001 pictures per second, no whole number of nanoseconds each.
        exact_ns = n * 3003 * NS_PER_S / 90_000
        assert abs(timeline.place("video", 12_345 + n * 3003, int(exact_ns)) - first_ns - exact_ns) <= 1


def test_units_of_one_timestamp_are_moved_apart_and_counted() -> None:
    world = World()
    first = world.unit("video", 0)
    assert world.unit("video", 0) == first + MIN_STEP_NS / NS_PER_MS
    assert world.timeline.nudged_units == 1


def test_no_unit_is_placed_before_what_outputs_have_seen() -> None:
    world = World(SessionTimeline(ORIGIN_NS, {"audio": ms(500), "video": ms(800)}))
    assert world.unit("audio", 100) == 800
    assert world.unit("video", 100) == 800
    world.play(120, 2000)
    assert world.video_late_ms() == pytest.approx(0, abs=0.1)


def test_one_track_alone_needs_no_other() -> None:
    world = World()
    for n in range(100):
        assert world.unit("video", 40 * n) == 40 * n + 10
    world.report("video", 4000)
    assert world.timeline.av_offset_s == 0


@pytest.mark.parametrize(("kind", "other"), [("audio", "video"), ("video", "audio")])
def test_a_track_without_another_keeps_its_pace_whatever_is_reported(kind: Kind, other: Kind) -> None:
    world = World(jitter_ms=20)
    world.clocks[kind].drift_ppm = 100
    for n in range(int(90_000 / UNIT_MS[kind])):
        world.unit(kind, n * UNIT_MS[kind])
        if n % 25 == 0:
            world.report(kind, n * UNIT_MS[kind], error_ms=n % 50 * 20)
            world.report(other, n * UNIT_MS[kind], error_ms=-n % 50 * 20)  # of a track that never comes
    exact_ms = UNIT_MS[kind] * (1 + 100e-6)
    assert steps(world, kind) == pytest.approx([exact_ms] * len(steps(world, kind)), abs=0.02)
    assert world.timeline.av_offset_s == 0
    assert world.timeline.drift.ppm == pytest.approx(100, abs=25)


# ------------------------------------------------------------------------------------------- before the reports


def test_before_any_report_tracks_are_aligned_by_arrival() -> None:
    world = World()
    world.play(0, 1000, report_every_ms=None)
    assert world.video_late_ms() == pytest.approx(0, abs=0.01)


def test_a_first_unit_that_was_late_is_corrected_by_the_best_arrivals() -> None:
    world = World()
    world.unit("audio", 0)
    world.unit("video", 0, extra_delay_ms=30)
    assert world.video_late_ms() == pytest.approx(30)
    world.play(40, 760, report_every_ms=None)
    assert world.video_late_ms() == pytest.approx(0, abs=0.01)
    assert steps(world, "video")[1:] == pytest.approx([40] * 17, abs=2)


def test_what_comes_faster_only_later_is_crept_after() -> None:
    world = World(delay_ms={"audio": 10, "video": 40})
    world.play(0, 2000, report_every_ms=None)
    world.delay_ms["video"] = 10
    world.play(2000, 4000, report_every_ms=None)
    assert world.video_late_ms() == pytest.approx(20, abs=0.3)


@pytest.mark.parametrize("reported", ["none", "audio", "video"])
@pytest.mark.parametrize("drift_ppm", [-200, 200])
def test_without_reports_of_both_tracks_the_best_arrivals_align_them_for_good(reported: str, drift_ppm: float) -> None:
    world = World(jitter_ms=30)
    for kind in UNIT_MS:
        world.clocks[kind].drift_ppm = drift_ppm
    worst_ms = 0.0
    for second in range(300):
        world.play(1000 * second, 1000 * second + 1000, report_every_ms=None)
        if reported in UNIT_MS:
            world.report(reported, 1000 * second + 990, error_ms=second % 7 * 100)  # type: ignore[arg-type]
        worst_ms = max(worst_ms, abs(world.video_late_ms())) if second > 10 else 0.0
    # A picture every 40 ms has 125 chances in five seconds: the best of them is a fraction of a millisecond late.
    assert worst_ms < 2
    assert not world.timeline.is_synchronised


# ------------------------------------------------------------------------------------------- the first reports


def test_pictures_that_are_early_jump_forward_at_the_first_pair_of_reports() -> None:
    world = World(delay_ms={"audio": 90, "video": 10})
    world.play(0, 400, report_every_ms=None)
    assert world.video_late_ms() == pytest.approx(-80)
    sound_before = world.places["audio"][-1][1]
    world.reports(400)
    assert world.timeline.av_offset_s == 0
    world.play(400, 480, report_every_ms=None)
    assert world.video_late_ms() == pytest.approx(0, abs=0.01)
    assert max(steps(world, "video")) == pytest.approx(120)
    assert world.places["audio"][-4][1] - sound_before == pytest.approx(20)


def test_sound_that_is_early_jumps_forward_at_the_first_pair_of_reports() -> None:
    world = World(delay_ms={"audio": 10, "video": 90})
    world.play(0, 400, report_every_ms=None)
    world.reports(400)
    world.play(400, 480, report_every_ms=None)
    assert world.video_late_ms() == pytest.approx(0, abs=0.01)
    assert max(steps(world, "audio")) == pytest.approx(100)
    assert steps(world, "video") == pytest.approx([40] * 11)


@pytest.mark.parametrize(("late", "early"), [("audio", "video"), ("video", "audio")])
def test_the_first_unit_behind_a_jump_is_told_as_no_continuation(late: Kind, early: Kind) -> None:
    world = World(delay_ms={early: 10, late: 90})
    world.play(0, 400, report_every_ms=None)
    assert not any(map(world.timeline.has_moved, UNIT_MS))
    world.reports(400)
    world.unit(early, 400)
    assert world.timeline.has_moved(early) and not world.timeline.has_moved(late)
    world.unit(early, 440)
    assert not world.timeline.has_moved(early)


def test_one_report_alone_changes_nothing() -> None:
    world = World(delay_ms={"audio": 10, "video": 90})
    world.play(0, 400, report_every_ms=None)
    world.report("audio", 400)
    world.play(400, 1000, report_every_ms=None)
    assert world.video_late_ms() == pytest.approx(80)


def test_a_first_pair_that_comes_late_makes_the_jump_late_and_nothing_is_held_back_for_it() -> None:
    world = World(delay_ms={"audio": 10, "video": 90})
    world.play(0, 10_000, report_every_ms=None)
    world.report("video", 10_000)
    world.play(10_000, 14_000, report_every_ms=None)
    assert world.places["audio"][0] == (0, 10) and world.places["video"][0] == (0, 90)
    assert steps(world, "audio") == pytest.approx([20] * 699) and steps(world, "video") == pytest.approx([40] * 349)
    world.report("audio", 14_000)
    world.play(14_000, 15_000)
    assert world.video_late_ms() == pytest.approx(0, abs=0.01)
    assert sorted(steps(world, "audio"))[-2:] == pytest.approx([20, 100])


def test_a_report_without_a_time_is_ignored() -> None:
    world = World(delay_ms={"audio": 10, "video": 90})
    world.play(0, 400, report_every_ms=None)
    world.report("audio", 400)
    world.timeline.on_sender_report("video", 0, 0, ORIGIN_NS + ms(410))
    world.play(400, 440, report_every_ms=None)
    assert world.video_late_ms() == pytest.approx(80)


def test_less_than_five_milliseconds_are_not_worth_a_jump() -> None:
    world = World(delay_ms={"audio": 10, "video": 14})
    world.play(0, 400, report_every_ms=None)
    world.reports(400)
    world.play(400, 480, report_every_ms=None)
    assert max(steps(world, "audio")) == pytest.approx(20)
    world.play(480, 2000)
    assert world.video_late_ms() == pytest.approx(0, abs=0.01)


def test_a_track_that_begins_after_the_reports_is_placed_by_them_without_a_jump() -> None:
    world = World(delay_ms={"audio": 10, "video": 90})
    for n in range(20):
        world.unit("audio", 20 * n)
    world.reports(400)
    world.play(400, 2000)
    assert world.video_late_ms() == pytest.approx(0, abs=0.01)
    assert steps(world, "audio")[-60:] == pytest.approx([20] * 60)


# ------------------------------------------------------------------------------------------- after that


def test_later_corrections_creep_at_no_more_than_five_milliseconds_a_second() -> None:
    world = World()
    world.play(0, 6000)
    for time_ms in (6000, 6010, 6020):
        world.report("audio", time_ms)
        world.report("video", time_ms, error_ms=60)  # the sender says: pictures are captured 60 ms later
    assert world.timeline.av_offset_s == pytest.approx(-0.060)
    n_before = len(world.places["video"])
    world.play(6000, 9000, report_every_ms=None)
    limit_ms = 40 * CREEP_NS_PER_S / NS_PER_S
    assert all(40 <= step <= 40 + limit_ms + 1e-6 for step in steps(world, "video")[n_before:])
    assert world.timeline.av_offset_s == pytest.approx(-0.045, abs=0.001)
    assert steps(world, "audio") == pytest.approx([20] * 449)  # sound never creeps


def test_creeping_backwards_keeps_pictures_in_order() -> None:
    world = World()
    world.play(0, 6000)
    for time_ms in (6000, 6010, 6020):
        world.report("audio", time_ms)
        world.report("video", time_ms, error_ms=-60)
    assert world.timeline.av_offset_s == pytest.approx(0.060)
    world.play(6000, 20_000, report_every_ms=None)
    assert world.timeline.av_offset_s == pytest.approx(0, abs=1e-6)
    assert min(steps(world, "video")) >= 40 - 40 * CREEP_NS_PER_S / NS_PER_S - 1e-6


@pytest.mark.parametrize("wild_ms", [-400, 400, 900])
def test_a_wild_first_pair_is_outvoted_by_the_third_at_once(wild_ms: float) -> None:
    world = World(delay_ms={"audio": 10, "video": 40})
    world.play(0, 200, report_every_ms=None)
    world.report("audio", 200)
    world.report("video", 200, error_ms=wild_ms)
    world.play(200, 800, report_every_ms=400)
    assert abs(world.video_late_ms()) > 300
    world.play(800, 2000, report_every_ms=400)
    assert abs(world.video_late_ms()) < 0.1
    for kind in UNIT_MS:
        assert min(steps(world, kind)) > 19


@pytest.mark.parametrize("wild_ms", [-3000, 3000])
@pytest.mark.parametrize("seconds", [1.5, 2.5, 6])
def test_a_single_wild_report_makes_nothing_jump(seconds: float, wild_ms: float) -> None:
    world = World()
    world.play(0, seconds * 1000)
    world.report("video", seconds * 1000, error_ms=wild_ms)
    world.play(seconds * 1000, seconds * 1000 + 3000)
    assert abs(world.video_late_ms()) < 6
    assert max(steps(world, "audio")) < 21


HOUR_MS = 3_600_000


@pytest.mark.parametrize("step_ms", [400, 900, -900, 2000, -2000, HOUR_MS, -HOUR_MS])
@pytest.mark.parametrize("is_half_way", [False, True])
def test_a_step_of_the_senders_wall_clock_moves_nothing(step_ms: float, is_half_way: bool) -> None:
    world = World(delay_ms={"audio": 10, "video": 70})
    world.play(0, 6000)
    n_before = len(world.places["video"])
    if is_half_way:
        world.report("audio", 6000)
    world.wall_ms = {"audio": step_ms, "video": step_ms}
    if is_half_way:
        world.report("video", 6000)
    world.play(6000, 20_000)
    assert abs(world.video_late_ms()) < 0.1
    assert steps(world, "audio")[50:] == pytest.approx([20] * (20_000 // 20 - 51))
    assert steps(world, "video")[n_before:] == pytest.approx([40] * (14_000 // 40 - 1), abs=0.21)
    assert world.timeline.rejected_reports == (1 if is_half_way and abs(step_ms) > 1000 else 0)


@pytest.mark.parametrize("off_ms", [-HOUR_MS, HOUR_MS])
def test_reports_on_unrelated_wall_clocks_leave_the_alignment_by_arrival(off_ms: float) -> None:
    world = World(wall_ms={"audio": 0, "video": off_ms})
    world.play(0, 5000)
    assert world.video_late_ms() == pytest.approx(0, abs=0.01)
    assert steps(world, "audio") == pytest.approx([20] * 249)
    assert world.timeline.rejected_reports == 4


@pytest.mark.parametrize("wild_ms", [-24 * HOUR_MS, 24 * HOUR_MS])
def test_a_first_report_that_is_wild_moves_nothing_and_the_next_one_counts(wild_ms: float) -> None:
    world = World(delay_ms={"audio": 10, "video": 90})
    world.play(0, 400, report_every_ms=None)
    world.report("audio", 400)
    world.report("video", 400, error_ms=wild_ms)
    world.play(400, 600, report_every_ms=None)
    assert max(steps(world, "audio")) == pytest.approx(20)
    world.reports(600)
    world.play(600, 700, report_every_ms=None)
    assert world.video_late_ms() == pytest.approx(0, abs=0.01)


def test_a_wild_report_before_a_track_begins_does_not_place_it() -> None:
    world = World(wall_ms={"audio": 0, "video": HOUR_MS})
    for n in range(20):
        world.unit("audio", 20 * n)
    world.reports(400)
    assert world.unit("video", 400) == pytest.approx(410)
    assert world.timeline.rejected_reports == 1


@pytest.mark.parametrize("leap_ticks", [2**40, -50_000_000])
@pytest.mark.parametrize("is_paired", [False, True])
def test_a_clock_that_changes_between_its_report_and_its_first_unit_is_placed_by_arrival(
    leap_ticks: int, is_paired: bool
) -> None:
    world = World()
    for n in range(20):
        world.unit("audio", 20 * n)
    if is_paired:
        world.report("audio", 390)
    world.report("video", 390)
    world.clocks["video"].start_ticks += leap_ticks
    world.play(400, 3000)
    assert world.video_late_ms() == pytest.approx(0, abs=0.01)
    assert steps(world, "video") == pytest.approx([40] * 64)
    assert steps(world, "audio") == pytest.approx([20] * 149)


def test_noisy_reports_leave_the_tracks_within_a_few_milliseconds() -> None:
    world, noise = World(jitter_ms=5), random.Random(4)
    for second in range(60):
        world.play(1000 * second, 1000 * second + 1000, report_every_ms=None)
        for kind in UNIT_MS:
            world.report(kind, 1000 * second + 980, error_ms=noise.gauss(0, 2))
        if second >= 2:
            assert abs(world.video_late_ms()) < 6


@pytest.mark.parametrize("drift_ppm", [-300, 300])
def test_session_time_runs_at_the_pace_of_the_senders_audio_clock(drift_ppm: float) -> None:
    world = World()
    world.clocks["audio"].drift_ppm = drift_ppm
    world.play(0, 600_000)
    captured, placed = world.places["audio"][-1]
    assert placed - 10 == pytest.approx(captured * (1 + drift_ppm * 1e-6), abs=0.1)
    assert abs(world.video_late_ms()) < 2
    assert world.timeline.nudged_units == 0


@pytest.mark.parametrize("seconds", [0.8, 3])  # too little to be seen as another clock
def test_a_media_clock_that_was_put_off_unnoticed_is_jumped_after(seconds: float) -> None:
    world = World()
    world.play(0, 6000)
    world.clocks["video"].start_ticks -= round(90_000 * seconds)
    # More than a second is believed once the best arrivals say so too.
    world.play(6000 + seconds * 1000, 24_000)
    assert abs(world.video_late_ms()) < 5
    assert min(steps(world, "video")) >= 1


# ------------------------------------------------------------------------------------------- wraps and resets


def test_ticks_far_beyond_32_bits_are_placed_as_exactly() -> None:
    world = World()
    world.clocks["video"].start_ticks = 2**32 - 10 * 90_000
    world.clocks["audio"].start_ticks = 2**32 - 10 * 48_000
    world.play(0, 20_000)
    assert steps(world, "video") == pytest.approx([40] * 499, abs=1e-4)
    assert steps(world, "audio") == pytest.approx([20] * 999, abs=1e-4)


@pytest.mark.parametrize("kind", ["audio", "video"])
@pytest.mark.parametrize("leap_ticks", [2**40, 50_000_000, -50_000_000])
def test_a_reset_clock_goes_on_where_the_old_one_was(kind: Kind, leap_ticks: int) -> None:
    world = World(delay_ms={"audio": 10, "video": 70})
    world.play(0, 6000)
    for each in UNIT_MS:
        world.timeline.has_moved(each)
    world.clocks[kind].start_ticks += leap_ticks
    world.play(6000, 8000, report_every_ms=None)
    assert [each for each in UNIT_MS if world.timeline.has_moved(each)] == [kind]
    assert abs(world.video_late_ms()) < 1  # lip-sync is kept without new reports
    world.play(8000, 12_000)
    assert abs(world.video_late_ms()) < 1
    for each in UNIT_MS:
        assert all(0 < step < 110 for step in steps(world, each)[20:])


@pytest.mark.parametrize("has_new_ssrcs", [False, True])
@pytest.mark.parametrize("jitter_ms", [0, 20])
def test_both_clocks_reset_at_once_stay_in_sync_and_are_fitted_anew(has_new_ssrcs: bool, jitter_ms: float) -> None:
    world = World(delay_ms={"audio": 10, "video": 90}, jitter_ms=jitter_ms)
    world.play(0, 6000)
    world.clocks["video"].start_ticks += 90_000_000 + (2**40 if has_new_ssrcs else 0)
    world.clocks["audio"].start_ticks += -24_000_000 + (2**40 if has_new_ssrcs else 0)
    world.play(6000, 7900, report_every_ms=None)
    # The first units may be late by all the jitter there is; by arrivals they creep to their places.
    assert abs(world.video_late_ms()) <= jitter_ms + 0.1
    assert not world.timeline.is_synchronised
    world.play(7900, 12_000)
    assert world.timeline.is_synchronised
    assert abs(world.video_late_ms()) < 5.1
    world.play(12_000, 15_000)
    assert abs(world.video_late_ms()) < 0.1
    for kind in UNIT_MS:
        assert min(steps(world, kind)) > 0 and max(steps(world, kind)[20:]) < 110


def test_reports_of_a_clock_not_yet_heard_of_are_ignored() -> None:
    world = World()
    world.play(0, 6000)
    world.clocks["video"].start_ticks += 2**40
    for n in range(5):
        world.report("video", 6000 + n)
    assert abs(world.timeline.av_offset_s) < 0.001


def test_media_that_queued_for_seconds_is_still_the_same_clock() -> None:
    world = World()
    world.play(0, 3000)
    for n in range(75):
        for kind in ("audio", "video"):
            time_ms = 3000 + n * 40
            world.unit(kind, time_ms, extra_delay_ms=3000 - n * 40)  # all delivered at once
    assert steps(world, "video")[-74:] == pytest.approx([40] * 74, abs=0.3)
    assert world.timeline.nudged_units == 0


@pytest.mark.parametrize("pause_s", [7, 3600])
def test_sound_that_pauses_goes_on_at_its_time(pause_s: int) -> None:
    world = World()
    world.clocks["audio"].drift_ppm = world.clocks["video"].drift_ppm = 200
    world.play(0, 2000)
    time_ms = 2000 + 1000 * pause_s
    for n in range(0 if pause_s > 100 else 100):
        world.unit("video", 2000 + 40 * n)
    assert world.unit("audio", time_ms) == pytest.approx(10 + time_ms * (1 + 200e-6), abs=0.05)
    assert world.timeline.nudged_units == 0


# ------------------------------------------------------------------------------------------- who takes over


@pytest.mark.parametrize("drift_ppm", [-200, 200])
def test_a_connection_that_takes_over_after_hours_begins_where_the_senders_clock_has_led(drift_ppm: float) -> None:
    world = World(jitter_ms=5)
    for kind in UNIT_MS:
        world.clocks[kind].drift_ppm = drift_ppm
    for hour in range(6):  # a minute of each
        world.play(hour * HOUR_MS, hour * HOUR_MS + 60_000)
    now_ms = 5 * HOUR_MS + 60_000
    _, on_air_ms = world.places["audio"][-1]
    assert abs(on_air_ms - now_ms) > 3000
    seen_ns: dict[Kind, int] = {"audio": ms(on_air_ms), "video": ms(on_air_ms)}
    successor = World(SessionTimeline(world.timeline.origin_ns, {}, seen_ns))
    assert successor.unit("video", now_ms) == pytest.approx(on_air_ms + 20, abs=10)


def test_a_connection_that_would_lie_far_behind_what_is_on_air_is_placed_closer() -> None:
    seen_ns: dict[Kind, int] = {"audio": 0, "video": 0}
    world = World(SessionTimeline(ORIGIN_NS, {}, seen_ns))
    seen_ns.update(audio=ms(5400), video=ms(5500))  # until its first unit comes, the other connection goes on
    assert world.unit("audio", 5000) == pytest.approx(5400)
    assert world.unit("video", 5000) == pytest.approx(5400)


def test_a_connection_that_is_a_little_behind_what_is_on_air_is_left_there() -> None:
    world = World(SessionTimeline(ORIGIN_NS, {}, {"audio": ms(5000), "video": ms(5090)}))
    assert world.unit("audio", 5000) == pytest.approx(5010)


def test_the_origin_stays_where_it_was_while_nothing_drifts() -> None:
    world = World(jitter_ms=40, delay_ms={"audio": 10, "video": 90})
    world.play(0, 120_000)
    assert abs(world.timeline.origin_ns - ORIGIN_NS) < 2 * NS_PER_MS


def test_placed_times_increase_strictly_whatever_arrives() -> None:
    chance = random.Random(7)
    timeline = SessionTimeline(ORIGIN_NS, {"audio": ms(50), "video": 0})
    last: dict[Kind, int] = {"audio": ms(50) - 1, "video": -1}
    arrival_ns = ORIGIN_NS
    for _ in range(5000):
        kind: Kind = chance.choice(["audio", "video"])
        arrival_ns += chance.randrange(ms(30))
        ticks = chance.choice([chance.randrange(2**41), arrival_ns // 11_111, arrival_ns // 20_833])
        if chance.random() < 0.1:
            timeline.on_sender_report(kind, ticks, chance.choice([0, chance.randrange(2**62)]), arrival_ns)
        pts_ns = timeline.place(kind, ticks, arrival_ns)
        assert pts_ns > last[kind]
        last[kind] = pts_ns
