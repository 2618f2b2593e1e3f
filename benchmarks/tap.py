"""Sees what leaves: a TCP proxy that notes when it was connected to, and each coded picture of an RTMP publisher.

`python -m benchmarks.tap PORT` forwards to that port of this machine and prints the port to connect to; at SIGTERM
it prints one JSON list, a `Connection` for each connection. A picture's time is when the last byte of its tag was read.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple
from zlib import crc32

from bridge.errors import RemoteProtocolError
from bridge.local_avatar.timecode import read_stamp
from bridge.media.h264 import NAL_IDR, NAL_SLICE, nal_type, split_avcc
from bridge.protocols.rtmp_chunks import MAX_MESSAGE_BYTES, ChunkReader, Message, MessageType
from bridge.signals import STOP_SIGNALS, on_signals

# Both ends settle: pictures of the first seconds wait for keyframes and imports.
SKIPPED_S = 3.0
_READ_BYTES = 262_144
_HANDSHAKE_BYTES = 1 + 2 * 1536  # C0, C1 and C2: RTMP Specification 1.0 §5.2
# FLV Specification 10.1, E.4.3.1: a video tag is frame type and codec, AVCPacketType, three bytes of composition time.
_KEYFRAME = 1
_CODED_PICTURE = 1
_TAG_HEADER_BYTES = 5


class Picture(NamedTuple):
    """One coded picture: when it was read, its stamp if it has one, both on `time.monotonic_ns`, and what it holds.

    number    counts what its sender sent; None without a stamp.
    checksum  of its slices, see `slices_checksum`.
    """

    read_ns: int
    stamp_ns: int | None
    number: int | None = None
    checksum: int = 0
    is_keyframe: bool = False


@dataclass
class Connection:
    """One client, and its pictures in order."""

    accepted_ns: int
    pictures: list[Picture] = field(default_factory=list)


def slices_checksum(nals: Iterable[bytes]) -> int:
    """Of the coded slices of one picture: senders and receivers may add and leave out what stands around them."""
    checksum = 0
    for nal in nals:
        if nal_type(nal) in (NAL_SLICE, NAL_IDR):
            checksum = crc32(nal, checksum)
    return checksum


class Publisher:
    """Reads along what a client sends, for as long as it is RTMP."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._to_skip_bytes = _HANDSHAKE_BYTES
        self._chunks: ChunkReader | None = ChunkReader(MAX_MESSAGE_BYTES)

    def see(self, data: bytes, now_ns: int) -> None:
        skipped_bytes = min(self._to_skip_bytes, len(data))
        self._to_skip_bytes -= skipped_bytes
        if self._chunks is None or skipped_bytes == len(data):
            return
        try:
            for message in self._chunks.receive(data[skipped_bytes:]):
                self._note(message, now_ns)
        except RemoteProtocolError:
            self._chunks = None  # something else, such as a WebSocket

    def _note(self, message: Message, now_ns: int) -> None:
        if message.type_id == MessageType.VIDEO and message.payload[1:2] == bytes([_CODED_PICTURE]):
            number, stamp_ns = read_stamp(message.payload) or (None, None)
            checksum = slices_checksum(split_avcc(message.payload[_TAG_HEADER_BYTES:]))
            is_keyframe = message.payload[0] >> 4 == _KEYFRAME
            self._connection.pictures.append(Picture(now_ns, stamp_ns, number, checksum, is_keyframe))


async def serve_until_stopped(port: int) -> list[Connection]:
    connections: list[Connection] = []
    stopped = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(time.monotonic_ns())
        connections.append(connection)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(
                _forward(reader, far_writer, Publisher(connection)), _forward(far_reader, writer, None)
            )
        for end in (writer, far_writer):
            end.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    with on_signals(STOP_SIGNALS, stopped.set):
        await stopped.wait()
    return connections


def path_latencies_ms(pictures: Sequence[Sequence[Any]]) -> list[float]:
    """Milliseconds from the stamp to the tap for each picture of a connection that has one, but for its beginning.

    Of each picture it takes the time at which it was read and the stamp, the first two of what JSON makes a list of.
    """
    stamped = [(read_ns, stamp_ns) for read_ns, stamp_ns, *_ in pictures if stamp_ns is not None]
    return [(read_ns - stamp_ns) / 1e6 for read_ns, stamp_ns in stamped if read_ns > stamped[0][0] + SKIPPED_S * 1e9]


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, publisher: Publisher | None) -> None:
    while data := await reader.read(_READ_BYTES):
        now_ns = time.monotonic_ns()
        writer.write(data)
        if publisher is not None:
            publisher.see(data, now_ns)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


if __name__ == "__main__":
    found = asyncio.run(serve_until_stopped(int(sys.argv[1])))
    print(json.dumps([asdict(connection) for connection in found]))
