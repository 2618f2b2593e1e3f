"""Vector drawings as pictures that can be laid over video: SVG in, premultiplied Y'CbCr 4:2:0 out."""

from dataclasses import dataclass

import av
import numpy as np
import resvg_py
from numpy.typing import NDArray

Plane = NDArray[np.uint8]
Wide = NDArray[np.uint16]
Picture = NDArray[np.float32]
Box = tuple[float, float, float, float]  # left, top, width, height

SVG_NAMESPACE = "http://www.w3.org/2000/svg"

# ITU-R BT.709 §3: R'G'B' in 0..1 to Y'CbCr in studio range (16..235, 16..240), offsets left out.
_BT709 = np.array(
    [
        [0.2126 * 219, 0.7152 * 219, 0.0722 * 219],
        [-0.2126 / 1.8556 * 224, -0.7152 / 1.8556 * 224, 0.5 * 224],
        [0.5 * 224, -0.7152 / 1.5748 * 224, -0.0722 / 1.5748 * 224],
    ],
    np.float32,
)
_OFFSETS = (16.0, 128.0, 128.0)


def draw(drawing: str, box: Box, width_px: int, height_px: int) -> Picture:
    """Render the part of a drawing (SVG elements) inside a box: premultiplied RGBA in 0..1, (height, width, 4)."""
    svg = (
        f'<svg xmlns="{SVG_NAMESPACE}" width="{width_px}" height="{height_px}" preserveAspectRatio="none" '
        f'viewBox="{" ".join(f"{side:.4f}" for side in box)}">{drawing}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True)
    decoder = av.CodecContext.create("png", "r")
    decoder.thread_count = 1
    frames = [*decoder.decode(av.Packet(png)), *decoder.decode(None)]
    rgba: Picture = frames[0].to_ndarray(format="rgba").astype(np.float32) / np.float32(255)
    rgba[..., :3] *= rgba[..., 3:]
    return rgba


def path(*steps: str | float) -> str:
    """SVG path data from commands and numbers."""
    return " ".join(step if isinstance(step, str) else f"{step:.1f}" for step in steps)


def over(front: Picture, back: Picture) -> Picture:
    picture: Picture = back * (1 - front[..., 3:])
    picture += front
    return picture


def planes(picture: Picture) -> list[Picture]:
    """Premultiplied Y, Cb, Cr and alpha of a premultiplied RGBA picture: Y and alpha at full size, then the chroma."""
    alpha = picture[..., 3]
    luma, blue, red = (picture[..., :3] @ _BT709[index] + offset * alpha for index, offset in enumerate(_OFFSETS))
    return [luma, halved(blue), halved(red), alpha]


def halved(plane: Picture) -> Picture:
    """Mean of every 2x2 block: chroma sited in the middle of its four pixels, as MPEG-1 and most players take it."""
    height, width = plane.shape
    return np.asarray(plane.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3), dtype=np.float32))


class Canvas:
    """One picture in I420: `data` is what encoders take, (height * 3 / 2, width); the planes are views of it."""

    def __init__(self, width_px: int, height_px: int) -> None:
        self.width_px, self.height_px = width_px, height_px
        self.data: Plane = np.empty((height_px * 3 // 2, width_px), np.uint8)
        quarter = (height_px // 2) * (width_px // 2)
        flat = self.data.reshape(-1)
        n_luma = width_px * height_px
        self.luma: Plane = self.data[:height_px]
        self.chroma: tuple[Plane, Plane] = (
            flat[n_luma : n_luma + quarter].reshape(height_px // 2, width_px // 2),
            flat[n_luma + quarter :].reshape(height_px // 2, width_px // 2),
        )


@dataclass(frozen=True, slots=True)
class Patch:
    """A small drawing with soft edges that can be laid on a canvas at any fraction of a pixel.

    full  (2, height, width): premultiplied luma and 256 - alpha; half (3, height / 2, width / 2): Cb, Cr, 256 - alpha.
    Values are 0..256. The outer 4 pixels must be transparent: interpolation and chroma cut them off.
    """

    full: Wide
    half: Wide

    @classmethod
    def of(cls, picture: Picture) -> "Patch":
        luma, blue, red, alpha = planes(picture)
        clear = 256 - alpha * 256
        full = np.stack([luma, clear])
        half = np.stack([blue, red, halved(clear)])
        return cls(np.rint(full).astype(np.uint16), np.rint(half).astype(np.uint16))

    def lay(self, canvas: Canvas, left_px: float, top_px: float) -> None:
        """Lay the patch with its corner at that place, which must leave all of it inside the canvas."""
        column, row = int(left_px) & ~1, int(top_px) & ~1
        right, down = left_px - column, top_px - row
        luma, clear = _shifted(self.full, right, down)
        _blend(canvas.luma, luma, clear, row + 2, column + 2)
        blue, red, clear = _shifted(self.half, right / 2, down / 2)
        for plane, colour in zip(canvas.chroma, (blue, red), strict=True):
            _blend(plane, colour, clear, row // 2 + 2, column // 2 + 2)


def _shifted(stack: Wide, right: float, down: float) -> Wide:
    """The stack without its two outer pixels, moved by less than two, with linear interpolation."""
    column, row = int(right), int(down)
    height, width = stack.shape[1] - 4, stack.shape[2] - 4
    x, y = 2 - column, 2 - row
    # One more column and row on the near side than wanted: what the fraction mixes in.
    part = stack[:, y - 1 : y + height, x - 1 : x + width]
    part = mixed(part[:, :, 1:], part[:, :, :-1], np.uint16((right - column) * 128))
    return mixed(part[:, 1:], part[:, :-1], np.uint16((down - row) * 128))


def mixed(near: Wide, far: Wide, far_weight: np.uint16 | Wide) -> Wide:
    """Linear interpolation of values up to 256 with a weight of 0..128: 16 bits hold all of it."""
    product: Wide = near * (np.uint16(128) - far_weight)
    product += far * far_weight
    product += np.uint16(64)
    product >>= np.uint16(7)
    return product


def _blend(plane: Plane, colour: Wide, clear: Wide, row: int, column: int) -> None:
    height, width = colour.shape
    target = plane[row : row + height, column : column + width]
    kept = target * clear
    kept += np.uint16(128)
    kept >>= np.uint16(8)
    kept += colour
    target[...] = kept
