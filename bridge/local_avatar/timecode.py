"""Measuring instruments in the avatar's media: a frame counter one can see, a stamp one can read without decoding.

The counter is drawn before encoding and survives transcoding and scaling. The stamp says when encoding was complete;
it travels as an SEI message and survives copying. Tests and benchmarks read both.
"""

from uuid import UUID
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from bridge.media.h264 import NAL_SEI, join_avcc

# user_data_unregistered (H.264 §D.1.7): a UUID names the format, here eight hexadecimal digits of the frame number
# and sixteen of the time. Text holds no zero bytes, so emulation prevention never touches it.
_FORMAT = UUID("5c8e1f9a-7d34-4b6e-9a21-d3f8b5c6e7a9").bytes
_USER_DATA_UNREGISTERED = 5
_RBSP_STOP = b"\x80"

# The counter: 32 bits of number and 16 of its checksum in two rows of 24 cells along the top of the picture. Cells
# are fractions of the picture, 27x32 px in 720x1280 and 13x16 px in 360x640: no smaller than a macroblock.
_COLUMNS, _ROWS = 24, 2
_CELL_WIDTHS, _CELL_HEIGHTS = 26, 40  # how many would fill the picture
_BLACK, _WHITE, _GREY = 16, 235, 128
_CLEARLY = 40  # a cell this close to the middle is unreadable: two pictures in one, or none of ours


def insert_stamp(payload: bytes, frame_number: int, encode_complete_ns: int) -> bytes:
    """The access unit (AVCC, without parameter sets) with a stamp before its first slice."""
    message = _FORMAT + f"{frame_number & 0xFFFFFFFF:08x}{encode_complete_ns:016x}".encode()
    nal = bytes([NAL_SEI, _USER_DATA_UNREGISTERED, len(message)]) + message + _RBSP_STOP
    return join_avcc([nal]) + payload


def read_stamp(access_unit: bytes) -> tuple[int, int] | None:
    """Frame number and `time.monotonic_ns` of the end of encoding; AVCC and Annex B alike. None: not stamped."""
    start = access_unit.find(_FORMAT)
    digits = access_unit[start + 16 : start + 40]
    if start < 0 or len(digits) < 24:
        return None
    try:
        return int(digits[:8], 16), int(digits[8:], 16)
    except ValueError:
        return None


def draw_counter(luma: NDArray[np.uint8], chroma: tuple[NDArray[np.uint8], NDArray[np.uint8]], number: int) -> None:
    """Write the low 32 bits of a number along the top of a picture in I420."""
    number &= 0xFFFFFFFF
    bits = number << 16 | _checksum(number)
    height, width = luma.shape
    for index in range(_COLUMNS * _ROWS):
        top, down, left, right = _cell(index, width, height)
        luma[top:down, left:right] = _WHITE if bits >> (_COLUMNS * _ROWS - 1 - index) & 1 else _BLACK
    _, down, _, right = _cell(_COLUMNS * _ROWS - 1, width, height)
    top, _, left, _ = _cell(0, width, height)
    for plane in chroma:
        plane[top // 2 : (down + 1) // 2, left // 2 : (right + 1) // 2] = _GREY


def read_counter(luma: NDArray[np.uint8]) -> int | None:
    """The number drawn into a picture of any size, shape (height, width). None: none there, or not legible."""
    height, width = luma.shape
    bits = 0
    for index in range(_COLUMNS * _ROWS):
        top, down, left, right = _cell(index, width, height)
        inset_x, inset_y = (right - left) // 4, (down - top) // 4
        cell = luma[top + inset_y : down - inset_y, left + inset_x : right - inset_x]
        if not cell.size or abs(int(mean := cell.mean()) - _GREY) < _CLEARLY:
            return None
        bits = bits << 1 | int(mean > _GREY)
    number, checksum = bits >> 16, bits & 0xFFFF
    return number if checksum == _checksum(number) else None


def _cell(index: int, width: int, height: int) -> tuple[int, int, int, int]:
    row, column = divmod(index, _COLUMNS)
    column += 1
    top, down = (height * (row + step) // _CELL_HEIGHTS + height // 80 for step in (0, 1))
    left, right = (width * (column + step) // _CELL_WIDTHS for step in (0, 1))
    return top, down, left, right


def _checksum(number: int) -> int:
    # Inverted, because the CRC of all ones ends in all ones: a white picture would be a number.
    return ~crc32(number.to_bytes(4, "big")) & 0xFFFF
