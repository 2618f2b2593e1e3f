"""The presenter is alive, shows what it is about, and the same seed makes the same presenter."""

import itertools
import statistics
from collections.abc import Callable

import pytest

from bridge.local_avatar.face import Pose
from bridge.local_avatar.gestures import Gestures, Mood

FPS = 25
MOODS: tuple[Mood, ...] = ("idle", "listening", "thinking")


def perform(seconds: float, seed: int = 1, *, speaking: bool = False, mood: Mood = "idle") -> list[Pose]:
    return act(seed, (seconds, mood, speaking))


def act(seed: int, *scenes: tuple[float, Mood, bool]) -> list[Pose]:
    """Poses of one scene after the other: how long, in which mood, speaking or not."""
    gestures = Gestures(seed)
    poses: list[Pose] = []
    for seconds, mood, speaking in scenes:
        for _ in range(round(seconds * FPS)):
            openness = 0.5 * speaking * (len(poses) // 4 % 2)  # three syllables a second
            poses.append(gestures.pose(len(poses) / FPS, speaking=speaking, mood=mood, openness=openness))
    return poses


def settled(mood: Mood, seed: int = 1) -> list[Pose]:
    """A minute of one mood, without how it is entered."""
    return perform(62, seed, mood=mood)[2 * FPS :]


def mean(poses: list[Pose], of: Callable[[Pose], float]) -> float:
    return statistics.fmean(map(of, poses))


def blinks(poses: list[Pose]) -> list[int]:
    """The pictures on which the eyes fall shut."""
    pairs = itertools.pairwise(poses)
    return [index for index, (before, after) in enumerate(pairs, 1) if before.lids > 0 == after.lids]


def test_the_same_seed_gives_the_same_poses() -> None:
    for mood in MOODS:
        assert perform(20, mood=mood) == perform(20, mood=mood)
        assert perform(20, mood=mood) != perform(20, seed=2, mood=mood)


@pytest.mark.parametrize("seed", range(5))
def test_people_blink_10_to_30_times_a_minute_at_irregular_intervals(seed: int) -> None:
    at = blinks(perform(120, seed))
    assert 20 <= len(at) <= 60
    pauses_s = [(after - before) / FPS for before, after in itertools.pairwise(at)]
    assert max(pauses_s) <= 6.2
    assert statistics.stdev(pauses_s) > 0.5


def test_now_and_then_a_blink_is_a_double_one() -> None:
    at = [index for seed in range(5) for index in blinks(perform(120, seed))]
    double = sum(after - before < 0.6 * FPS for before, after in itertools.pairwise(at) if after > before)
    assert 0.03 < double / len(at) < 0.3


@pytest.mark.parametrize("fps", [25, 30])
def test_every_blink_shuts_the_eyes_at_once_and_opens_them_more_slowly(fps: int) -> None:
    gestures = Gestures(3)
    lids = [gestures.pose(index / fps, speaking=False, mood="idle", openness=0).lids for index in range(60 * fps)]
    runs = [list(run) for moving, run in itertools.groupby(lids, lambda part: part < 0.75) if moving]
    assert len(runs) > 8
    for run in runs:
        assert min(run) == 0
        assert len(run) / fps < 0.33
        closing, opening = run.index(0.0), len(run) - 1 - run[::-1].index(0.0)
        assert closing <= len(run) - opening


def test_the_end_of_what_was_said_brings_a_blink() -> None:
    scenes: list[tuple[float, Mood, bool]] = [(1.28, "idle", True), (1.28, "idle", False)]
    phase = [index % 64 for index in blinks(act(1, *(scenes * 60)))]
    # Seven pictures of 64: evenly spread blinks would leave a ninth of them there.
    assert sum(32 <= index <= 38 for index in phase) / len(phase) > 0.25


def test_lids_follow_the_eyes_down() -> None:
    poses = [pose for seed in range(4) for pose in perform(60, seed)]
    still = [pose for pose in poses if pose.lids > 0.8]
    down, ahead = ([p for p in still if p.gaze_y > 0.3], [p for p in still if abs(p.gaze_y) < 0.05])
    assert mean(down, lambda pose: pose.lids) < mean(ahead, lambda pose: pose.lids) - 0.05


@pytest.mark.parametrize("speaking", [False, True])
@pytest.mark.parametrize("mood", MOODS)
def test_every_pose_is_in_range(speaking: bool, mood: Mood) -> None:
    for pose in perform(60, speaking=speaking, mood=mood):
        assert max(map(abs, (pose.sway, pose.turn, pose.nod, pose.gaze_x, pose.gaze_y))) <= 1
        assert 0 <= min(pose.brow_left, pose.brow_right) and max(pose.brow_left, pose.brow_right) <= 1
        assert 0 <= pose.breath <= 1 and 0 <= pose.lids <= 1.1
        assert 0 <= pose.frown <= 1 and 0 <= pose.smile <= 1 and 0 <= pose.press <= 1


def test_nothing_jumps_whatever_follows_what() -> None:
    scenes: list[tuple[float, Mood, bool]] = [
        (2.5, mood, speaking) for mood in (*MOODS, "thinking", "listening", "idle") for speaking in (False, True)
    ]
    for before, after in itertools.pairwise(act(4, *scenes)):
        # A tenth of the range per picture is a fast nod; more would tear.
        assert abs(after.sway - before.sway) < 0.12 and abs(after.turn - before.turn) < 0.12
        assert abs(after.nod - before.nod) < 0.2
        assert abs(after.breath - before.breath) < 0.05
        assert abs(after.smile - before.smile) < 0.12 and abs(after.frown - before.frown) < 0.15


def test_a_listener_tilts_the_head_raises_the_brows_and_smiles_a_little() -> None:
    idle, attentive = settled("idle"), settled("listening")
    assert abs(mean(attentive, lambda pose: pose.sway)) > 0.5 > abs(mean(idle, lambda pose: pose.sway)) + 0.3
    assert min(pose.brow_left for pose in attentive) > max(pose.brow_left for pose in idle)
    assert all(0.2 < pose.smile < 0.6 and pose.frown < 0.05 for pose in attentive)


def test_a_listener_keeps_eye_contact() -> None:
    for seed in range(3):
        assert max(abs(pose.gaze_x) for pose in settled("listening", seed)) < 0.25
    assert max(abs(pose.gaze_x) for pose in settled("idle")) > 0.4


def test_a_listener_nods_every_few_seconds_and_others_do_not() -> None:
    def deep(poses: list[Pose]) -> int:
        """How often the head goes down."""
        return sum(a.nod < 0.45 <= b.nod for a, b in itertools.pairwise(poses))

    assert 8 <= deep(settled("listening")) <= 50
    assert deep(settled("idle")) == deep(settled("thinking")) == 0


def test_a_thinker_looks_up_and_aside_with_one_brow_raised_and_the_lips_pressed() -> None:
    sides = set()
    for seed in range(6):
        poses = settled("thinking", seed)
        aside = mean(poses, lambda pose: pose.gaze_x)
        assert abs(aside) > 0.4 and mean(poses, lambda pose: pose.gaze_y) < -0.5
        # Head and eyes go to the same side, and the brow of that side goes up.
        assert mean(poses, lambda pose: pose.turn) * aside > 0
        assert mean(poses, lambda pose: pose.brow_right - pose.brow_left) * aside > 0
        assert all(pose.press > 0.7 and pose.smile < 0.1 and pose.frown > 0.8 for pose in poses)
        sides.add(aside > 0)
    assert sides == {True, False}


def test_a_thinker_blinks_more_slowly_and_less_often() -> None:
    def shut(poses: list[Pose]) -> int:
        return sum(pose.lids < 0.5 for pose in poses)

    idle = [settled("idle", seed) for seed in range(6)]
    thinking = [settled("thinking", seed) for seed in range(6)]
    n_idle, n_thinking = (sum(len(blinks(poses)) for poses in group) for group in (idle, thinking))
    assert n_thinking < n_idle
    assert sum(map(shut, thinking)) / n_thinking > 1.1 * sum(map(shut, idle)) / n_idle


def test_a_thought_ends_with_the_eyes_on_the_viewer() -> None:
    poses = act(2, (4, "thinking", False), (1.5, "listening", False))
    assert abs(poses[4 * FPS - 1].gaze_x) > 0.4
    assert all(abs(pose.gaze_x) < 0.25 and abs(pose.gaze_y) < 0.3 for pose in poses[4 * FPS + 12 :])
    assert poses[-1].frown < 0.02 and poses[-1].press < 0.02


def test_speech_hides_every_mood() -> None:
    for mood in MOODS:
        pose = perform(3, mood=mood, speaking=True)[-1]
        assert pose.frown < 0.01 and pose.press < 0.01 and pose.smile < 0.3
