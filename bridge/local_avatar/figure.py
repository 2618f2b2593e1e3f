"""The presenter as one picture that bends row by row, so nothing tears at a border."""

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
from bridge.local_avatar.drawing import SVG_NAMESPACE, Canvas, Picture, Plane, Wide, draw, mixed, over, planes

# All of these are in the units of portrait.svg, in which a 720x1280 picture shows x 0..720 and y 0..1280.
MIDDLE_X = 360.0
_CHIN_Y, _COLLAR_Y, _CROWN_Y = 766.0, 850.0, 220.0
SWAY_UNITS = 14.0  # how far the crown goes to a side
NOD_UNITS = 7.0
BREATH_UNITS = 3.5
_JAW_UNITS = 10.0  # how far the chin falls for a wide open mouth
_LAYERS = ("defs", "torso", "nape", "neck", "collar", "head", "hairdo")


@dataclass(frozen=True, slots=True)
class Framing:
    """Which part of the drawing a picture shows."""

    width_px: int
    height_px: int
    scale: float
    left: float
    top: float

    @classmethod
    def of(cls, width_px: int, height_px: int) -> "Framing":
        # Wider than tall: closer, from just above the hair. Narrower than 9:16: the shoulders still fit.
        shown = max(720 * height_px / width_px, 1280.0 if width_px * 16 < height_px * 10 else 860.0)
        scale = height_px / shown
        return cls(width_px, height_px, scale, MIDDLE_X - width_px / scale / 2, 0.0 if shown > 1000 else 172.0)

    def place(self, x: float, y: float) -> tuple[float, float]:
        return (x - self.left) * self.scale, (y - self.top) * self.scale


class Figure:
    """Backdrop, shoulders and head as one picture that bends row by row."""

    def __init__(self, frame: Framing) -> None:
        scale, drawn = frame.scale, parts()
        self._margin_px = margin = math.ceil(1.2 * max(SWAY_UNITS, 2 * NOD_UNITS) * scale / 8) * 8
        width, height = frame.width_px + 2 * margin, frame.height_px + 2 * margin
        box = (frame.left - margin / scale, frame.top - margin / scale, width / scale, height / scale)
        # The studio is out of focus: one pixel for every 6 units holds all there is to see.
        step = max(1, round(6 * scale))
        backdrop = _enlarged(draw(drawn["defs"] + drawn["backdrop"], box, width // step, height // step), width, height)
        figure = draw(
            "".join(drawn[name] for name in _LAYERS) + features.strands() + drawn["gloss"], box, width, height
        )
        luma, blue, red, _ = planes(over(figure, backdrop))
        self._planes = [np.rint(plane).astype(np.uint16) for plane in (luma, blue, red)]
        rows = np.arange(0.5, frame.height_px) / scale + frame.top
        self._sway_px = SWAY_UNITS * scale * np.array([lean(y) for y in rows])
        self._breath_px = -BREATH_UNITS * scale * np.interp(rows, [120, 240, _CHIN_Y, 900], [0, 0.6, 0.6, 1.0])
        self._nod_px = NOD_UNITS * scale * np.interp(rows, [120, 240, _CHIN_Y - 90, _COLLAR_Y], [0, 1, 1, 0])
        self._jaw_px = _JAW_UNITS * scale * np.interp(rows, [630, 700, _CHIN_Y, _COLLAR_Y], [0, 0.6, 1, 0])
        # The head's rows bend to the side within these columns only; beyond them there is nothing but backdrop.
        left, _ = frame.place(128, 0)
        right, collar = frame.place(596, 830)
        self._columns = (max(0, int(left)) & ~1, min(frame.width_px, int(right)) & ~1)
        self._collar = min(frame.height_px, int(collar)) & ~1
        self._top = max(0, int(frame.place(0, 120)[1])) & ~1
        self._still = [np.ascontiguousarray(p[m : len(p) - m, m : p.shape[1] - m], np.uint8) for p, m in self._sized()]

    def bend(self, canvas: Canvas, sway: float, breath: float, nod: float, jaw: float) -> None:
        """Fill the canvas with the figure: sway, nod -1 .. 1; breath, jaw 0 .. 1."""
        down_px = self._breath_px * breath + self._nod_px * nod + self._jaw_px * jaw
        right_px = self._sway_px * sway
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


def lean(y: float) -> float:
    """How much of the sway a height takes part in: the crown all, the collar nothing."""
    return float(min(1.0, max(0.0, (_COLLAR_Y - y) / (_COLLAR_Y - _CROWN_Y))) ** 1.3)


def _enlarged(picture: Picture, width_px: int, height_px: int) -> Picture:
    small = av.VideoFrame.from_ndarray(np.rint(picture[..., :3] * 255).astype(np.uint8), format="rgb24")
    large = small.reformat(width=width_px, height=height_px, format="rgb24", interpolation="BICUBIC").to_ndarray()
    return np.dstack([large.astype(np.float32) / 255, np.ones(large.shape[:2], np.float32)])


@lru_cache(maxsize=1)
def parts() -> dict[str, str]:
    """The groups of portrait.svg by their ids, and its definitions as `defs`."""
    ElementTree.register_namespace("", SVG_NAMESPACE)
    root = ElementTree.fromstring(files("bridge.local_avatar").joinpath("portrait.svg").read_text())
    return {part.get("id", "defs"): ElementTree.tostring(part, "unicode") for part in root}
