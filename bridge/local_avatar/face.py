"""A presenter's face in pictures: everything is drawn once per size, composing a picture only moves what was drawn.

The figure is one picture that sway, breath, nod and jaw bend. Brows, eyes, nose and mouth are patches laid over it;
they move a little further than the head, which makes it seem to turn. An eye is a white, an iris that moves on it, and
lids with a hole over both.
"""

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import TypeVar

from bridge.local_avatar import features
from bridge.local_avatar.drawing import Canvas, Patch, draw
from bridge.local_avatar.features import Side
from bridge.local_avatar.figure import BREATH_UNITS, MIDDLE_X, NOD_UNITS, SWAY_UNITS, Figure, Framing, lean, parts
from bridge.local_avatar.lips import mouth
from bridge.local_avatar.visemes import MouthShape

# All of these are in the units of portrait.svg, in which a 720x1280 picture shows x 0..720 and y 0..1280.
_TURN_UNITS = 9.0  # how far the features go beyond the head
_GAZE_UNITS = (11.0, 7.0)  # how far an iris goes
_TILT = (
    1.3 * SWAY_UNITS / 630
)  # how far a feature beside the middle goes down, per unit: the head leans, it is not bent
_EYE_X, _EYE_Y = 75.0, 512.0
_ZOOM = 1.12  # of eyes and brows against what features.py draws
_CAPTION = (232, 56)

_Key = TypeVar("_Key", bound=Hashable)

_SIDES: tuple[Side, ...] = ("left", "right")
_LIDS = (0.0, 0.2, 0.45, 0.7, 0.9, 1.0, 1.1)
_RAISED = (0.0, 0.35, 0.7, 1.0)
_GATHERED = (0.0, 0.6)
_OPENNESS = (0.12, 0.28, 0.46, 0.7, 1.0)
_SPREADS = (-1.0, -0.45, 0.1, 0.9)
_SMILES = (0.0, 0.3, 0.6, 1.0)
_PRESSES = (0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Pose:
    """Where everything but the speaking mouth is; all that is not said to be 0 .. 1 is -1 .. 1.

    sway, turn        left or right, of the crown and of the face.  nod  up or down.  breath  0 .. 1.
    gaze_x, gaze_y    right and down.  lids  0 closed .. 1 open .. 1.1 wide.
    brow_left, -right raised, 0 at rest, by their side in the picture.  frown  0 .. 1 drawn together.
    smile, press      0 .. 1, of a mouth that does not speak: corners up, lips pressed together.
    """

    sway: float = 0.0
    turn: float = 0.0
    nod: float = 0.0
    breath: float = 0.0
    gaze_x: float = 0.0
    gaze_y: float = 0.0
    lids: float = 1.0
    brow_left: float = 0.0
    brow_right: float = 0.0
    frown: float = 0.0
    smile: float = 0.5
    press: float = 0.0


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a feature is at rest, how large its drawing is, and how much further than the head it turns."""

    x: float
    y: float
    size: tuple[int, int]
    depth: float = 1.0


_BROWS = {side: _Place(x, 454, (152, 84)) for side, x in zip(_SIDES, (-77.0, 77.0), strict=True)}
_EYES = {side: _Place(x, _EYE_Y, (160, 112)) for side, x in zip(_SIDES, (-_EYE_X, _EYE_X), strict=True)}
_WHITES = {side: _Place(place.x, place.y, (124, 84)) for side, place in _EYES.items()}
_IRISES = {side: _Place(place.x, place.y, (72, 72)) for side, place in _EYES.items()}
_NOSE = _Place(0, 582, (124, 184), depth=1.3)
_MOUTH = _Place(0, 662, (184, 188), depth=1.1)


@lru_cache(maxsize=4)
def face(width_px: int, height_px: int) -> "Face":
    """The face in one size, drawn at the first call: about 0.6 s of CPU for 720x1280."""
    return Face(width_px, height_px)


class Face:
    """Draws the presenter into pictures of one size; both sides are even. Threads may share it."""

    def __init__(self, width_px: int, height_px: int) -> None:
        self.width_px, self.height_px = width_px, height_px
        self._frame = Framing.of(width_px, height_px)
        self._figure = Figure(self._frame)
        self._brows = self._patches(
            _BROWS["left"].size,
            {
                (side, raised, gathered): features.brow(raised, gathered, side)
                for side, raised, gathered in product(_SIDES, _RAISED, _GATHERED)
            },
            _ZOOM,
        )
        self._whites = self._patches(_WHITES["left"].size, {side: features.eyeball(side) for side in _SIDES}, _ZOOM)
        self._iris = self._patch(_IRISES["left"].size, features.iris(), _ZOOM)
        self._lids = self._patches(
            _EYES["left"].size,
            {(side, part): features.lids(part, side) for side, part in product(_SIDES, _LIDS)},
            _ZOOM,
        )
        self._nose = self._patch(_NOSE.size, parts()["defs"] + parts()["nose"])
        self._caption = self._patch(_CAPTION, parts()["caption"])
        self._mouths = self._patches(
            _MOUTH.size,
            {(openness, spread): mouth(openness, spread) for openness, spread in product(_OPENNESS, _SPREADS)},
        )
        self._hiss = self._patch(_MOUTH.size, mouth(0.1, 0.45, hiss=1.0))
        self._smiles = self._patches(_MOUTH.size, {part: mouth(0, 0, smile=part) for part in _SMILES})
        self._pressed = self._patches(_MOUTH.size, {part: mouth(0, 0, press=part) for part in _PRESSES})

    def compose(self, canvas: Canvas, pose: Pose, shape: MouthShape) -> None:
        """Fill the canvas with the face in that pose, speaking that shape."""
        self._figure.bend(canvas, pose.sway, pose.breath, pose.nod, shape.openness)
        lids = _nearest(_LIDS, pose.lids)
        for side in _SIDES:
            if lids > 0:
                self._lay(canvas, _WHITES[side], self._whites[side], pose)
                aside, down = pose.gaze_x * _GAZE_UNITS[0], pose.gaze_y * _GAZE_UNITS[1] - 2
                self._lay(canvas, _IRISES[side], self._iris, pose, aside, down)
            self._lay(canvas, _EYES[side], self._lids[side, lids], pose)
            raised = pose.brow_left if side == "left" else pose.brow_right
            brow = self._brows[side, _nearest(_RAISED, raised), _nearest(_GATHERED, pose.frown)]
            # The raised brow is an arched one that also stands higher.
            self._lay(canvas, _BROWS[side], brow, pose, down=-8 * raised + 2 * pose.frown)
        self._lay(canvas, _NOSE, self._nose, pose)
        self._lay(canvas, _MOUTH, self._mouth(pose, shape), pose)
        scale = self._frame.scale
        middle = self.width_px / 2 - _CAPTION[0] * scale / 2
        left = min(middle, 12 * scale) if self.width_px > self.height_px else middle
        self._caption.lay(canvas, round(left), round(self.height_px - (_CAPTION[1] + 16) * scale))

    def _mouth(self, pose: Pose, shape: MouthShape) -> Patch:
        if shape.hiss > 0.5:
            return self._hiss
        if shape.openness < 0.05:
            if pose.press > 0.25:
                return self._pressed[_nearest(_PRESSES, pose.press)]
            return self._smiles[_nearest(_SMILES, pose.smile)]
        return self._mouths[_nearest(_OPENNESS, shape.openness), _nearest(_SPREADS, shape.spread)]

    def _lay(
        self, canvas: Canvas, place: _Place, patch: Patch, pose: Pose, aside: float = 0.0, down: float = 0.0
    ) -> None:
        width, height = place.size
        x = MIDDLE_X + place.x + aside + SWAY_UNITS * pose.sway * lean(place.y) + _TURN_UNITS * pose.turn * place.depth
        y = place.y + down + _TILT * pose.sway * place.x
        y += NOD_UNITS * pose.nod * (1 + 0.7 * place.depth) - BREATH_UNITS * 0.6 * pose.breath
        left, top = self._frame.place(x - width / 2, y - height / 2)
        patch.lay(canvas, left, top)

    def _patches(self, size: tuple[int, int], drawings: Mapping[_Key, str], zoom: float = 1.0) -> dict[_Key, Patch]:
        return {key: self._patch(size, drawing, zoom) for key, drawing in drawings.items()}

    def _patch(self, size: tuple[int, int], drawing: str, zoom: float = 1.0) -> Patch:
        scale = self._frame.scale
        width_px, height_px = (math.ceil(side * scale / 2) * 2 for side in size)
        left, top = (-side / 2 / zoom for side in size)
        return Patch.of(
            draw(drawing, (left, top, width_px / scale / zoom, height_px / scale / zoom), width_px, height_px)
        )


def _nearest(choices: Iterable[float], wanted: float) -> float:
    return min(choices, key=lambda choice: abs(choice - wanted))
