"""The sheet of screenshots shows what its captions say, and stays out of the package."""

import tomllib
from pathlib import Path

import pytest

from bridge.local_avatar.face import Pose
from bridge.local_avatar.make_screenshots import SHEET_FILE, scenes
from bridge.local_avatar.visemes import MouthShape

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def shown() -> dict[str, tuple[Pose, MouthShape]]:
    return scenes()


def test_every_caption_is_true(shown: dict[str, tuple[Pose, MouthShape]]) -> None:
    pose = {caption: scene[0] for caption, scene in shown.items()}
    mouth = {caption: scene[1] for caption, scene in shown.items()}
    assert pose["idle"].smile > 0.5
    assert pose["listening"].brow_left > 0.3 and abs(pose["listening"].gaze_x) < 0.25
    assert abs(pose["thinking"].gaze_x) > 0.4 and pose["thinking"].gaze_y < -0.4
    assert pose["a blink"].lids == 0 and all(
        other.lids > 0.6 for caption, other in pose.items() if caption != "a blink"
    )
    assert mouth["speaking: a"].openness > 0.7
    assert mouth["speaking: o"].spread < -0.4 and mouth["speaking: o"].openness > 0.3
    assert mouth["speaking: s"].hiss > 0.5


def test_120_ms_after_the_last_sound_the_mouth_is_shut(shown: dict[str, tuple[Pose, MouthShape]]) -> None:
    assert shown["120 ms after the last sound"][1].openness == 0


def test_the_sheet_is_small_and_not_shipped_in_the_package() -> None:
    assert SHEET_FILE.read_bytes()[:2] == b"\xff\xd8" and SHEET_FILE.stat().st_size < 200_000
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["bridge"]
    assert not any(SHEET_FILE.match(f"bridge/{pattern}") for pattern in patterns)
