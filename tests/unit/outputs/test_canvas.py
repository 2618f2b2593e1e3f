"""Pictures of every shape on a canvas of one."""

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from bridge.outputs.canvas import Canvas, Fit

RED = (81, 90, 240)  # in BT.601, studio range
WIDTH_PX, HEIGHT_PX = 320, 180


def plain(width_px: int, height_px: int, pix_fmt: str = "yuv420p", matrix: int = 6) -> av.VideoFrame:
    frame = av.VideoFrame(width_px, height_px, pix_fmt)
    for plane, value in zip(frame.planes, RED, strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    frame.colorspace = matrix
    return frame


def rows(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """Luma."""
    return frame.to_ndarray(format="yuv420p")[: frame.height]


def test_a_picture_of_the_canvas_size_is_not_touched() -> None:
    frame = plain(WIDTH_PX, HEIGHT_PX)
    assert Canvas(WIDTH_PX, HEIGHT_PX, "contain").fitted(frame) is frame


@pytest.mark.parametrize(
    ("size_px", "left_px", "top_px"),
    [((720, 1280), 110, 0), ((640, 360), 0, 0), ((1280, 300), 0, 52), ((181, 321), 109, 0)],
)
def test_contained_pictures_are_whole_between_bars_of_the_background(
    size_px: tuple[int, int], left_px: int, top_px: int
) -> None:
    luma = rows(Canvas(WIDTH_PX, HEIGHT_PX, "contain", "ffffff").fitted(plain(*size_px)))
    assert luma.shape == (HEIGHT_PX, WIDTH_PX)
    inside = luma[top_px + 2 : HEIGHT_PX - top_px - 2, left_px + 4 : WIDTH_PX - left_px - 4]
    assert abs(float(inside.mean()) - RED[0]) < 2
    for bar in (luma[:, : max(0, left_px - 2)], luma[: max(0, top_px - 2)]):
        assert bar.size == 0 or bar.mean() == 235


@pytest.mark.parametrize("size_px", [(720, 1280), (1280, 300), (320, 180), (181, 321), (2, 8000), (1, 1)])
def test_covering_pictures_leave_nothing_of_the_background(size_px: tuple[int, int]) -> None:
    luma = rows(Canvas(WIDTH_PX, HEIGHT_PX, "cover", "ffffff").fitted(plain(*size_px)))
    assert luma.shape == (HEIGHT_PX, WIDTH_PX) and abs(luma.astype(int) - RED[0]).max() <= 3


def test_blurred_pictures_lie_on_a_darker_copy() -> None:
    luma = rows(Canvas(WIDTH_PX, HEIGHT_PX, "blur").fitted(plain(180, 320)))
    assert abs(float(luma[:, 120:200].mean()) - RED[0]) < 3
    assert 30 < luma[:, :60].mean() < 60


@pytest.mark.parametrize("fit", ["contain", "cover", "blur"])
@pytest.mark.parametrize("size_px", [(1, 1), (3, 3), (1, 999), (4096, 2), (2, 2)])
def test_no_shape_is_too_strange(fit: Fit, size_px: tuple[int, int]) -> None:
    assert rows(Canvas(WIDTH_PX, HEIGHT_PX, fit).fitted(plain(*size_px))).shape == (HEIGHT_PX, WIDTH_PX)


def test_the_first_picture_decides_the_colour_matrix_and_others_are_converted() -> None:
    canvas = Canvas(WIDTH_PX, HEIGHT_PX, "contain")
    assert canvas.fitted(plain(WIDTH_PX, HEIGHT_PX, matrix=5)).colorspace == 5
    assert canvas.matrix == 6
    converted = canvas.fitted(plain(WIDTH_PX, HEIGHT_PX, matrix=1))
    assert converted.colorspace == 6
    # The same numbers are another red in BT.709, whose luma is 1.1 times as large in BT.601's terms.
    assert abs(float(rows(converted).mean()) - RED[0]) > 5


def test_full_range_becomes_studio_range() -> None:
    frame = plain(WIDTH_PX, HEIGHT_PX, "yuvj420p")
    frame.color_range = 2
    canvas = Canvas(WIDTH_PX, HEIGHT_PX, "contain")
    assert abs(float(rows(canvas.fitted(frame)).mean()) - (16 + RED[0] * 219 / 255)) < 2


@pytest.mark.parametrize(("size_px", "matrix"), [((1280, 720), 1), ((320, 180), 6)])
def test_pictures_that_do_not_tell_their_matrix_are_taken_for_what_players_take_them(
    size_px: tuple[int, int], matrix: int
) -> None:
    canvas = Canvas(*size_px, "contain")
    canvas.fitted(plain(*size_px, matrix=2))
    assert canvas.matrix == matrix
