"""Overlays: what is painted, where, and that nothing else of the picture changes."""

from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFont
from structlog.testing import capture_logs

from bridge.errors import ConfigError
from bridge.media.clock import NS_PER_S
from bridge.outputs.overlay import Overlay, OverlaySettings

WIDTH_PX, HEIGHT_PX = 640, 360
LATIN = ImageFont.load_default(10)
Planes = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]


@pytest.fixture
def logo(tmp_path: Path) -> Path:
    """Red on the left, nothing on the right."""
    path = tmp_path / "logo.png"
    image = Image.new("RGBA", (100, 50))
    image.paste((255, 0, 0, 255), (0, 0, 50, 50))
    image.save(path)
    return path


def picture(width_px: int = WIDTH_PX, height_px: int = HEIGHT_PX) -> Planes:
    """Noise, so that any change is seen."""
    random = np.random.default_rng(1)
    luma = random.integers(16, 236, (height_px, width_px), np.uint8)
    blue, red = (random.integers(16, 241, (height_px // 2, width_px // 2), np.uint8) for _ in "UV")
    return luma, blue, red


def painted(settings: OverlaySettings, caption: str = "", at_s: float = 2.0) -> tuple[Planes, NDArray[np.bool_]]:
    """A picture with the overlay, and where its luma has changed."""
    overlay = Overlay(settings, WIDTH_PX, HEIGHT_PX)
    overlay.set_caption(caption, 0)
    before, after = picture(), picture()
    overlay.paint(after, round(at_s * NS_PER_S))
    return after, before[0] != after[0]


def box(changed: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what has changed."""
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@pytest.mark.parametrize(
    ("corner", "left_top"),
    [("top-left", (14, 14)), ("top-right", (526, 14)), ("bottom-left", (14, 296)), ("bottom-right", (526, 296))],
)
def test_a_logo_stands_in_its_corner(logo: Path, corner: str, left_top: tuple[int, int]) -> None:
    settings = OverlaySettings(logo_file=logo, logo_corner=corner, logo_width=0.15625, margin=0.04)  # type: ignore[arg-type]
    (luma, blue, red), changed = painted(settings)
    left, top = left_top
    x, y, right, bottom = box(changed)
    assert (x, y) == left_top and 48 <= right - x <= 54 and bottom - y == 50, "its right half is transparent"
    middle = (top + 25, left + 25)
    # Red, as players show it: BT.709 in studio range.
    assert luma[middle] == 63
    assert (blue[middle[0] // 2, middle[1] // 2], red[middle[0] // 2, middle[1] // 2]) == (102, 240)


def test_what_is_half_transparent_is_mixed(logo: Path) -> None:
    full, _ = painted(OverlaySettings(logo_file=logo, logo_corner="top-left"))
    half, _ = painted(OverlaySettings(logo_file=logo, logo_corner="top-left", logo_opacity=0.5))
    bare = picture()
    for plane, above, below in zip(half, full, bare, strict=True):
        mixed = (above.astype(int) + below) / 2
        assert np.abs(plane - mixed).max() <= 2


@pytest.mark.parametrize("alpha", range(0, 256, 15))
def test_every_opacity_keeps_within_the_studio_range(alpha: int, tmp_path: Path) -> None:
    path = tmp_path / "logo.png"
    for colour in ((255, 255, 255), (0, 0, 0), (0, 0, 255), (255, 255, 0)):
        Image.new("RGBA", (64, 64), (*colour, alpha)).save(path)
        planes, _ = painted(OverlaySettings(logo_file=path))
        assert 16 <= planes[0].min() and planes[0].max() <= 235
        assert all(16 <= plane.min() and plane.max() <= 240 for plane in planes[1:])


def test_text_is_white_on_a_shade() -> None:
    (luma, _, _), changed = painted(OverlaySettings(text="Live from Cologne"))
    left, top, right, bottom = box(changed)
    assert (left, top) == (14, 14) and right - left > 4 * (bottom - top)
    text = luma[top:bottom, left:right]
    assert text.max() >= 230 and np.median(text) < 90


def test_captions_stand_at_the_bottom_and_go() -> None:
    settings = OverlaySettings(captions=True)
    words = "Good evening and welcome to a programme that is read as well as heard"
    _, early = painted(settings, words, at_s=0.3)
    _, later = painted(settings, words, at_s=4.5)
    for changed in (early, later):
        left, top, _, bottom = box(changed)
        assert left == 44 and top > HEIGHT_PX / 2 and abs(bottom - (HEIGHT_PX - 14)) <= 1
    assert box(later)[2] > box(early)[2]
    assert not painted(settings, words, at_s=20.0)[1].any()
    assert not painted(settings, "", at_s=0.3)[1].any()


def test_captions_that_are_off_are_not_shown() -> None:
    assert not painted(OverlaySettings(), "Hello")[1].any()


TEXTS = {
    "Chinese": "今天天气很好",
    "Arabic": "مرحبا بالعالم",
    "Hebrew": "שלום",
    "Hindi": "नमस्ते",
    "emoji": "👩‍👩‍👧 🎉",
    "marks": "a\u0301\u0301\u0301\u0301",
    "surrogates": "\ud800\udfff",
    "controls": "\x01\x1b[2J",
    "no character": "\U0010ffff",
    "long": "x" * 3000,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_text_can_be_painted(text: str) -> None:
    settings = OverlaySettings(captions=True, text=text[:50])
    for at_s in (0.0, 1.0, 3.0):
        painted(settings, text, at_s)


def test_a_font_that_lacks_characters_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.outputs.overlay._SYSTEM_FONTS", ())
    overlay = Overlay(OverlaySettings(captions=True), WIDTH_PX, HEIGHT_PX)
    with capture_logs() as logs:
        for number, text in enumerate(("Hello", "今天", "天气")):
            overlay.set_caption(text, number * NS_PER_S)
            overlay.paint(picture(), number * NS_PER_S)
    (told,) = logs
    assert (told["event"], told["advice"]) == ("overlay_font_lacks_characters", "set overlay.font_file")


@pytest.mark.parametrize("size", [(64, 64), (2, 2), (16, 2), (2, 16), (720, 1280), (1920, 1080)])
def test_an_overlay_fits_any_picture(logo: Path, size: tuple[int, int]) -> None:
    settings = OverlaySettings(logo_file=logo, logo_width=1.0, text="A text", captions=True, margin=0.4)
    overlay = Overlay(settings, *size)
    overlay.set_caption("What is said", 0)
    overlay.paint(picture(*size), NS_PER_S)


def test_planes_of_a_frame_with_padding_can_be_painted_on(logo: Path) -> None:
    frame = av.VideoFrame(WIDTH_PX, HEIGHT_PX, "yuv420p")
    views: list[NDArray[np.uint8]] = []
    for plane, source in zip(frame.planes, picture(), strict=True):
        view = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
        view[...] = source
        views.append(view)
    overlay = Overlay(OverlaySettings(logo_file=logo, text="A text"), WIDTH_PX, HEIGHT_PX)
    overlay.paint(views, 0)
    expected = picture()
    overlay.paint(expected, 0)
    assert (frame.to_ndarray()[:HEIGHT_PX] == expected[0]).all()


BROKEN = {
    "missing": (None, "No such file"),
    "no picture": (b"hello", "cannot be read as PNG"),
    "cut off": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "cannot be read as PNG"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_cannot_be_read_is_the_operators(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"overlay.logo_file: .*{message}"):
        Overlay(OverlaySettings(logo_file=path), WIDTH_PX, HEIGHT_PX)
    with pytest.raises(ConfigError, match=r"overlay.font_file: .* cannot be read as a font"):
        Overlay(OverlaySettings(font_file=path, captions=True), WIDTH_PX, HEIGHT_PX)


def test_a_png_cut_off_at_any_byte_is_read_or_refused(logo: Path, tmp_path: Path) -> None:
    whole = logo.read_bytes()
    path = tmp_path / "cut.png"
    for n_bytes in range(len(whole)):
        path.write_bytes(whole[:n_bytes])
        try:
            Overlay(OverlaySettings(logo_file=path), WIDTH_PX, HEIGHT_PX)
        except ConfigError:
            continue
