"""What is painted over the pictures of an output that is encoded: a logo, a line of text, live captions.

Each is drawn once, and again only when it changes; a picture costs a blend of the rectangles that they cover.

Drawn by Pillow: PyAV's FFmpeg has no FreeType, so no drawtext, and resvg has fonts only where the system has some.
Pillow brings FreeType and a font of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import structlog
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bridge.errors import ConfigError
from bridge.outputs.caption import Caption

Corner = Literal["top-left", "top-right", "bottom-left", "bottom-right"]
Planes = Sequence[NDArray[np.uint8]]
Samples = NDArray[np.floating[Any]]

# Shares of the picture's shorter side: 36 of 720 pixels give a line 60 letters in a wide picture, 30 in an upright one.
_TEXT_SIZE, _CAPTION_SIZE = 0.04, 0.05
# Shares of the size of letters.
_LINE_HEIGHT, _PADDING = 1.25, 0.35
# Of the picture's width: within the 5 % at either side that televisions may cut off (EBU R 95).
_CAPTION_WIDTH = 0.86
_WHITE = (255, 255, 255, 255)
# Bright faces stay visible behind it, and white keeps a contrast of 7 to 1 on it.
_SHADE = (0, 0, 0, 176)
# ITU-R BT.709 §3, in studio range: what slates have, and what players take pictures for that do not say.
_RED, _GREEN, _BLUE = 0.2126, 0.7152, 0.0722
_BLUE_SPAN, _RED_SPAN = 1.8556, 1.5748
# Wide ones first; Pillow's own has Latin letters.
_SYSTEM_FONTS = ("NotoSans-Regular.ttf", "DejaVuSans.ttf")
# Drawn by every font for what it does not have; no character stands there.
_NO_CHARACTER = "\U0010ffff"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlaySettings:
    """What is painted, and where.

    logo_file     a PNG; its transparency counts.  logo_width: its share of the picture's width.
    text          one line; empty: none.
    captions      whether what the avatar says is to be read.
    margin        from the edges, as a share of the picture's shorter side.
    font_file     a TrueType or OpenType file; None: one of the system's, else Pillow's own.
    """

    logo_file: Path | None = None
    logo_corner: Corner = "top-right"
    logo_width: float = 0.12
    logo_opacity: float = 1.0
    text: str = ""
    text_corner: Corner = "top-left"
    captions: bool = False
    margin: float = 0.04
    font_file: Path | None = None


class Overlay:
    """Paints on pictures of one size: even, 8 bits, YUV 4:2:0, BT.709 in studio range.

    One thread paints; `set_caption` may be called by another. Times are of any one clock.
    """

    def __init__(self, settings: OverlaySettings, width_px: int, height_px: int) -> None:
        """Raises ConfigError for a logo or a font that cannot be read."""
        self._width_px, self._height_px = width_px, height_px
        self._short_px = min(width_px, height_px)
        self._margin_px = round(settings.margin * self._short_px)
        self._settings = settings
        self._patches: list[_Patch] = []
        if settings.logo_file is not None:
            self._patches.append(self._placed(self._logo(settings.logo_file), settings.logo_corner))
        if settings.text:
            font = _font(settings.font_file, _TEXT_SIZE * self._short_px)
            self._patches.append(self._placed(_shaded(font, [settings.text]), settings.text_corner))
        self._caption: _CaptionBox | None = None
        if settings.captions:
            font = _font(settings.font_file, _CAPTION_SIZE * self._short_px)
            self._caption = _CaptionBox(font, width_px, height_px - self._margin_px)

    def set_caption(self, text: str, now_ns: int) -> None:
        """What the avatar says at present, as far as it is known; it grows. Empty: nothing, from now on."""
        if self._caption is not None:
            self._caption.words.set(text, now_ns)

    def paint(self, planes: Planes, now_ns: int) -> None:
        """Paint on a picture: planes Y, U and V, writable, of the overlay's size and half of it."""
        for patch in self._patches:
            patch.blend(planes)
        if self._caption is not None and (patch_now := self._caption.patch(now_ns)) is not None:
            patch_now.blend(planes)

    def _logo(self, path: Path) -> Image.Image:
        try:
            with Image.open(path, formats=("PNG",)) as image:
                logo = image.convert("RGBA")
        # Pillow's word for a picture of more pixels than any logo has is no OSError.
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ConfigError(f"overlay.logo_file: {path} cannot be read as PNG: {error}") from None
        scale = min(self._settings.logo_width * self._width_px / logo.width, self._height_px / logo.height)
        size = max(1, round(logo.width * scale)), max(1, round(logo.height * scale))
        logo = logo.resize(size, Image.Resampling.LANCZOS)
        logo.putalpha(logo.getchannel("A").point(lambda alpha: round(alpha * self._settings.logo_opacity)))
        return logo

    def _placed(self, image: Image.Image, corner: Corner) -> "_Patch":
        vertical, horizontal = corner.split("-")
        x = self._margin_px if horizontal == "left" else self._width_px - self._margin_px - image.width
        y = self._margin_px if vertical == "top" else self._height_px - self._margin_px - image.height
        return _Patch(image, x, y, self._width_px, self._height_px)


class _CaptionBox:
    """Captions at the bottom of pictures, drawn when they change."""

    def __init__(self, font: ImageFont.FreeTypeFont, width_px: int, bottom_px: int) -> None:
        self._font = font
        self._width_px, self._bottom_px = width_px, bottom_px
        line_px = round(_CAPTION_WIDTH * width_px)
        self._left_px = (width_px - line_px) // 2
        self.words = Caption(font.getlength, line_px - 2 * round(_PADDING * font.size))
        self._drawn: tuple[str, ...] = ()
        self._patch: _Patch | None = None
        self._known: set[str] = set()
        self._is_lacking = False

    def patch(self, now_ns: int) -> "_Patch | None":
        lines = self.words.lines(now_ns)
        if lines != self._drawn:
            self._drawn = lines
            self._patch = self._draw(lines) if lines else None
        return self._patch

    def _draw(self, lines: Sequence[str]) -> "_Patch":
        self._look_for_glyphs({character for line in lines for character in line})
        image = _shaded(self._font, lines)
        # Its left edge stays where it is while words are added.
        return _Patch(image, self._left_px, self._bottom_px - image.height, self._width_px, self._bottom_px)

    def _look_for_glyphs(self, characters: set[str]) -> None:
        """Say once what font is needed: of a font that lacks them, characters are boxes."""
        new = {character for character in characters - self._known if not character.isspace()}
        if not new or self._is_lacking:
            return
        self._known |= new
        box = bytes(self._font.getmask(_NO_CHARACTER))
        self._is_lacking = any(bytes(self._font.getmask(character)) == box for character in new)
        if self._is_lacking:
            log.warning("overlay_font_lacks_characters", font=self._font.getname()[0], advice="set overlay.font_file")


class _Patch:
    """Pixels that are blended into their own rectangle of a picture."""

    def __init__(self, image: Image.Image, x: int, y: int, width_px: int, height_px: int) -> None:
        """The image's left upper corner at x, y, moved to where it does not cross the picture's edges."""
        # Two by two pixels have one chroma sample: what is odd gets a transparent edge.
        size = (image.width + image.width % 2, image.height + image.height % 2)
        x, y = (max(0, min(x, width_px - size[0])) & ~1, max(0, min(y, height_px - size[1])) & ~1)
        canvas = Image.new("RGBA", (min(size[0], width_px), min(size[1], height_px)))
        canvas.paste(image)
        rgba = np.asarray(canvas, np.float32)
        alpha = rgba[..., 3] / 255
        red, green, blue = (rgba[..., channel] * alpha for channel in range(3))
        luma = _RED * red + _GREEN * green + _BLUE * blue
        half_alpha, half_luma = _halved(alpha), _halved(luma)
        rows, columns = slice(y, y + rgba.shape[0]), slice(x, x + rgba.shape[1])
        half = slice(y // 2, (y + rgba.shape[0]) // 2), slice(x // 2, (x + rgba.shape[1]) // 2)
        self._parts = (
            _Part((rows, columns), 16 * alpha + 219 / 255 * luma, alpha),
            _Part(half, 128 * half_alpha + 224 / 255 * (_halved(blue) - half_luma) / _BLUE_SPAN, half_alpha),
            _Part(half, 128 * half_alpha + 224 / 255 * (_halved(red) - half_luma) / _RED_SPAN, half_alpha),
        )

    def blend(self, planes: Planes) -> None:
        for plane, part in zip(planes, self._parts, strict=True):
            part.blend(plane)


class _Part:
    """A patch's share of one plane: of each sample, 1/256ths to keep of what is there, and what is added to it."""

    def __init__(self, where: tuple[slice, slice], added: Samples, alpha: Samples) -> None:
        """`added` times 256 and rounded is at most 255 * 256 + 128, so that all sums keep to 16 bits."""
        self._where = where
        opacity = np.rint(alpha * 256)
        self._kept = (256 - opacity).astype(np.uint16)
        self._added = np.rint(added * 256 + 128).astype(np.uint16)
        self._sums = np.empty_like(self._kept)

    def blend(self, plane: NDArray[np.uint8]) -> None:
        pixels = plane[self._where]
        np.multiply(pixels, self._kept, out=self._sums)
        self._sums += self._added
        self._sums >>= 8
        pixels[...] = self._sums


def _halved(plane: Samples) -> Samples:
    return (plane[::2, ::2] + plane[::2, 1::2] + plane[1::2, ::2] + plane[1::2, 1::2]) / 4


def _shaded(font: ImageFont.FreeTypeFont, lines: Sequence[str]) -> Image.Image:
    """White lines on a shade."""
    padding, line_px = round(_PADDING * font.size), round(_LINE_HEIGHT * font.size)
    width_px = max(round(font.getlength(line)) for line in lines) + 2 * padding
    image = Image.new("RGBA", (width_px, line_px * len(lines) + padding), _SHADE)
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        # Anchored at the middle of the line, whatever its letters are.
        draw.text((padding, padding / 2 + (number + 0.5) * line_px), line, _WHITE, font, anchor="lm")
    return image


def _font(path: Path | None, size_px: float) -> ImageFont.FreeTypeFont:
    """Raises ConfigError."""
    size_px = max(1, round(size_px))
    if path is not None:
        try:
            return ImageFont.truetype(path, size_px)
        except OSError as error:
            raise ConfigError(f"overlay.font_file: {path} cannot be read as a font: {error}") from None
    for name in _SYSTEM_FONTS:
        try:
            return ImageFont.truetype(name, size_px)
        except OSError:
            continue
    font = ImageFont.load_default(size_px)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
