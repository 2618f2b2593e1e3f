"""Opus packets: how long one plays (RFC 6716 §3.1), how late it decodes, and what it knows of the one before."""

from bridge.media.clock import NS_PER_MS

# Frame durations in microseconds by configuration number: RFC 6716 table 2.
_SILK_US = (10_000, 20_000, 40_000, 60_000)
_HYBRID_US = (10_000, 20_000)
_CELT_US = (2_500, 5_000, 10_000, 20_000)
# RFC 6716 §3.2.5 rule R5: a packet holds at most 120 ms.
MAX_PACKET_NS = 120 * NS_PER_MS
# libopus' lookahead in "audio" and "voip" mode at 48 kHz: 312 samples, 6.5 ms, which WebRTC senders use.
PRE_SKIP_SAMPLES = 312
# One stereo CELT frame of 20 ms whose first bit is its silence flag (RFC 6716 §4.3, table 56); decodes to zeros.
SILENCE_20_MS = b"\xfc\xff\xfe"
# A SILK frame: an Opus frame holds one, or two or three of this length (RFC 6716 §4.2.2).
_SILK_FRAME_US = 20_000


def packet_duration_ns(packet: bytes) -> int:
    """Playing time of one Opus packet, 0 for an empty one or one that breaks the 120 ms rule."""
    if not packet:
        return 0
    frame_us = _frame_us(packet)
    code = packet[0] & 3
    if code == 3:
        n_frames = packet[1] & 63 if len(packet) > 1 else 0
    else:
        n_frames = 1 if code == 0 else 2
    duration_ns = n_frames * frame_us * 1000
    return duration_ns if duration_ns <= MAX_PACKET_NS else 0


def redundancy_ns(packet: bytes) -> int:
    """How much of the sound right before this packet can be restored from it: in-band FEC, 0 without.

    It is as long as the packet's first frame, whose header has a flag for it behind a flag for each SILK frame, and
    the same again for a second channel (RFC 6716 §4.2.3, §4.2.4).
    """
    start = _first_frame(packet) if packet_duration_ns(packet) else None
    if packet[:1] >= b"\x80" or start is None:  # the former: CELT, which has none
        return 0
    frame_us = _frame_us(packet)
    n_silk_frames = max(1, frame_us // _SILK_FRAME_US)
    flags = packet[start] >> 7 - n_silk_frames
    if packet[0] & 4:
        flags |= packet[start] >> 6 - 2 * n_silk_frames
    return frame_us * 1000 if flags & 1 else 0


def _frame_us(packet: bytes) -> int:
    configuration = packet[0] >> 3
    if configuration < 12:
        return _SILK_US[configuration & 3]
    return _HYBRID_US[configuration & 1] if configuration < 16 else _CELT_US[configuration & 3]


def _first_frame(packet: bytes) -> int | None:
    """Where the first frame's bytes begin (RFC 6716 §3.2); None: there are none."""
    code = packet[0] & 3
    start, end, n_lengths = 1, len(packet), 1 if code == 2 else 0
    if code == 3:
        start = 2
        if packet[1] & 0x40:  # the count of padding bytes at the end: 255 is 254, and goes on
            while packet[start : start + 1] == b"\xff":
                start, end = start + 1, end - 254
            end -= int.from_bytes(packet[start : start + 1])
            start += 1
        n_lengths = (packet[1] & 63) - 1 if packet[1] & 0x80 else 0
    for index in range(n_lengths):
        length = packet[start : start + 1]
        if index == 0 and length == b"\0":
            return None  # an empty frame: nothing was sent (DTX)
        start += 2 if length >= b"\xfc" else 1
    return start if start < end else None
