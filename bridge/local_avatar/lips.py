"""The mouth as SVG: lips, teeth and tongue from a few numbers. Its origin is the middle of the closed lips.

Lengths are in the units of portrait.svg, in which the face is 312 wide; the light comes from the upper left.
"""

from bridge.local_avatar.drawing import path

_UPPER_LIP, _LOWER_LIP, _LIP_EDGE, _LIP_INSIDE, _LIP_LINE = "#b95f5a", "#c9736b", "#a94f4e", "#9c4547", "#6e2a2c"
_SKIN_SHADE = "#9a5638"
_GRADIENTS = (
    '<radialGradient id="under"><stop offset="0" stop-color="#9a5638" stop-opacity="0.5"/>'
    '<stop offset="1" stop-color="#9a5638" stop-opacity="0"/></radialGradient>'
    '<radialGradient id="gloss"><stop offset="0" stop-color="#ffd9cc" stop-opacity="0.6"/>'
    '<stop offset="1" stop-color="#ffd9cc" stop-opacity="0"/></radialGradient>'
    '<linearGradient id="throat" x1="0" y1="0" x2="0" y2="1"><stop offset="0" stop-color="#24090d"/>'
    '<stop offset="1" stop-color="#61232a"/></linearGradient>'
    '<linearGradient id="teeth"><stop offset="0" stop-color="#c9b8ab"/><stop offset="0.3" stop-color="#f9f5ef"/>'
    '<stop offset="0.62" stop-color="#f4efe8"/><stop offset="1" stop-color="#b3a094"/></linearGradient>'
)


def mouth(openness: float, spread: float, *, hiss: float = 0.0, smile: float = 0.0, press: float = 0.0) -> str:
    """Lips, teeth and tongue.

    openness  0 closed .. 1 a shouted "a".  spread  -1 round as in "o" .. 1 wide as in "e".
    hiss      1: the teeth meet, as in "s".  smile  1: corners up.  press  1: lips pressed together.
    """
    narrow, wide = max(0.0, -spread), max(0.0, spread)
    half = 49 + 9 * wide - (17 - 4 * openness) * narrow + 8 * smile - 4 * openness * (1 - wide) - 2 * press
    drop = openness * (40 - 8 * wide - 6 * narrow) + 7 * hiss
    rise = openness * (8 - 3 * wide - narrow) + 3 * hiss
    corner = -9 * smile - 1.5 * wide + 3 * openness + 1.5 * press
    upper = (10.5 + 3 * narrow - 2 * smile) * (1 - 0.45 * press)
    lower = (15 + 3 * narrow - 2 * smile) * (1 - 0.4 * press)
    # The seam: where the lips meet, or their inner edges. The upper one dips in the middle while it is shut.
    inner = half - 4 - 2 * openness
    top, bottom = 2 - 1.3 * rise, 1.32 * drop + 2 + 5 * smile
    dip = top + 2.4 * max(0.0, 1 - drop / 10)
    # How far out the curves stay full: wide mouths are lenses, deep ones ellipses.
    belly = 0.42 + 0.38 * min(1.0, drop / inner) + 0.12 * narrow
    seam = path(
        "C", -inner * 0.6, top * 0.9, -inner * 0.26, dip, 0, dip, "C", inner * 0.26, dip, inner * 0.6, top * 0.9
    )
    opening = path(
        *("M", -inner, corner, seam, inner, corner),
        *("C", inner * belly, bottom, -inner * belly, bottom, -inner, corner, "Z"),
    )
    # The outline: a bow above, fuller on round mouths, and the hem of the lower lip.
    bow, hem = top - upper * 1.35, bottom + lower * 1.28
    full, wing = bow * (0.42 + 0.4 * narrow), half * (belly + 0.16)
    lips = path(
        *("M", -half, corner, "C", -half * 0.72, full, -half * 0.34, bow * 1.12, -half * 0.15, bow),
        *("Q", 0, bow + 5.5, half * 0.15, bow),
        *("C", half * 0.34, bow * 1.12, half * 0.72, full, half, corner),
        *("C", wing, hem, -wing, hem, -half, corner, "Z"),
    )
    # A cubic reaches three quarters of the way to its control points.
    inside, outside = 0.75 * bottom + 0.25 * corner, 0.75 * hem + 0.25 * corner
    span = max(1.0, outside - bow)
    parts = [
        _GRADIENTS,
        f'<linearGradient id="lips" gradientUnits="userSpaceOnUse" x1="0" y1="{bow:.1f}" x2="0" y2="{outside:.1f}">'
        f'<stop offset="0" stop-color="{_UPPER_LIP}"/>'
        f'<stop offset="{(top - bow) / span:.2f}" stop-color="{_LIP_INSIDE}"/>'
        f'<stop offset="{(inside - bow) / span:.2f}" stop-color="{_LOWER_LIP}"/>'
        f'<stop offset="1" stop-color="{_LIP_EDGE}"/></linearGradient>',
        f'<ellipse cx="0" cy="{outside + 6:.1f}" rx="{half * 0.62:.1f}" ry="9" fill="url(#under)"/>',
        *(
            f'<circle cx="{at:.1f}" cy="{corner:.1f}" r="{radius}" fill="{_SKIN_SHADE}" fill-opacity="0.1"/>'
            for at in (-half, half)
            for radius in (6, 4, 2.4)
        ),
        f'<path d="{lips}" fill="url(#lips)"/>',
    ]
    if drop > 2:
        parts.append(_inside(opening, inner, top, inside, drop, openness, hiss))
    shine = path("M", -half * 0.42, bow + 5, "Q", -half * 0.18, bow + 0.5, 0, bow + 4)
    line = path("M", 1 - half, corner, seam, half - 1, corner)
    parts += [
        f'<path d="{shine}" fill="none" stroke="#f3b3a4" stroke-width="2.5" stroke-linecap="round" '
        'stroke-opacity="0.22"/>',
        f'<ellipse cx="{-half * 0.16:.1f}" cy="{inside + (outside - inside) * 0.45:.1f}" rx="{half * 0.34:.1f}" '
        f'ry="{(outside - inside) * 0.24:.1f}" fill="url(#gloss)"/>',
        f'<path d="{line}" fill="none" stroke="{_LIP_LINE}" stroke-width="{1.8 if drop > 2 else 2.6}" '
        'stroke-linecap="round" stroke-opacity="0.75"/>',
    ]
    return "".join(parts)


def _inside(opening: str, inner: float, top: float, lowest: float, drop: float, openness: float, hiss: float) -> str:
    edge = top + 7 + 6 * openness + 7 * hiss  # of the upper teeth
    side, roof, tongue = inner * (0.78 + 0.14 * hiss), top - 12, lowest - drop * 0.1
    teeth = path("M", -side, roof, "V", edge - 5, "Q", 0, edge + 4, side, edge - 5, "V", roof, "Z")
    lower_teeth = path(
        "M", -side * 0.9, edge, "Q", 0, edge + 6, side * 0.9, edge, "V", edge + 22, "H", -side * 0.9, "Z"
    )
    gaps = path(*(step for part in (-0.52, -0.29, 0, 0.29, 0.52) for step in ("M", part * inner, top, "V", edge + 1)))
    return (
        f'<clipPath id="opening"><path d="{opening}"/></clipPath><g clip-path="url(#opening)">'
        f'<path d="{opening}" fill="url(#throat)"/>'
        f'<ellipse cx="0" cy="{tongue:.1f}" rx="{inner * 0.6:.1f}" ry="{2 + drop * 0.3:.1f}" fill="#b5515a"/>'
        f'<ellipse cx="-3" cy="{tongue - drop * 0.1:.1f}" rx="{inner * 0.34:.1f}" ry="{1 + drop * 0.13:.1f}" '
        'fill="#d98186" fill-opacity="0.55"/>'
        + (f'<path d="{lower_teeth}" fill="#d8cbbf"/>' if hiss else "")
        + f'<path d="{teeth}" fill="url(#teeth)"/>'
        f'<path d="{gaps}" fill="none" stroke="#8a7468" stroke-opacity="0.28"/>'
        f'<path d="{opening}" fill="none" stroke="#2a0a0e" stroke-width="7" stroke-opacity="0.35"/></g>'
    )
