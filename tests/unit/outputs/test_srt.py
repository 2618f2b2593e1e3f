"""What goes into SRT: when, and how long before it is due."""

from collections.abc import Iterator
from typing import NamedTuple

from bridge.outputs.srt import TransportStream
from tests.interop import rtmp_media

PACKET_BYTES = 188
VIDEO_PID, SOUND_PID = 0x100, 0x101
# Sound that is mixed with an input's and waits for its encoder's round.
SOUND_BEHIND_NS = 260_000_000


class Beginning(NamedTuple):
    """The first packet of a picture or a frame of sound (ISO 13818-1 §2.4.3), in ticks of 90 kHz."""

    pid: int
    pts: int


def beginnings(data: bytes) -> Iterator[Beginning | int]:
    """What begins in the packets, and the program's clock where it stands."""
    for start in range(0, len(data), PACKET_BYTES):
        packet = data[start : start + PACKET_BYTES]
        pid = int.from_bytes(packet[1:3]) & 0x1FFF
        payload = 4
        if packet[3] & 0x20:
            payload += 1 + packet[4]
            if packet[4] and packet[5] & 0x10:
                yield int.from_bytes(packet[6:11]) >> 7
        if packet[1] & 0x40 and pid in (VIDEO_PID, SOUND_PID):
            pts = packet[payload + 9 : payload + 14]
            yield Beginning(
                pid, (pts[0] >> 1 & 7) << 30 | int.from_bytes(pts[1:3]) >> 1 << 15 | int.from_bytes(pts[3:5]) >> 1
            )


def test_a_picture_leaves_with_the_next_one_however_late_its_sound_is_and_all_in_time() -> None:
    units = rtmp_media.units(3.0)
    as_they_come = sorted(units, key=lambda unit: unit.pts_ns + SOUND_BEHIND_NS * (unit.codec.kind == "audio"))
    stream = TransportStream()
    n_pushed = n_left = clock = 0
    ahead: list[int] = []
    for unit in as_they_come:
        n_pushed += unit.codec.kind == "video"
        for found in beginnings(stream.push((unit,))):
            if isinstance(found, int):
                clock = found
                continue
            n_left += found.pid == VIDEO_PID
            ahead.append(found.pts - clock)
        assert n_left >= n_pushed - 1
    assert min(ahead) >= 0
    # The clock stands before pictures only.
    assert max(ahead) <= 90 * (300 + 2 * 40)
