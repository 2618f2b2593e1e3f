"""A presenter's face in pictures: everything is drawn once per size, composing a picture only moves what was drawn.

The figure is one picture; sway, breath and nod bend it row by row, so nothing tears at a border. Brows, eyes, nose
and mouth are patches laid over it; they move a little further than the head, which makes it seem to turn.
"""

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise

import av
import numpy as np
from numpy.typing import NDArray

from bridge.local_avatar import features
from bridge.local_avatar.drawing import SVG_NAMESPACE, Canvas, Patch, Picture, Plane, Wide, draw, mixed, over, planes
from bridge.local_avatar.visemes import MouthShape

# All of these are in the units of portrait.svg, in which a 720x1280 picture shows x 0..720 and y 0..1280.
_MIDDLE_X = 360.0
_FEATURE_Y = {"brows": 468.0, "eyes": 524.0, "nose": 586.0, "mouth": 668.0}
_PATCH_SIZE = {"brows": (288, 64), "eyes": (272, 96), "nose": (104, 120), "mouth": (168, 184), "caption": (232, 56)}
_EYE_DISTANCE = 74.0
_CHIN_Y, _COLLAR_Y, _CROWN_Y = 766.0, 850.0, 220.0
_SWAY_UNITS = 9.0  # how far the crown goes to a side
_TURN_UNITS = 7.0  # how far the features go beyond the head
_NOD_UNITS = 7.0
_BREATH_UNITS = 3.5

_LIDS = (1.0, 0.72, 0.4, 0.0)
_GAZES = ((0.0, 0.0), (-0.8, 0.1), (0.8, 0.1), (0.0, -0.7), (0.35, 0.6))
_BROWS = (0.0, 0.5, 1.0)
_OPENNESS = (0.14, 0.28, 0.45, 0.62, 0.8, 1.0)
_SPREADS = (-1.0, -0.4, 0.2, 0.9)


@dataclass(frozen=True, slots=True)
class Pose:
    """Where everything but the mouth is.

    sway, turn  -1 left .. 1 right.  nod  -1 up .. 1 down.  breath, brows  0 .. 1.  lids  0 closed .. 1 open.
    gaze        index into the directions an eye can look: ahead, left, right, up, down.  smile  of the mouth at rest.
    """

    sway: float = 0.0
    turn: float = 0.0
    nod: float = 0.0
    breath: float = 0.0
    brows: float = 0.0
    lids: float = 1.0
    gaze: int = 0
    smile: bool = True


@lru_cache(maxsize=4)
def face(width_px: int, height_px: int) -> "Face":
    """The face in one size, drawn at the first call: about 0.4 s of CPU for 720x1280."""
    return Face(width_px, height_px)


class Face:
    """Draws the presenter into pictures of one size; both sides are even. Threads may share it."""

    def __init__(self, width_px: int, height_px: int) -> None:
        self.width_px, self.height_px = width_px, height_px
        self._frame = _Framing.of(width_px, height_px)
        parts = _parts()
        self._figure = _Figure(self._frame, parts)
        self._brows = {raised: self._patch("brows", _brows(raised)) for raised in _BROWS}
        self._eyes = {
            (lids, gaze): self._patch("eyes", _eyes(lids, *direction))
            for lids in _LIDS
            for gaze, direction in enumerate(_GAZES if lids else _GAZES[:1])
        }
        self._nose = self._patch("nose", parts["nose"])
        self._caption = self._patch("caption", parts["caption"])
        self._mouths = {
            (openness, spread): self._patch("mouth", features.mouth(openness, spread))
            for openness in _OPENNESS
            for spread in _SPREADS
        }
        self._hiss = self._patch("mouth", features.mouth(0.1, 0.45, hiss=1.0))
        self._pressed = self._patch("mouth", features.mouth(0.0, -0.25))
        self._smile = self._patch("mouth", features.mouth(0.0, 0.35, smile=1.0))

    def compose(self, canvas: Canvas, pose: Pose, mouth: MouthShape) -> None:
        """Fill the canvas with the face in that pose, speaking that shape."""
        self._figure.bend(canvas, pose)
        brows = _nearest(_BROWS, pose.brows)
        # The raised brow is an arched one that also stands higher.
        self._lay(canvas, "brows", self._brows[brows], pose, lift=9 * pose.brows)
        lids = _nearest(_LIDS, pose.lids)
        self._lay(canvas, "eyes", self._eyes[lids, pose.gaze if lids else 0], pose)
        self._lay(canvas, "nose", self._nose, pose, depth=1.35)
        self._lay(canvas, "mouth", self._mouth(pose, mouth), pose)
        scale, caption = self._frame.scale, _PATCH_SIZE["caption"]
        middle = self.width_px / 2 - caption[0] * scale / 2
        left = min(middle, 12 * scale) if self.width_px > self.height_px else middle
        self._caption.lay(canvas, round(left), round(self.height_px - (caption[1] + 16) * scale))

    def _mouth(self, pose: Pose, mouth: MouthShape) -> Patch:
        if mouth.hiss > 0.5:
            return self._hiss
        if mouth.openness < 0.07:
            return self._smile if pose.smile else self._pressed
        return self._mouths[_nearest(_OPENNESS, mouth.openness), _nearest(_SPREADS, mouth.spread)]

    def _lay(self, canvas: Canvas, name: str, patch: Patch, pose: Pose, lift: float = 0.0, depth: float = 1.0) -> None:
        y = _FEATURE_Y[name]
        width, height = _PATCH_SIZE[name]
        x = _MIDDLE_X + _SWAY_UNITS * pose.sway * _lean(y) + _TURN_UNITS * pose.turn * depth
        y += _NOD_UNITS * pose.nod * (1 + 0.7 * depth) - _BREATH_UNITS * 0.6 * pose.breath - lift
        left, top = self._frame.place(x - width / 2, y - height / 2)
        patch.lay(canvas, left, top)

    def _patch(self, name: str, drawing: str) -> Patch:
        width, height = _PATCH_SIZE[name]
        width_px, height_px = (math.ceil(side * self._frame.scale / 2) * 2 for side in (width, height))
        box = (-width / 2, -height / 2, width_px / self._frame.scale, height_px / self._frame.scale)
        return Patch.of(draw(drawing, box, width_px, height_px))


@dataclass(frozen=True, slots=True)
class _Framing:
    """Which part of the drawing a picture shows."""

    width_px: int
    height_px: int
    scale: float
    left: float
    top: float

    @classmethod
    def of(cls, width_px: int, height_px: int) -> "_Framing":
        # Wider than tall: closer, from just above the hair. Narrower than 9:16: the shoulders still fit.
        shown = max(720 * height_px / width_px, 1280.0 if width_px * 16 < height_px * 10 else 860.0)
        scale = height_px / shown
        return cls(width_px, height_px, scale, _MIDDLE_X - width_px / scale / 2, 0.0 if shown > 1000 else 172.0)

    def place(self, x: float, y: float) -> tuple[float, float]:
        return (x - self.left) * self.scale, (y - self.top) * self.scale


class _Figure:
    """Backdrop, shoulders and head as one picture that bends row by row."""

    def __init__(self, frame: _Framing, parts: dict[str, str]) -> None:
        scale = frame.scale
        self._margin_px = margin = math.ceil(1.2 * max(_SWAY_UNITS, 2 * _NOD_UNITS) * scale / 8) * 8
        width, height = frame.width_px + 2 * margin, frame.height_px + 2 * margin
        box = (frame.left - margin / scale, frame.top - margin / scale, width / scale, height / scale)
        # The studio is out of focus: a quarter of the pixels hold all there is to see.
        backdrop = _enlarged(draw(parts["defs"] + parts["backdrop"], box, width // 4, height // 4), width, height)
        figure = draw("".join(parts[name] for name in ("defs", "torso", "neck", "head")), box, width, height)
        luma, blue, red, _ = planes(over(figure, backdrop))
        self._planes = [np.rint(plane).astype(np.uint16) for plane in (luma, blue, red)]
        rows = np.arange(0.5, frame.height_px) / scale + frame.top
        self._sway_px = _SWAY_UNITS * scale * np.array([_lean(y) for y in rows])
        self._breath_px = -_BREATH_UNITS * scale * np.interp(rows, [120, 240, _CHIN_Y, 900], [0, 0.6, 0.6, 1.0])
        self._nod_px = _NOD_UNITS * scale * np.interp(rows, [120, 240, _CHIN_Y - 90, _COLLAR_Y], [0, 1, 1, 0])
        # The head's rows bend to the side within these columns only; beyond them there is nothing but backdrop.
        left, _ = frame.place(120, 0)
        right, collar = frame.place(600, 830)
        self._columns = (max(0, int(left)) & ~1, min(frame.width_px, int(right)) & ~1)
        self._collar = min(frame.height_px, int(collar)) & ~1
        self._top = max(0, int(frame.place(0, 120)[1])) & ~1
        self._still = [np.ascontiguousarray(p[m : len(p) - m, m : p.shape[1] - m], np.uint8) for p, m in self._sized()]

    def bend(self, canvas: Canvas, pose: Pose) -> None:
        """Fill the canvas with the figure, bent as the pose says."""
        down_px = self._breath_px * pose.breath + self._nod_px * pose.nod
        right_px = self._sway_px * pose.sway
        left, right = self._columns
        targets = (canvas.luma, *canvas.chroma)
        for (plane, margin), still, target in zip(self._sized(), self._still, targets, strict=True):
            step = 1 if target is canvas.luma else 2
            target[...] = still
            down, aside = down_px[::step] / step, right_px[::step] / step
            head = slice(self._top // step, self._collar // step)
            columns = slice(left // step, right // step)
            moved = _lifted(plane, down, head, columns, margin)
            _slid(moved, aside[head], target[head, columns], margin)
            body = slice(self._collar // step, len(target))
            whole = slice(0, target.shape[1])
            moved = _lifted(plane, down, body, whole, margin)
            target[body] = moved[:, margin:-margin]

    def _sized(self) -> list[tuple[Wide, int]]:
        return [(plane, self._margin_px // (1 if index == 0 else 2)) for index, plane in enumerate(self._planes)]


def _lifted(plane: Wide, down_px: NDArray[np.float64], rows: slice, columns: slice, margin: int) -> Wide:
    """Rows of a plane moved down, each by its own distance; `margin` more columns on both sides."""
    source = np.arange(rows.start, rows.stop) - down_px[rows] + margin
    near = np.floor(source).astype(np.intp)
    weight = ((source - near) * 128).astype(np.uint16)[:, None]
    part = plane[:, columns.start : columns.stop + 2 * margin]
    return mixed(part[near], part[near + 1], weight)


def _slid(rows: Wide, right_px: NDArray[np.float64], target: Plane, margin: int) -> None:
    """Write rows moved to the right, each by its own distance, without their margins."""
    source = margin - right_px
    near = np.floor(source).astype(np.intp)
    weight = ((source - near) * 128).astype(np.uint16)[:, None]
    width = target.shape[1]
    # Neighbouring rows mostly move by the same number of whole pixels: one slice for all of them.
    borders = [0, *(np.flatnonzero(np.diff(near)) + 1).tolist(), len(near)]
    for first, last in pairwise(borders):
        if first == last:
            continue
        x = int(near[first])
        band = rows[first:last]
        target[first:last] = mixed(band[:, x : x + width], band[:, x + 1 : x + 1 + width], weight[first:last])


def _lean(y: float) -> float:
    """How much of the sway a height takes part in: the crown all, the collar nothing."""
    return float(min(1.0, max(0.0, (_COLLAR_Y - y) / (_COLLAR_Y - _CROWN_Y))) ** 1.3)


def _eyes(lids: float, gaze_x: float, gaze_y: float) -> str:
    return features.pair(features.eye(lids, gaze_x, gaze_y), features.eye(lids, -gaze_x, gaze_y), _EYE_DISTANCE)


def _brows(raised: float) -> str:
    return features.pair(features.brow(raised), features.brow(raised), _EYE_DISTANCE)


def _nearest(choices: tuple[float, ...], wanted: float) -> float:
    return min(choices, key=lambda choice: abs(choice - wanted))


def _enlarged(picture: Picture, width_px: int, height_px: int) -> Picture:
    small = av.VideoFrame.from_ndarray(np.rint(picture[..., :3] * 255).astype(np.uint8), format="rgb24")
    large = small.reformat(width=width_px, height=height_px, format="rgb24", interpolation="BICUBIC").to_ndarray()
    return np.dstack([large.astype(np.float32) / 255, np.ones(large.shape[:2], np.float32)])


@lru_cache(maxsize=1)
def _parts() -> dict[str, str]:
    """The groups of portrait.svg by their ids, and its definitions as `defs`."""
    ElementTree.register_namespace("", SVG_NAMESPACE)
    root = ElementTree.fromstring(files("bridge.local_avatar").joinpath("portrait.svg").read_text())
    return {part.get("id", "defs"): ElementTree.tostring(part, "unicode") for part in root}
