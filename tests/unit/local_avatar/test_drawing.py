"""Drawings land on the canvas where they are told to, to a fraction of a pixel, and leave no trace around them."""

import numpy as np
import pytest

from bridge.local_avatar.drawing import Canvas, Patch, draw

BOX = (-20.0, -20.0, 40.0, 40.0)
DOT = '<circle r="10" fill="#ffffff"/>'


def flat(level: int = 100) -> Canvas:
    canvas = Canvas(80, 60)
    canvas.luma[...] = level
    for plane in canvas.chroma:
        plane[...] = 90
    return canvas


def centre(plane: np.ndarray, background: int) -> tuple[float, float]:
    weight = plane.astype(float) - background
    rows, columns = np.indices(plane.shape)
    return float((weight * columns).sum() / weight.sum()), float((weight * rows).sum() / weight.sum())


@pytest.mark.parametrize("left", [10.0, 10.5, 11.0, 11.75, 12.0, 13.25])
@pytest.mark.parametrize("top", [4.0, 5.5, 7.0])
def test_a_patch_lies_where_it_was_laid_in_luma_and_chroma(left: float, top: float) -> None:
    canvas = flat()
    Patch.of(draw(DOT, BOX, 40, 40)).lay(canvas, left, top)
    # The middle of the dot, in pixel indices: pixel 0 has its middle at 0.5.
    assert centre(canvas.luma, 100) == pytest.approx((left + 19.5, top + 19.5), abs=0.06)
    expected = ((left + 20) / 2 - 0.5, (top + 20) / 2 - 0.5)
    for plane in canvas.chroma:
        assert centre(plane, 90) == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize("level", [16, 100, 235])
def test_a_patch_changes_nothing_where_it_is_transparent(level: int) -> None:
    canvas = flat(level)
    Patch.of(draw(DOT, BOX, 40, 40)).lay(canvas, 11.3, 5.7)
    changed = canvas.luma != level
    rows, columns = np.nonzero(changed)
    assert len(rows) == 0 or (columns.min() >= 20 and columns.max() <= 42 and rows.min() >= 14 and rows.max() <= 37)


def test_white_is_235_and_has_no_colour() -> None:
    canvas = flat()
    Patch.of(draw(DOT, BOX, 40, 40)).lay(canvas, 10, 4)
    assert (int(canvas.luma[24, 30]), int(canvas.chroma[0][12, 15]), int(canvas.chroma[1][12, 15])) == (235, 128, 128)


def test_primaries_are_those_of_bt_709() -> None:
    # ITU-R BT.709 §3.5: the 75 % bars are well known; these are the 100 % ones.
    for colour, expected in (("#ff0000", (63, 102, 240)), ("#00ff00", (173, 42, 26)), ("#0000ff", (32, 240, 118))):
        canvas = flat()
        Patch.of(draw(f'<rect x="-15" y="-15" width="30" height="30" fill="{colour}"/>', BOX, 40, 40)).lay(
            canvas, 10, 4
        )
        found = (canvas.luma[24, 30], canvas.chroma[0][12, 15], canvas.chroma[1][12, 15])
        assert [int(value) for value in found] == pytest.approx(expected, abs=1)


def test_half_transparent_is_half_mixed() -> None:
    canvas = flat()
    drawing = '<rect x="-15" y="-15" width="30" height="30" fill="#ffffff" fill-opacity="0.5"/>'
    Patch.of(draw(drawing, BOX, 40, 40)).lay(canvas, 10, 4)
    assert int(canvas.luma[24, 30]) == pytest.approx((100 + 235) / 2, abs=1)


def test_the_planes_of_a_canvas_are_the_i420_that_encoders_take() -> None:
    canvas = flat()
    assert canvas.data.shape == (90, 80)
    assert canvas.data[:60].tolist() == canvas.luma.tolist()
    assert (canvas.data[60:] == 90).all()
