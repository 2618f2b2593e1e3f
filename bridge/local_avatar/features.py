"""The parts of the face that change shape, and the hair: SVG from a few numbers each.

Every part but the hair is the inside of a drawing whose origin is the middle of the part; lengths are in the units
of portrait.svg, in which the face is 312 wide. The light comes from the upper left: what is on the presenter's left,
right in the picture, is darker.
"""

import random
from typing import Literal

from bridge.local_avatar.drawing import path

Side = Literal["left", "right"]  # in the picture

_LASH = "#20120e"
_SKIN = {"left": "#efc4a3", "right": "#e4b08d"}
_LID = {"left": ("#d59f7f", "#eec3a4", "#c98f70"), "right": ("#c58c6c", "#e0ae8d", "#b97e60")}
_HAIR_SHADES = ("#1f120c", "#6d4630", "#b98a5f")

# Cubic curves along which the hair falls, from the parting outwards: x and y of four points each.
_LOCKS = (
    (
        (310, 318, 270, 334, 240, 376, 231, 440, 218, 540, 216, 690, 272, 806),
        (320, 272, 242, 300, 208, 370, 202, 460, 192, 560, 188, 720, 232, 836),
        (366, 197, 252, 212, 182, 310, 174, 430, 164, 560, 146, 740, 194, 832),
    ),
    (
        (310, 318, 410, 366, 486, 396, 499, 458, 512, 540, 504, 690, 448, 806),
        (322, 268, 430, 300, 510, 380, 519, 470, 534, 570, 534, 720, 488, 838),
        (368, 197, 460, 206, 530, 300, 543, 430, 556, 560, 574, 740, 526, 832),
    ),
)


def strands(count: int = 30, seed: int = 5) -> str:
    """Fine hair over the two halves of the hairdo, in its place: shadows, body and gloss."""
    chance = random.Random(seed)
    paths: dict[str, list[str]] = {shade: [] for shade in _HAIR_SHADES}
    for guides in _LOCKS:
        for index in range(count):
            across = (index + chance.random()) / count * (len(guides) - 1)
            near, part = guides[int(across)], across % 1
            far = guides[min(int(across) + 1, len(guides) - 1)]
            drift = chance.uniform(-4, 4)
            x0, y0, *curve = (
                a + (b - a) * part + drift * (step / 14) for step, (a, b) in enumerate(zip(near, far, strict=True))
            )
            shade = chance.choices(_HAIR_SHADES, (3, 4, 2))[0]
            paths[shade].append(f"M{x0:.0f} {y0:.0f}C" + " ".join(f"{value:.0f}" for value in curve))
    return "".join(
        f'<path d="{" ".join(lines)}" fill="none" stroke="{shade}" stroke-width="{width}" stroke-opacity="{opacity}" '
        'stroke-linecap="round"/>'
        for (shade, lines), width, opacity in zip(paths.items(), (2.2, 2.4, 1.5), (0.34, 0.5, 0.36), strict=True)
    )


def eyeball(side: Side) -> str:
    """The white of one eye, larger than what the lids leave of it."""
    inner = 1 if side == "left" else -1
    return (
        f'<radialGradient id="w{side}" cx="0.45" cy="0.5" r="0.55"><stop offset="0" stop-color="#fcf9f5"/>'
        '<stop offset="0.6" stop-color="#efe8e2"/><stop offset="1" stop-color="#cdb9ae"/></radialGradient>'
        f'<ellipse cx="0" cy="0" rx="41" ry="22" fill="url(#w{side})"/>'
        f'<ellipse cx="{inner * 34}" cy="6" rx="6.5" ry="5" fill="#d99283"/>'
    )


def iris() -> str:
    """Iris, pupil and what they reflect: the lamp, and a little of the room."""
    fibres = "".join(f'<path d="M0 -7.500V-14.500" transform="rotate({angle})"/>' for angle in range(0, 360, 24))
    return (
        '<radialGradient id="iris" cx="0.5" cy="0.62" r="0.56"><stop offset="0.2" stop-color="#8fb4ae"/>'
        '<stop offset="0.55" stop-color="#4f8088"/><stop offset="0.85" stop-color="#2d5566"/>'
        '<stop offset="1" stop-color="#152c39"/></radialGradient>'
        '<circle r="17" fill="#33464f" fill-opacity="0.35"/><circle r="16" fill="url(#iris)"/>'
        f'<g fill="none" stroke="#b7d3d6" stroke-opacity="0.35">{fibres}</g><circle r="7.500" fill="#0b1117"/>'
        '<ellipse cx="-5.500" cy="-6.500" rx="4.200" ry="4.600" fill="#ffffff" fill-opacity="0.95"/>'
        '<ellipse cx="6" cy="7" rx="3.400" ry="2.200" fill="#d9f0f2" fill-opacity="0.4"/>'
    )


def lids(open_part: float, side: Side) -> str:
    """The skin around one eye, with a hole that is the opening. open_part: 0 closed .. 1 open .. 1.1 wide."""
    shut = 1 - open_part
    # Drawn for the eye whose nose is on the left: its inner corner is at -36, 6, its outer one at 38, `tail`.
    tail = -4 + 5 * shut
    upper = (-22, 15 * shut - 25 * open_part, 15, 14 * shut - 29 * open_part)
    hole = path("M -36 6 C", *upper, 38, tail, "C", 20, 17 - 2.5 * shut, -20, 18 - 2.5 * shut, -36, 6, "Z")
    crease = path("C", -24, -20 * shut - 34 * open_part, 16, -22 * shut - 38 * open_part, 43, 4 * shut - 11)
    lid = path("M -36 6", crease, "L", 38, tail, "C", *upper[2:], *upper[:2], -36, 6, "Z")
    lashes = path(
        *("M -36 6 C", *upper, 38, tail, "L", 46, 7 * shut - 10, "Q", 40, 3 * shut - 4, 34, 6 * shut - 3.5),
        *("C", 14, 17 * shut - 24.5 * open_part, -22, 17 * shut - 21 * open_part, -36, 6, "Z"),
    )
    rim = path("M", 38, tail, "C", 20, 17 - 2.5 * shut, -20, 18 - 2.5 * shut, -36, 6)
    fold, bulge, edge = _LID[side]
    return (
        f'<radialGradient id="skin"><stop offset="0.72" stop-color="{_SKIN[side]}"/>'
        f'<stop offset="1" stop-color="{_SKIN[side]}" stop-opacity="0"/></radialGradient>'
        '<linearGradient id="lid" gradientUnits="userSpaceOnUse" x1="0" x2="0" y1="-28" '
        f'y2="{16 * shut - 18 * open_part:.1f}"><stop offset="0" stop-color="{fold}"/>'
        f'<stop offset="0.5" stop-color="{bulge}"/><stop offset="1" stop-color="{edge}"/></linearGradient>'
        '<linearGradient id="shade" gradientUnits="userSpaceOnUse" x1="0" x2="0" '
        f'y1="{10 * shut - 20 * open_part:.1f}" y2="{14 * shut - 6 * open_part:.1f}">'
        '<stop offset="0" stop-color="#3a2320" stop-opacity="0.5"/>'
        '<stop offset="1" stop-color="#3a2320" stop-opacity="0"/></linearGradient>'
        f'<g transform="scale({-1 if side == "left" else 1} 1)">'
        f'<path d="M -56 0 A 56 38 0 1 1 56 0 A 56 38 0 1 1 -56 0 Z {hole}" fill="url(#skin)" fill-rule="evenodd"/>'
        f'<path d="{lid}" fill="url(#lid)"/>'
        + (f'<path d="{hole}" fill="url(#shade)"/>' if open_part > 0.1 else "")
        + f'<path d="M -35 3 {crease}" fill="none" stroke="#8a4f36" stroke-width="2.2" stroke-linecap="round" '
        f'stroke-opacity="{0.5 * min(1, open_part) + 0.2:.2f}"/>'
        f'<path d="{rim}" fill="none" stroke="#9a5a48" stroke-width="1.6" stroke-opacity="0.5"/>'
        f'<path d="{lashes}" fill="{_LASH}" stroke="{_LASH}" stroke-width="1.4" stroke-linejoin="round"/></g>'
    )


def brow(raised: float, gathered: float, side: Side) -> str:
    """One eyebrow. raised: 0 at rest .. 1 asking; gathered: 1 drawn together over the nose."""
    head_x, head_y = -38 - 4 * gathered, 6 + 6 * gathered - 2 * raised
    peak, tail = -9 - 7 * raised + 3 * gathered, 3 + raised
    body = path(
        *("M", head_x + 2, head_y - 4, "C", -18, peak - 4, 12, peak - 7.5, 45, tail),
        *("C", 14, peak - 1, -14, peak + 5, head_x + 3, head_y + 5, "Q", head_x - 3, head_y + 1),
        *(head_x + 2, head_y - 4, "Z"),
    )
    hairs = []
    for index in range(24):
        part = 0.9 * index / 23
        x, y = _on_curve((head_x, head_y, -18, peak + 1, 12, peak - 5, 45, tail), part)
        thick = 5.6 * (1 - part) ** 0.6 + 0.6
        hairs.append(path("M", x, y + thick * 0.7, "l", 2 + 8 * part, -thick * (1.15 - 0.6 * part)))
    return (
        '<linearGradient id="brow"><stop offset="0" stop-color="#5a3a28" stop-opacity="0.3"/>'
        '<stop offset="0.25" stop-color="#50331f" stop-opacity="0.8"/><stop offset="1" stop-color="#47301f"/>'
        f'</linearGradient><g transform="scale({-1 if side == "left" else 1} 1)">'
        f'<path d="{body}" fill="url(#brow)"/><path d="{" ".join(hairs)}" fill="none" stroke="#3a2418" '
        'stroke-width="1.500" stroke-linecap="round" stroke-opacity="0.42"/></g>'
    )


def _on_curve(cubic: tuple[float, ...], part: float) -> tuple[float, float]:
    rest = 1 - part
    weights = (rest**3, 3 * rest**2 * part, 3 * rest * part**2, part**3)
    x, y = (sum(weight * at for weight, at in zip(weights, cubic[axis::2], strict=True)) for axis in (0, 1))
    return x, y
