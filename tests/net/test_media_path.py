import asyncio
import struct
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from aiortc import RTCDtlsTransport
from pylibsrtp import Session
from pylibsrtp._binding import ffi

from bridge.media.access_unit import Codec
from bridge.media.clock import NS_PER_MS
from bridge.media.rtp import RtpPacket
from bridge.net import media_path
from bridge.net.aiortc_receiver import EncodedReceiver
from bridge.net.guard import GuardedProtocol
from bridge.net.media_path import MediaPath
from bridge.ports import RemoteTrack
from tests.net.loopback import Sink, connected_line

SSRC = 0x01020304


async def test_only_the_first_packet_of_a_track_goes_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    long_way: list[int] = []
    handle = RTCDtlsTransport._handle_rtp_data

    async def counted(self: RTCDtlsTransport, data: bytes, arrival_time_ms: int) -> None:
        long_way.append(int.from_bytes(data[8:12], "big"))
        await handle(self, data, arrival_time_ms)

    monkeypatch.setattr(RTCDtlsTransport, "_handle_rtp_data", counted)
    async with connected_line() as line:
        sink = await line.tracks.sink("audio")
        for index in range(20):
            line.sending.send_audio(bytes([index]) * 50, index * 20 * NS_PER_MS)
            await sink.arrived(index + 1)
    assert len(long_way) <= 1
    assert [packet.payload[0] for packet in sink.packets] == list(range(20))


async def test_media_waits_its_turn_behind_what_aiortc_has_not_read_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    stage.queue.put_nowait((b"", 1))
    assert not stage.path.take(packet())
    stage.queue.get_nowait()
    assert stage.path.take(packet())


class NoCipher:
    """In libsrtp's place: packets are not encrypted, and what ends so was damaged on the way."""

    @staticmethod
    def srtp_unprotect(state: object, memory: Any, n_bytes: Any) -> int:
        return 7 if ffi.buffer(memory, n_bytes[0])[:].endswith(b"damaged") else 0


class Stage:
    """A path whose packets are not encrypted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(media_path, "srtp", NoCipher)
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.receiver = EncodedReceiver("audio", SimpleNamespace(), lambda track: self.sink)  # type: ignore[arg-type]
        self.sink = Sink(RemoteTrack("audio", {111: Codec.OPUS}, self.receiver))
        self.receiver._sink = self.sink
        transport: Any = SimpleNamespace(
            transport=SimpleNamespace(_connection=SimpleNamespace(_queue=self.queue)),
            _rtp_router=SimpleNamespace(ssrc_table={SSRC: self.receiver}),
            _rx_srtp=Session(),
        )
        self.rejected: Counter[str] = Counter()
        self.path = MediaPath(transport, self.rejected)


def packet(payload: bytes = b"sound", first: int = 0x80, *, before: bytes = b"", ssrc: int = SSRC) -> bytes:
    return struct.pack("!BBHII", first, 0x80 | 111, 7, 960, ssrc) + before + payload


EXTENSION = b"\xbe\xde\x00\x02" + bytes(8)


@pytest.mark.parametrize(
    "data",
    [
        packet(),
        packet(first=0x90, before=EXTENSION),
        packet(first=0x82, before=bytes(8)),
        packet(first=0x92, before=bytes(8) + EXTENSION),
        packet(b"sound\0\0\3", first=0xA0),
    ],
    ids=["plain", "extension", "contributing sources", "both", "padding"],
)
async def test_what_stands_around_the_payload_is_left_out(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    assert stage.path.take(data)
    (taken,) = stage.sink.packets
    assert taken == RtpPacket(SSRC, 111, 7, 960, True, b"sound", taken.arrival_ns)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(packet(b"damaged"), "undecryptable", id="not ours"),
        pytest.param(packet(b"", first=0x8F), "malformed", id="sources past the end"),
        pytest.param(packet(b"", first=0x90, before=b"\xbe\xde\xff\xff"), "malformed", id="extension past the end"),
        pytest.param(packet(b"\xff", first=0xA0), "malformed", id="padding past the start"),
    ],
)
async def test_a_broken_packet_is_dropped_and_counted(
    data: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(monkeypatch)
    assert stage.path.take(data)
    assert not stage.sink.packets
    assert stage.rejected == {reason: 1}


@pytest.mark.parametrize("data", [packet(ssrc=99), b"\x80\xc8" + bytes(10)], ids=["another SSRC", "RTCP"])
async def test_what_it_does_not_know_goes_the_long_way(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Stage(monkeypatch).path.take(data)


async def test_a_picture_is_read_in_one_turn_of_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected_line() as line:
        sink = await line.tracks.sink("video")
        line.sending.send_video([b"\x61first"], 0)
        await sink.arrived(1)
        turns: list[int] = []
        received = GuardedProtocol.datagram_received

        def counted(self: GuardedProtocol, data: bytes, addr: tuple[Any, ...]) -> None:
            turns.append(len(data))
            received(self, data, addr)

        monkeypatch.setattr(GuardedProtocol, "datagram_received", counted)
        line.sending.send_video([b"\x61" + bytes(1_000)] * 12, 40 * NS_PER_MS)
        await sink.arrived(13)
    # One for all of them, and a check or a report may come between.
    assert len(turns) < 6


async def test_media_comes_one_datagram_a_turn_where_the_socket_cannot_be_drained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bridge.net.guard.drain_of", lambda transport: None)
    async with connected_line() as line:
        sink = await line.tracks.sink("video")
        line.sending.send_video([b"\x61" + bytes(1_000)] * 12, 0)
        assert len(await sink.arrived(12)) == 12
