"""The shapes on the card that viewers see while the avatar is away, and the program that writes them to card.npz.

    python -m bridge.outputs.make_card LATO_MEDIUM_TTF

Shipped drawn, so that no font and no renderer is needed on air. The font is Lato by Łukasz Dziedzic, under the SIL Open
Font License (Debian: fonts-lato). Needs the extra `local`.
"""

import sys
from pathlib import Path

import av
import numpy as np
import resvg_py
from numpy.typing import NDArray

SHAPES_FILE = Path(__file__).with_name("card.npz")

Shape = NDArray[np.uint8]  # how much of each pixel is covered, 255 is all

# Twice what 1080x1920 shows: larger pictures are rare, and a little softness in them is not seen.
_LINE = """<svg xmlns="http://www.w3.org/2000/svg" width="1760" height="320">
<text x="880" y="220" text-anchor="middle" font-family="Lato" font-weight="500" font-size="196"
 letter-spacing="1" fill="#fff">We’ll be right back</text></svg>"""
_EMBLEM = """<svg xmlns="http://www.w3.org/2000/svg" width="512" height="512" fill="none" stroke="#fff">
<circle cx="256" cy="256" r="240" stroke-width="20"/>
<path d="M 206 172 V 340 M 306 172 V 340" stroke-width="46" stroke-linecap="round"/></svg>"""


def shape_of(svg: str, font_files: list[str]) -> Shape:
    """A white drawing, without the empty margins round it."""
    png = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True, font_files=font_files)
    decoder = av.VideoCodecContext.create("png", "r")
    decoder.thread_count = 1
    (frame,) = [*decoder.decode(av.Packet(png)), *decoder.decode(None)]
    alpha = frame.to_ndarray(format="rgba")[..., 3].astype(np.uint8)
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    return alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def main() -> None:
    fonts = sys.argv[1:]
    np.savez_compressed(SHAPES_FILE, line=shape_of(_LINE, fonts), emblem=shape_of(_EMBLEM, fonts))


if __name__ == "__main__":
    main()
