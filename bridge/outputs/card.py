"""The card: what viewers see while the avatar is away, when the operator has chosen nothing else.

A dark, calm ground, a line of text, and an emblem whose light breathes, so that viewers see that all is alive.
"""

import math
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.uint8]
Wide = NDArray[np.float32]

# Y', Cb and Cr of ITU-R BT.709 in studio range (§3: 16 to 235 and 16 to 240).
Colour = tuple[float, float, float]
_TOP: Colour = (54.0, 149.0, 121.0)
_BOTTOM: Colour = (26.0, 138.0, 125.0)
_LIGHT: Colour = (150.0, 152.0, 110.0)
_WHITE: Colour = (228.0, 129.0, 127.0)

# The text is as wide as either side allows; everything else is measured in its width.
_TEXT_OF_WIDTH, _TEXT_OF_HEIGHT = 0.72, 0.82
_EMBLEM = 0.26
# From the middle of the picture to theirs.
_EMBLEM_ABOVE, _TEXT_BELOW = 0.13, 0.15
# Radius at which the emblem's light is gone, and its least and greatest strength.
_GLOW = 0.5
_DIMMEST, _BRIGHTEST = 0.06, 0.32


class Card:
    """The card at one size, whose sides are even."""

    def __init__(self, width_px: int, height_px: int) -> None:
        text_px = min(_TEXT_OF_WIDTH * width_px, _TEXT_OF_HEIGHT * height_px)
        centre_y = height_px / 2 - _EMBLEM_ABOVE * text_px
        white = np.zeros((height_px, width_px), np.float32)
        with np.load(Path(__file__).with_name("card.npz")) as shapes:
            _lay(white, _scaled(shapes["emblem"], _EMBLEM * text_px), centre_y)
            _lay(white, _scaled(shapes["line"], text_px), height_px / 2 + _TEXT_BELOW * text_px)
        y, x = np.ogrid[:height_px, :width_px]
        squared = ((x - (width_px - 1) / 2) ** 2 + (y - centre_y) ** 2) / (_GLOW * text_px) ** 2
        glow = np.square(np.clip(1 - squared, 0, 1)).astype(np.float32)
        down = np.broadcast_to((y / height_px).astype(np.float32), (height_px, width_px))
        shapes_of = [(down, glow, white), *2 * [(_halved(down), _halved(glow), _halved(white))]]
        colours = zip(_TOP, _BOTTOM, _LIGHT, _WHITE, strict=True)
        self._components = [_Component(*each, *shape) for each, shape in zip(colours, shapes_of, strict=True)]

    def picture(self, phase: float) -> Plane:
        """The card at 0 to 1 of a breath, as I420: shape (height * 3 / 2, width)."""
        share = (1 - math.cos(2 * math.pi * phase)) / 2
        planes = [component.lit(_DIMMEST + (_BRIGHTEST - _DIMMEST) * share) for component in self._components]
        return np.concatenate([plane.reshape(-1) for plane in planes]).reshape(-1, planes[0].shape[1])


class _Component:
    """Y', Cb or Cr of the card: a ground that changes downwards, light on it, painted shapes on that.

    No noise hides the steps of the gradient: they are one value each, not seen, and noise would be six times the bits.
    """

    def __init__(
        self, top: float, bottom: float, light: float, paint: float, down: Wide, glow: Wide, shapes: Wide
    ) -> None:
        ground = top + (bottom - top) * down
        self._unlit = ground + (paint - ground) * shapes
        self._plane = np.rint(self._unlit).astype(np.uint8)
        rows, columns = np.flatnonzero(glow.any(axis=1)), np.flatnonzero(glow.any(axis=0))
        self._lit_box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        self._light = ((light - ground) * glow * (1 - shapes))[self._lit_box]

    def lit(self, strength: float) -> Plane:
        self._plane[self._lit_box] = np.rint(self._unlit[self._lit_box] + np.float32(strength) * self._light)
        return self._plane


def _halved(plane: Wide) -> Wide:
    """Mean of every 2x2 block."""
    height, width = plane.shape
    return np.asarray(plane.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3), dtype=np.float32))


def _scaled(shape: Plane, width_px: float) -> Wide:
    """A shape at another width, in 0..1."""
    height_px = shape.shape[0] * width_px / shape.shape[1]
    frame = av.VideoFrame.from_ndarray(shape, format="gray")
    scaled = frame.reformat(max(1, round(width_px)), max(1, round(height_px)), interpolation="AREA", threads=1)
    return scaled.to_ndarray().astype(np.float32) / np.float32(255)


def _lay(picture: Wide, shape: Wide, centre_y: float) -> None:
    """Put a shape into a picture, in the middle of its width."""
    height_px, width_px = shape.shape
    top = max(0, round(centre_y - height_px / 2))
    left = (picture.shape[1] - width_px) // 2
    picture[top : top + height_px, left : left + width_px] = shape[: picture.shape[0] - top]
