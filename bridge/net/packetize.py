"""Access units cut into RTP payloads, for H.264 the reverse of `receive.depacketize`, and their headers. Pure."""

from collections.abc import Iterable
from struct import Struct

from bridge.media.h264 import NAL_IDR, NAL_SLICE, nal_type

# Leaves room under the 1280 bytes that IPv6 guarantees for IPv6, UDP, TURN framing, RTP with extensions and SRTP's tag.
MAX_PAYLOAD_BYTES = 1200

_STAP_A = 24  # RFC 6184 §5.2, table 1
_FU_A = 28

VP8_PICTURE_IDS = 1 << 15  # RFC 7741 §4.2: they wrap after 15 bits
_VP8_DESCRIPTOR_BYTES = 4

HEADER = Struct("!BBHII")


def rtp_header(
    payload_type: int, marker: bool, sequence_number: int, timestamp: int, ssrc: int, extension: bytes
) -> bytes:
    """The fixed header and the header extension behind it, if there is one."""
    # RFC 3550 §5.1: version 2; the X bit when an extension follows.
    first = 0x90 if extension else 0x80
    return HEADER.pack(first, marker << 7 | payload_type, sequence_number, timestamp, ssrc) + extension


def packetize_h264(nals: Iterable[bytes]) -> list[bytes]:
    """RTP payloads of one access unit, each of at most `MAX_PAYLOAD_BYTES`: packetization mode 1 (RFC 6184 §6.3).

    Parameter sets and SEI that stand together share a STAP-A; a NAL unit that is too long becomes FU-A fragments of
    even length.
    """
    payloads: list[bytes] = []
    small: list[bytes] = []
    small_bytes = 1
    for nal in nals:
        is_small = nal_type(nal) not in (NAL_SLICE, NAL_IDR) and len(nal) + 3 <= MAX_PAYLOAD_BYTES
        if small and not (is_small and small_bytes + 2 + len(nal) <= MAX_PAYLOAD_BYTES):
            payloads.append(_aggregate(small))
            small, small_bytes = [], 1
        if is_small:
            small.append(nal)
            small_bytes += 2 + len(nal)
        elif len(nal) <= MAX_PAYLOAD_BYTES:
            payloads.append(nal)
        else:
            payloads += _fragment(nal)
    if small:
        payloads.append(_aggregate(small))
    return payloads


def _aggregate(nals: list[bytes]) -> bytes:
    if len(nals) == 1:
        return nals[0]
    # RFC 6184 §5.3, §5.7.1: F is the OR and NRI the maximum of those inside.
    header = max(nal[0] & 0x60 for nal in nals) | _STAP_A
    for nal in nals:
        header |= nal[0] & 0x80
    return bytes([header]) + b"".join(len(nal).to_bytes(2, "big") + nal for nal in nals)


def _fragment(nal: bytes) -> list[bytes]:
    # RFC 6184 §5.8: the NAL unit's own header byte is carried by the two FU bytes, not repeated.
    indicator = nal[0] & 0xE0 | _FU_A
    kind = nal[0] & 0x1F
    body_bytes = len(nal) - 1
    count = -(-body_bytes // (MAX_PAYLOAD_BYTES - 2))
    step = -(-body_bytes // count)
    starts = range(1, len(nal), step)
    return [
        bytes([indicator, kind | (start == 1) << 7 | (start + step >= len(nal)) << 6]) + nal[start : start + step]
        for start in starts
    ]


def packetize_vp8(frame: bytes, picture_id: int) -> list[bytes]:
    """RTP payloads of one VP8 frame, each of at most `MAX_PAYLOAD_BYTES` and of even length (RFC 7741 §4.2)."""
    count = -(-len(frame) // (MAX_PAYLOAD_BYTES - _VP8_DESCRIPTOR_BYTES))
    step = -(-len(frame) // max(count, 1))
    # X and, on the first one, S of partition 0; I; M with 15 bits of picture id.
    rest = bytes([0x80]) + (0x8000 | picture_id).to_bytes(2, "big")
    return [
        bytes([0x80 | (start == 0) << 4]) + rest + frame[start : start + step]
        for start in range(0, len(frame), max(step, 1))
    ]
