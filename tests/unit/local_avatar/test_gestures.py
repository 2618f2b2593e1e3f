"""The presenter is alive, and the same seed makes the same presenter."""

import itertools

import pytest

from bridge.local_avatar.face import Pose
from bridge.local_avatar.gestures import Gestures, Mood

FPS = 25


def perform(seconds: float, seed: int = 1, *, speaking: bool = False, mood: Mood = "idle") -> list[Pose]:
    gestures = Gestures(seed)
    return [
        gestures.pose(index / FPS, speaking=speaking, mood=mood, openness=0.5 * speaking)
        for index in range(round(seconds * FPS))
    ]


def test_the_same_seed_gives_the_same_poses() -> None:
    assert perform(20) == perform(20)
    assert perform(20) != perform(20, seed=2)


@pytest.mark.parametrize("seed", range(5))
def test_people_blink_8_to_30_times_a_minute_and_their_eyes_open_again(seed: int) -> None:
    lids = [pose.lids for pose in perform(120, seed)]
    blinks = sum(before > 0 == after for before, after in itertools.pairwise(lids))
    assert 16 <= blinks <= 60
    shut = [len(list(run)) for is_open, run in itertools.groupby(lids, lambda part: part == 1.0) if not is_open]
    assert max(shut) <= 6


@pytest.mark.parametrize("speaking", [False, True])
@pytest.mark.parametrize("mood", ["idle", "listening", "thinking"])
def test_every_pose_is_in_range(speaking: bool, mood: Mood) -> None:
    for pose in perform(60, speaking=speaking, mood=mood):
        assert max(abs(pose.sway), abs(pose.turn), abs(pose.nod)) <= 1
        assert 0 <= pose.brows <= 1 and 0 <= pose.breath <= 1 and 0 <= pose.lids <= 1


@pytest.mark.parametrize("speaking", [False, True])
def test_nothing_jumps(speaking: bool) -> None:
    for before, after in itertools.pairwise(perform(60, speaking=speaking, mood="listening")):
        # A tenth of the range per picture is a fast nod; more would tear.
        assert abs(after.sway - before.sway) < 0.12
        assert abs(after.nod - before.nod) < 0.2
        assert abs(after.breath - before.breath) < 0.05


def test_a_listener_raises_the_brows_and_looks_at_the_speaker() -> None:
    idle, attentive = perform(60), perform(60, mood="listening")[50:]
    assert min(pose.brows for pose in attentive) > max(pose.brows for pose in idle)
    assert sum(pose.gaze != 0 for pose in attentive) < sum(pose.gaze != 0 for pose in idle)


def test_a_speaker_does_not_smile_all_the_time() -> None:
    assert not any(pose.smile for pose in perform(2, speaking=True))
    assert all(pose.smile for pose in perform(2))
