"""Every form that an RTP packet may have is harmless, on both ways from the socket to the track."""

import re
import struct
from collections.abc import Callable

import pytest

from bridge.media.clock import NS_PER_S
from bridge.net.aiortc_sender import RtpOrigin
from bridge.net.guard import guard_of
from bridge.protocols.header_extension import CAPTURE_TIME_URI, capture_time
from tests.net.loopback import Line, Sink, connected_line

VIDEO_SSRC, FIRST = 77, 100
H264_TYPES = (101, 119)
MARKER = 0x80


def packet(
    number: int,
    payload: bytes = b"\x41x",
    *,
    payload_type: int = H264_TYPES[0],
    extension: bytes = b"",
    padding: bytes = b"",
    n_sources: int = 0,
) -> bytes:
    """extension: profile and value, the value in whole words."""
    first = 0x80 | n_sources | (0x10 if extension else 0) | (0x20 if padding else 0)
    header = struct.pack("!BBHII", first, MARKER | payload_type, FIRST + number, 3600 * number, VIDEO_SSRC)
    if extension:
        profile, value = extension[:2], extension[2:]
        extension = profile + struct.pack("!H", len(value) // 4) + value
    return header + bytes(4 * n_sources) + extension + payload + padding


def one_byte(*elements: tuple[int, bytes]) -> bytes:
    value = b"".join(bytes([number << 4 | len(data) - 1]) + data for number, data in elements)
    return b"\xbe\xde" + value + bytes(-len(value) % 4)


def two_byte(*elements: tuple[int, bytes], appbits: int = 0) -> bytes:
    value = b"".join(bytes([number, len(data)]) + data for number, data in elements)
    return bytes([0x10, appbits]) + value + bytes(-len(value) % 4)


# Payload of the packet as the track is to see it; None: it need not see it at all.
FORMS: dict[str, tuple[bytes, bytes | None]] = {
    "plain": (packet(1), b"\x41x"),
    "empty": (packet(1, b""), b""),
    "padding only": (packet(1, b"", padding=bytes(254) + b"\xff"), b""),
    "padded": (packet(1, padding=b"\0\0\0\4"), b"\x41x"),
    "contributing sources": (packet(1, n_sources=15), b"\x41x"),
    "one-byte extensions": (packet(1, extension=one_byte((1, b"1"), (2, b"\0\0\1"), (14, bytes(16)))), b"\x41x"),
    "one-byte extension of the reserved number": (packet(1, extension=one_byte((15, b"12"))), b"\x41x"),
    "one-byte extensions of a wrong length": (
        packet(1, extension=one_byte(*((number, b"12345") for number in range(1, 15)))),
        b"\x41x",
    ),
    "two-byte extensions": (packet(1, extension=two_byte((1, b"1"), (2, b"\0\0\1"), (200, bytes(100)))), b"\x41x"),
    "two-byte extensions without a value": (
        packet(1, extension=two_byte(*((number, b"") for number in range(1, 16)))),
        b"\x41x",
    ),
    "two-byte extensions with application bits": (packet(1, extension=two_byte((1, b"1"), appbits=0x0F)), b"\x41x"),
    "an extension of another profile": (packet(1, extension=b"\xab\xcd" + bytes(range(8))), b"\x41x"),
    "an empty extension": (packet(1, extension=b"\xbe\xde"), b"\x41x"),
    "an extension that runs over": (packet(1, extension=b"\xbe\xde\x1f\0\0\0"), None),
    "padding beyond the packet": (packet(1, b"", padding=b"\xff"), None),
    "another payload type of the offer": (packet(1, payload_type=H264_TYPES[1]), b"\x41x"),
    "a payload type that nobody knows": (packet(1, payload_type=77), None),
}


def with_two_formats(offer: str) -> str:
    """The offer with H.264 of another profile under the second number."""
    offer = re.sub(r"(m=video .*)\r\n", rf"\1 {H264_TYPES[1]}\r\n", offer)
    profile = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=4d001f"
    lines = f"a=rtpmap:{H264_TYPES[1]} H264/90000\r\na=fmtp:{H264_TYPES[1]} {profile}\r\n"
    return offer.replace(f"a=rtpmap:{H264_TYPES[0]} ", f"{lines}a=rtpmap:{H264_TYPES[0]} ")


def of_capture(value: bytes) -> bytes:
    return one_byte((1, b"1"), (CAPTURE_TIME_ID, value), (5, b"12"))


CAPTURE_TIME_ID = 9
CAPTURED_NS = 3_900_000_000 * NS_PER_S + NS_PER_S // 4
CAPTURED = capture_time(CAPTURED_NS)
AHEAD = struct.pack("!q", 3 << 31)
# What a packet says of its capture, on the clock of the sender's reports; 0: nothing that can be believed.
CAPTURES: dict[str, tuple[bytes, int]] = {
    "no extension": (packet(1), 0),
    "no capture time": (packet(1, extension=one_byte((1, b"1"))), 0),
    "a capture time": (packet(1, extension=of_capture(CAPTURED)), CAPTURED_NS),
    "with padding": (packet(1, extension=of_capture(CAPTURED), padding=b"\0\0\0\4"), CAPTURED_NS),
    "of a clock that is ahead": (packet(1, extension=of_capture(CAPTURED + AHEAD)), CAPTURED_NS - 3 * NS_PER_S // 2),
    "of others": (packet(1, extension=of_capture(CAPTURED), n_sources=2), 0),
    "of others whose clock is ahead": (
        packet(1, extension=of_capture(CAPTURED + AHEAD), n_sources=2),
        CAPTURED_NS - 3 * NS_PER_S // 2,
    ),
    "in the two-byte form": (packet(1, extension=two_byte((200, b""), (CAPTURE_TIME_ID, CAPTURED))), CAPTURED_NS),
    "none yet": (packet(1, extension=of_capture(bytes(8))), 0),
    "too short": (packet(1, extension=of_capture(CAPTURED[:7])), 0),
    "too long": (packet(1, extension=of_capture(CAPTURED + b"1")), 0),
    "without a value": (packet(1, extension=two_byte((CAPTURE_TIME_ID, b""))), 0),
    "behind what ends the extension": (packet(1, extension=one_byte((15, b"1"), (CAPTURE_TIME_ID, CAPTURED))), 0),
    "that runs over": (packet(1, extension=b"\xbe\xde" + bytes([CAPTURE_TIME_ID << 4 | 7]) + CAPTURED[:7]), 0),
    "in the two-byte form, that runs over": (packet(1, extension=b"\x10\x00" + bytes([CAPTURE_TIME_ID, 8, 1, 2])), 0),
    "in a form of another profile": (packet(1, extension=b"\xab\xcd" + of_capture(CAPTURED)[2:]), 0),
}


def with_capture_times(offer: str) -> str:
    """The offer with our number for them, and a reading of the same that no packet can have."""
    line = f"a=extmap:{CAPTURE_TIME_ID} {CAPTURE_TIME_URI}\r\n"
    return re.sub(rf"a=extmap:\d+ {CAPTURE_TIME_URI}\r\n", f"a=extmap:15 {CAPTURE_TIME_URI}\r\n{line}", offer)


async def raw(line: Line, data: bytes) -> None:
    assert line.sending._pc is not None
    await line.sending._pc.getTransceivers()[0].receiver.transport._send_rtp(data)


def go_the_long_way(line: Line) -> None:
    for connection in line.receiving._connections:
        guard_of(connection).take_media = None


def stay(line: Line) -> None: ...


@pytest.mark.parametrize("way", [stay, go_the_long_way], ids=["short", "long"])
async def test_every_form_of_a_packet_is_harmless(way: Callable[[Line], None]) -> None:
    for name, (data, payload) in FORMS.items():
        async with connected_line(with_two_formats, video_origin=RtpOrigin(VIDEO_SSRC, FIRST, 0)) as line:
            sink: Sink = await line.tracks.sink("video")
            assert set(sink.track.codecs) == set(H264_TYPES)
            way(line)
            for before in (packet(0), data, packet(2)):
                await raw(line, before)
            await sink.until(lambda found=sink: found.packets[-1:] and found.packets[-1].sequence_number == FIRST + 2)
            seen = {found.sequence_number - FIRST: found.payload for found in sink.packets}
            assert seen[0] == seen[2] == b"\x41x", name
            if payload is not None:
                assert seen[1] == payload, name
            assert line.receiving.is_connected, name


@pytest.mark.parametrize("way", [stay, go_the_long_way], ids=["short", "long"])
async def test_what_a_packet_says_of_its_capture_is_read_or_left(way: Callable[[Line], None]) -> None:
    origin = RtpOrigin(VIDEO_SSRC, FIRST, 0)
    for name, (data, captured_ntp_ns) in CAPTURES.items():
        async with connected_line(with_capture_times, video_origin=origin, tells_capture=True) as line:
            sink: Sink = await line.tracks.sink("video")
            way(line)
            for each in (packet(0), data, packet(2)):
                await raw(line, each)
            await sink.arrived(3)
            assert [found.captured_ntp_ns for found in sink.packets] == [0, captured_ntp_ns, 0], name
            assert [found.payload for found in sink.packets] == [b"\x41x"] * 3, name
            assert line.receiving.is_connected, name
