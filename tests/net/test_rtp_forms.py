"""Every form that an RTP packet may have is harmless, on both ways from the socket to the track."""

import re
import struct
from collections.abc import Callable

import pytest

from bridge.net.aiortc_sender import RtpOrigin
from bridge.net.guard import guard_of
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
