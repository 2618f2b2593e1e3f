"""RTP header extensions (RFC 8285), and the one that tells when media was captured.

A packet may carry anything: what cannot be read is as good as not there.
"""

from collections.abc import Iterable
from struct import Struct

from bridge.media.clock import NS_PER_S

# 8 bytes: NTP time of the capture, 32.32 fixed point seconds, on the clock of the capturing system's sender reports.
# 16 bytes: behind it, signed, by how much that clock is ahead of the clock of this sender's reports.
CAPTURE_TIME_URI = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time"

_ONE_BYTE = 0xBEDE  # RFC 8285 §4.2
_TWO_BYTE, _TWO_BYTE_MASK = 0x1000, 0xFFF0  # §4.3; the rest is the application's
_RESERVED_ID = 15  # §4.2: in the one-byte form nothing behind it is to be read
_HEADER_BYTES = 4
_CAPTURE = Struct("!Q")
_CAPTURE_AND_OFFSET = Struct("!Qq")


def is_usable_id(identifier: int) -> bool:
    """Whether elements can have this number, in one of the two forms."""
    return 1 <= identifier <= 255 and identifier != _RESERVED_ID


def element(block: bytes, identifier: int) -> bytes:
    """The value of the first element with this number; empty: there is none, or it runs over the end.

    `block` is all of a packet's extension, from its profile on.
    """
    profile, position, end = int.from_bytes(block[:2], "big"), _HEADER_BYTES, len(block)
    if profile == _ONE_BYTE:
        while position < end:
            head = block[position]
            position += 1
            if not head:
                continue  # padding
            number, length = head >> 4, (head & 0x0F) + 1
            if number == identifier:
                return block[position : position + length] if position + length <= end else b""
            if number in (0, _RESERVED_ID):
                break
            position += length
    elif profile & _TWO_BYTE_MASK == _TWO_BYTE:
        while position < end - 1:
            number, length = block[position], block[position + 1]
            if not number:
                position += 1
                continue
            position += 2
            if number == identifier:
                return block[position : position + length] if position + length <= end else b""
            position += length
    return b""


def one_byte_block(elements: Iterable[tuple[int, bytes]]) -> bytes:
    """An extension from its profile on; without what does not fit its form (§4.2), and empty without anything."""
    packed = b"".join(
        bytes([identifier << 4 | len(value) - 1]) + value
        for identifier, value in elements
        if 1 <= identifier < _RESERVED_ID and 1 <= len(value) <= 16
    )
    if not packed:
        return b""
    packed += bytes(-len(packed) % 4)
    return _ONE_BYTE.to_bytes(2, "big") + (len(packed) // 4).to_bytes(2, "big") + packed


def read_capture_time(value: bytes, *, is_mixed: bool) -> int:
    """NTP time of the capture in nanoseconds, on the clock of this sender's reports; 0: not known.

    is_mixed  the packet names contributing sources: others have captured it, on a clock of which only an offset tells.
    """
    if len(value) == _CAPTURE_AND_OFFSET.size:
        captured_q32, ahead_q32 = map(int, _CAPTURE_AND_OFFSET.unpack(value))
    elif len(value) == _CAPTURE.size and not is_mixed:
        captured_q32, ahead_q32 = int.from_bytes(value, "big"), 0
    else:
        return 0
    if not captured_q32:
        return 0
    return max(0, (captured_q32 - ahead_q32) * NS_PER_S >> 32)


def capture_time(ntp_ns: int) -> bytes:
    """The value that says when media was captured, for a system that sends what it captures."""
    # Rounded up: `read_capture_time` rounds down, and gives the same nanoseconds.
    return _CAPTURE.pack(-(-(ntp_ns << 32) // NS_PER_S) & 0xFFFFFFFFFFFFFFFF)
