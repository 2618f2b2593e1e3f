"""The parts of the face that change shape: mouth, eyes and brows as SVG, from a few numbers each.

Every function returns the inside of a drawing whose origin is the middle of the part; lengths are in the units of
portrait.svg, in which the face is 330 wide.
"""

from zlib import crc32

LIP = "#c9786a"
LIP_SHADE = "#a44d48"
CREASE = "#b9774f"
CAVITY = "#4a1720"
TONGUE = "#d1646b"
TEETH = "#fbf7f2"
HAIR = "#432a1e"


def mouth(openness: float, spread: float, hiss: float = 0.0, smile: float = 0.0) -> str:
    """Lips, teeth and tongue.

    openness  0 closed .. 1 a shouted "a".  spread  -1 round as in "o" .. 1 wide as in "e".
    hiss      1: the teeth meet, or bite the lip, as in "s" and "f".  smile  1: corners up.
    """
    half = 47 + 15 * spread - 6 * openness * (spread < 0) + 6 * smile
    drop = openness * (46 - 8 * max(0.0, spread)) + 7 * hiss
    rise = openness * (10 - 4 * min(0.0, spread)) + 3 * hiss
    corner = -9 * smile - 2 * max(0.0, spread) + 3 * openness
    upper_lip = 6.5 + 3 * max(0.0, -spread)
    lower_lip = 10 + 4 * max(0.0, -spread)
    inner = half - 5
    # How far out the curves stay full: wide mouths are lenses, deep ones ellipses.
    belly = 0.58 - 0.1 * spread
    jaw = 0.55 + 0.55 * min(1.0, drop / inner)
    top = f"C {-inner * belly:.1f} {-rise:.1f} {inner * belly:.1f} {-rise:.1f} {inner:.1f} {corner:.1f}"
    sag = drop * 1.3 + 8 * smile + 1.5
    bottom = f"C {inner * jaw:.1f} {sag:.1f} {-inner * jaw:.1f} {sag:.1f} {-inner:.1f} {corner:.1f}"
    opening = f"M {-inner:.1f} {corner:.1f} {top} {bottom} Z"
    bow = upper_lip + rise * 0.75
    jowl, hem = half * (jaw + 0.12), sag + lower_lip * 1.2
    lips = (
        f"M {-half:.1f} {corner:.1f} C {-half * 0.6:.1f} {-bow * 0.8:.1f} {-half * 0.3:.1f} {-bow * 1.25:.1f} "
        f"{-half * 0.14:.1f} {-bow * 1.12:.1f} Q 0 {-bow * 0.86:.1f} {half * 0.14:.1f} {-bow * 1.12:.1f} "
        f"C {half * 0.3:.1f} {-bow * 1.25:.1f} {half * 0.6:.1f} {-bow * 0.8:.1f} {half:.1f} {corner:.1f} "
        f"C {jowl:.1f} {hem:.1f} {-jowl:.1f} {hem:.1f} {-half:.1f} {corner:.1f} Z"
    )
    parts = [f'<path d="{lips}" fill="{LIP}"/>']
    if drop < 2:
        parts.append(
            f'<path d="M {-half:.1f} {corner:.1f} Q {-half * 0.4:.1f} {sag * 0.8:.1f} 0 {sag * 0.55:.1f} '
            f'Q {half * 0.4:.1f} {sag * 0.8:.1f} {half:.1f} {corner:.1f}" fill="none" stroke="{LIP_SHADE}" '
            f'stroke-width="3.5" stroke-linecap="round"/>'
        )
    else:
        teeth_down = -rise * 0.7 + 5 + 7 * openness + 9 * hiss
        tongue_y = drop * (1.06 - 0.1 * openness)
        parts.append(f'<path d="{opening}" fill="{CAVITY}"/>')
        parts.append(
            _clipped(
                opening,
                f'<ellipse cx="0" cy="{tongue_y:.1f}" rx="{inner * 0.62:.1f}" '
                f'ry="{4 + drop * 0.34:.1f}" fill="{TONGUE}"/>'
                f'<rect x="{-inner * 0.8:.1f}" y="{-rise - 14:.1f}" width="{inner * 1.6:.1f}" '
                f'height="{teeth_down + rise + 14:.1f}" rx="6" fill="{TEETH}"/>',
            )
        )
    shade = sag * 0.86 + lower_lip * 1.25 + 9
    parts.append(
        f'<path d="M {-half * 0.36:.1f} {shade:.1f} Q 0 {shade + 5:.1f} {half * 0.36:.1f} {shade:.1f}" fill="none" '
        f'stroke="{CREASE}" stroke-width="4" stroke-linecap="round" opacity="0.45"/>'
    )
    return "".join(parts)


def eye(open_part: float, gaze_x: float, gaze_y: float) -> str:
    """One eye, its nose on the left. open_part: 0 closed .. 1; gaze: -1..1, right and down are positive."""
    half, upper, lower = 37.0, 25.0 * open_part, 15.0 * (0.35 + 0.65 * open_part)
    if open_part < 0.12:
        return (
            '<path d="M -38 2 Q 2 19 40 -1" fill="none" stroke="#2b1a14" stroke-width="5.5" stroke-linecap="round"/>'
            f'<path d="M -34 -12 Q 2 -16 37 -14" fill="none" stroke="{CREASE}" stroke-width="2.5" '
            'stroke-linecap="round" opacity="0.5"/>'
        )
    lid = f"C {-half * 0.55:.1f} {-upper * 1.25:.1f} {half * 0.5:.1f} {-upper * 1.35:.1f} {half:.1f} -2"
    shape = f"M {-half} 3 {lid} C {half * 0.6:.1f} {lower:.1f} {-half * 0.55:.1f} {lower * 1.2:.1f} {-half} 3 Z"
    x, y = 7.5 * gaze_x, 4.5 * gaze_y - 2
    ball = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="19" fill="#2f5f7d"/>'
        f'<circle cx="{x:.1f}" cy="{y + 3:.1f}" r="14" fill="#4f8fae"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" fill="#10202c"/>'
        f'<circle cx="{x - 6.5:.1f}" cy="{y - 7:.1f}" r="5" fill="#ffffff"/>'
        f'<circle cx="{x + 6:.1f}" cy="{y + 6:.1f}" r="2.4" fill="#ffffff" opacity="0.7"/>'
        f'<path d="M {-half} -30 H {half} V {-upper * 0.62:.1f} Q 0 {-upper * 0.8 + 9:.1f} {-half} 2 Z" fill="#8a6f78" '
        'opacity="0.28"/>'
    )
    return (
        f'<path d="{shape}" fill="#fdfcfa"/>{_clipped(shape, ball)}'
        f'<path d="M {-half} 3 {lid} L {half + 2:.1f} -4" fill="none" stroke="#2b1a14" stroke-width="5" '
        'stroke-linecap="round" stroke-linejoin="round"/>'
        f'<path d="M {-half + 5:.1f} {-upper - 4:.1f} Q 2 {-upper * 1.1 - 13:.1f} {half - 1:.1f} {-upper - 6:.1f}" '
        f'fill="none" stroke="{CREASE}" stroke-width="2.5" stroke-linecap="round" opacity="0.6"/>'
    )


def brow(raised: float) -> str:
    """One eyebrow, its nose on the left. raised: 0 at rest .. 1 asking."""
    arch = 6 + 7 * raised
    return (
        f'<path d="M -42 {5 - 2 * raised:.1f} C -22 {-arch - 3:.1f} 14 {-arch - 7:.1f} 44 {4 + raised:.1f} '
        f'C 16 {-arch + 4:.1f} -16 {-arch + 10:.1f} -39 {14 - 2 * raised:.1f} Q -45 11 -42 {5 - 2 * raised:.1f} Z" '
        f'fill="{HAIR}"/>'
    )


def pair(right: str, left: str, distance: float) -> str:
    """A part on the right and one, mirrored, on the left, each `distance` from the middle."""
    return (
        f'<g transform="translate({distance})">{right}</g><g transform="translate(-{distance}) scale(-1 1)">{left}</g>'
    )


def _clipped(shape: str, inside: str) -> str:
    name = f"clip{crc32(shape.encode()):x}"
    return f'<clipPath id="{name}"><path d="{shape}"/></clipPath><g clip-path="url(#{name})">{inside}</g>'
