"""Pictures of the presenter: whole in every pose, and moving where they should."""

import itertools
import time

import numpy as np
import pytest

from bridge.local_avatar.drawing import Canvas
from bridge.local_avatar.face import Face, Pose, face
from bridge.local_avatar.visemes import REST, MouthShape

A, E, O = MouthShape(1.0, 0.2), MouthShape(0.4, 0.9), MouthShape(0.6, -1.0)  # noqa: E741
TALKING = Pose(smile=0.0)


@pytest.fixture(scope="module")
def small() -> Face:
    return face(360, 640)


def picture(of: Face, pose: Pose = TALKING, mouth: MouthShape = REST) -> Canvas:
    canvas = Canvas(of.width_px, of.height_px)
    of.compose(canvas, pose, mouth)
    return canvas


def changed_box(one: Canvas, other: Canvas) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what differs by more than rounding."""
    rows, columns = np.nonzero(np.abs(one.luma.astype(int) - other.luma) > 3)
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


@pytest.mark.parametrize("size", [(720, 1280), (1280, 720), (360, 640), (426, 240), (90, 160), (160, 90), (400, 1280)])
def test_every_even_size_is_drawn(size: tuple[int, int]) -> None:
    canvas = picture(face(*size))
    assert canvas.data.shape == (size[1] * 3 // 2, size[0])
    # Studio range, and neither empty nor flat.
    assert canvas.luma.min() >= 14 and canvas.luma.max() <= 236
    assert canvas.luma.std() > 15


def test_the_same_pose_is_the_same_picture(small: Face) -> None:
    pose = Pose(sway=0.3, nod=-0.2, breath=0.7, lids=0.4, gaze_x=0.4)
    assert np.array_equal(picture(small, pose, A).data, picture(small, pose, A).data)


def test_mouth_shapes_are_distinct_and_change_the_mouth_only(small: Face) -> None:
    shapes = [REST, MouthShape(0.2, 0.2), A, E, O, MouthShape(0.2, 0.3, 1.0)]
    pictures = [picture(small, TALKING, shape) for shape in shapes]
    pictures.append(picture(small, Pose(smile=1.0), REST))
    for index, one in enumerate(pictures):
        for other in pictures[:index]:
            top, bottom, left, right = changed_box(one, other)
            # Between nose and collar: the chin falls with the jaw, and what is below it makes room.
            assert 300 <= top and bottom <= 425 and 70 <= left and right <= 300


def test_the_lower_lip_falls_as_the_mouth_opens(small: Face) -> None:
    shut = picture(small)
    lowest = [changed_box(shut, picture(small, TALKING, MouthShape(part, 0.2)))[1] for part in (0.2, 0.45, 0.7, 1.0)]
    assert lowest == sorted(lowest) and lowest[-1] > lowest[0]


def test_the_mouth_is_symmetrical(small: Face) -> None:
    # Chroma of the mouth against its mirror image: lips, teeth and tongue, whatever the light from the left does.
    for shape in (A, E, O):
        red = picture(small, TALKING, shape).chroma[1][158:186, 64:116].astype(int)
        assert np.abs(red - red[:, ::-1]).mean() < 4


def test_a_blink_changes_the_eyes_only(small: Face) -> None:
    top, bottom, left, right = changed_box(picture(small), picture(small, Pose(smile=0.0, lids=0.0)))
    assert 230 <= top and bottom <= 285 and 110 <= left and right <= 250


@pytest.mark.parametrize(("gaze_x", "gaze_y"), [(-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0)])
def test_the_irises_go_where_the_eyes_look(small: Face, gaze_x: float, gaze_y: float) -> None:
    def pupil(canvas: Canvas) -> tuple[float, float]:
        """Row and column of the middle of what is black between the lids of the left eye."""
        rows, columns = np.nonzero(canvas.luma[248:268, 124:160] < 40)
        return float(rows.mean()), float(columns.mean())

    # Without the lashes, which are as black: they stay.
    wide = Pose(smile=0.0, lids=1.1)
    row, column = pupil(picture(small, wide))
    moved_row, moved_column = pupil(picture(small, Pose(smile=0.0, lids=1.1, gaze_x=gaze_x, gaze_y=gaze_y)))
    assert np.sign(round(moved_column - column)) == gaze_x
    assert np.sign(round(moved_row - row)) == gaze_y


def test_shut_lids_hide_where_the_eyes_look(small: Face) -> None:
    shut, aside = Pose(lids=0.0), Pose(lids=0.0, gaze_x=1.0, gaze_y=-1.0)
    assert np.array_equal(picture(small, shut).data, picture(small, aside).data)


def test_one_brow_goes_up_alone(small: Face) -> None:
    top, bottom, left, right = changed_box(picture(small), picture(small, Pose(smile=0.0, brow_right=1.0)))
    assert 205 <= top and bottom <= 245 and 185 <= left and right <= 250


def test_a_frown_draws_the_brows_together(small: Face) -> None:
    top, bottom, left, right = changed_box(picture(small), picture(small, Pose(smile=0.0, frown=1.0)))
    assert 205 <= top and bottom <= 250 and 110 <= left and right <= 250


def test_a_smile_and_pressed_lips_show_in_a_mouth_that_does_not_speak(small: Face) -> None:
    manners = [Pose(smile=0.0), Pose(smile=1.0), Pose(smile=0.0, press=1.0)]
    for one, other in itertools.combinations([picture(small, pose) for pose in manners], 2):
        top, bottom, left, right = changed_box(one, other)
        assert 305 <= top and bottom <= 355 and 140 <= left and right <= 220
    assert np.array_equal(picture(small, manners[0], A).data, picture(small, manners[1], A).data)


def test_the_chin_falls_as_the_mouth_opens(small: Face) -> None:
    def chin(shape: MouthShape) -> int:
        """The row in which skin ends and the shade of the neck begins."""
        column = picture(small, TALKING, shape).luma[365:400, 180].astype(int)
        return int(np.argmin(np.diff(column)))

    assert chin(A) >= chin(REST) + 3


def test_sway_moves_the_head_and_leaves_the_shoulders(small: Face) -> None:
    still, swayed = picture(small), picture(small, Pose(smile=0.0, sway=1.0))
    collar = 425
    assert np.array_equal(still.luma[collar:], swayed.luma[collar:])
    assert not np.array_equal(still.luma[:collar], swayed.luma[:collar])


def test_no_seam_appears_where_what_moves_meets_what_stays(small: Face) -> None:
    rest = picture(small, Pose(smile=0.0))
    moved = picture(small, Pose(smile=0.0, sway=1.0, turn=-1.0, nod=1.0, breath=1.0))
    difference = moved.luma.astype(int) - rest.luma
    # Beside the face there is only soft backdrop: bending it must not show.
    for area in (np.s_[100:410, 62:68], np.s_[100:410, 292:300], np.s_[40:85, 60:300]):
        assert np.abs(difference[area]).max() <= 4


def test_a_face_is_drawn_once_per_size() -> None:
    assert face(360, 640) is face(360, 640)


@pytest.mark.serial
def test_composing_a_picture_is_a_matter_of_milliseconds(capsys: pytest.CaptureFixture[str]) -> None:
    begun = time.process_time()
    presenter = Face(720, 1280)
    drawn_s = time.process_time() - begun
    canvas = Canvas(720, 1280)
    costs = []
    for index in range(60):
        pose = Pose(sway=index / 60, turn=-index / 60, nod=index / 90, breath=index / 60, smile=0.0)
        begun = time.thread_time()
        presenter.compose(canvas, pose, A)
        costs.append(time.thread_time() - begun)
    with capsys.disabled():
        print(f"face 720x1280: drawn in {drawn_s:.2f} s CPU, composed in {sorted(costs)[30] * 1e3:.2f} ms (median)")
