"""The RTMP chunk stream: messages cut into chunks, and joined again (Adobe, "RTMP Specification 1.0", §5.3).

Messages of several chunk streams may come interleaved; we write ours whole. A timestamp is in milliseconds on the
2**32 circle.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from bridge.errors import LocalProtocolError, RemoteProtocolError

# §5.4.1: the size that both sides start with.
INITIAL_CHUNK_BYTES = 128
# Each chunk stream holds one unfinished message. Servers use four or five: more is a peer that eats our memory.
MAX_CHUNK_STREAMS = 64
MAX_MESSAGE_BYTES = 2**24 - 1  # §5.3.1.2.1

_TIMESTAMP_CIRCLE = 2**32
# §5.3.1.3: this value in the 24-bit field says that 32 bits follow.
_EXTENDED = 0xFFFFFF


class MessageType(IntEnum):
    """§5.4 and §7.1. Others may arrive and mean nothing to a publisher."""

    SET_CHUNK_SIZE = 1
    ABORT = 2
    ACKNOWLEDGEMENT = 3
    USER_CONTROL = 4
    WINDOW_ACK_SIZE = 5
    SET_PEER_BANDWIDTH = 6
    AUDIO = 8
    VIDEO = 9
    DATA_AMF0 = 18
    COMMAND_AMF3 = 17
    COMMAND_AMF0 = 20


class Message(NamedTuple):
    """One message. type_id is a `MessageType` or unknown; timestamp_ms is 0 to 2**32 - 1."""

    type_id: int
    stream_id: int
    timestamp_ms: int
    payload: bytes


class ChunkWriter:
    """Cuts messages into chunks with headers of type 0, 1 and 3.

    A set-chunk-size message takes effect behind itself. Chunk stream ids are 2 to 63: one byte on the wire.
    """

    def __init__(self) -> None:
        self._chunk_bytes = INITIAL_CHUNK_BYTES
        self._previous: dict[int, tuple[int, int]] = {}

    def write(self, chunk_stream_id: int, message: Message) -> bytes:
        """The chunks of one message, back to back. Raises LocalProtocolError if it is too long for RTMP."""
        type_id, stream_id, timestamp_ms, payload = message
        size = len(payload)
        if size > MAX_MESSAGE_BYTES:
            raise LocalProtocolError(f"RTMP message of {size} bytes; its length field holds {MAX_MESSAGE_BYTES}")
        previous_stream_id, previous_ms = self._previous.get(chunk_stream_id, (-1, 0))
        self._previous[chunk_stream_id] = (stream_id, timestamp_ms)
        # Modulo: a delta carries a timestamp over the end of the circle, and keeps it short beyond 2**24.
        time_ms = (timestamp_ms - previous_ms) % _TIMESTAMP_CIRCLE
        is_delta = previous_stream_id == stream_id and time_ms < _EXTENDED
        if not is_delta:
            time_ms = timestamp_ms
        extended = time_ms.to_bytes(4, "big") if time_ms >= _EXTENDED else b""
        header = b"".join(
            (
                bytes(((0x40 if is_delta else 0) | chunk_stream_id,)),
                min(time_ms, _EXTENDED).to_bytes(3, "big"),
                size.to_bytes(3, "big"),
                bytes((type_id,)),
                b"" if is_delta else stream_id.to_bytes(4, "little"),
                extended,
            )
        )
        step = self._chunk_bytes
        if type_id == MessageType.SET_CHUNK_SIZE:
            self._chunk_bytes = int.from_bytes(payload, "big")
        if size <= step:
            return header + payload
        # §5.3.1.3: the extended timestamp is repeated in front of every continued chunk.
        continued = bytes((0xC0 | chunk_stream_id,)) + extended
        pieces = [header, payload[:step]]
        for start in range(step, size, step):
            pieces += (continued, payload[start : start + step])
        return b"".join(pieces)


@dataclass(slots=True)
class _Incoming:
    """The header that later ones on this chunk stream refer to, and the message that is under way."""

    timestamp_ms: int = 0
    delta_ms: int = 0
    size: int = 0
    type_id: int = 0
    stream_id: int = 0
    is_extended: bool = False
    is_first_chunk: bool = True
    payload: bytearray = field(default_factory=bytearray)


class ChunkReader:
    """Joins chunks of all four header types; obeys set-chunk-size and abort, which it hands on too."""

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        self._chunk_bytes = INITIAL_CHUNK_BYTES
        self._buffer = bytearray()
        self._streams: dict[int, _Incoming] = {}

    def receive(self, data: bytes) -> list[Message]:
        """Take bytes as they come; return the messages that they complete. Raises RemoteProtocolError."""
        self._buffer += data
        messages: list[Message] = []
        reader = _Cursor(self._buffer)
        while True:
            consumed = reader.position
            try:
                message = self._chunk(reader)
            except _NeedMore:
                break
            if message is not None:
                self._obey(message)
                messages.append(message)
        del self._buffer[:consumed]
        return messages

    def _chunk(self, reader: "_Cursor") -> Message | None:
        """One chunk; changes nothing unless all of it is there."""
        first = reader.number(1)
        header_type, chunk_stream_id = first >> 6, first & 63
        if chunk_stream_id < 2:  # §5.3.1.1: one or two more bytes, least significant first
            extra = reader.take(chunk_stream_id + 1)
            chunk_stream_id = 64 + int.from_bytes(extra, "little")
        known = self._streams.get(chunk_stream_id)
        if known is None and header_type != 0:
            raise RemoteProtocolError(f"RTMP chunk stream {chunk_stream_id} starts with a header of type {header_type}")
        old = known or _Incoming()
        if not old.is_first_chunk and header_type != 3:
            raise RemoteProtocolError(f"RTMP chunk stream {chunk_stream_id} starts a message inside another")

        time_ms = reader.number(3) if header_type < 3 else 0
        size = reader.number(3) if header_type < 2 else old.size
        type_id = reader.number(1) if header_type < 2 else old.type_id
        stream_id = int.from_bytes(reader.take(4), "little") if header_type == 0 else old.stream_id
        is_extended = time_ms == _EXTENDED if header_type < 3 else old.is_extended
        if is_extended:
            time_ms = reader.number(4)
        if size > self._max_message_bytes:
            raise RemoteProtocolError(f"RTMP message of {size} bytes; at most {self._max_message_bytes} are taken")
        piece = reader.take(min(self._chunk_bytes, size - len(old.payload)))

        if known is None:
            if len(self._streams) >= MAX_CHUNK_STREAMS:
                raise RemoteProtocolError(f"RTMP peer opens more than {MAX_CHUNK_STREAMS} chunk streams")
            self._streams[chunk_stream_id] = old
        if old.is_first_chunk:
            if header_type == 0:
                # §5.3.1.2.4: a type 3 header that follows takes this timestamp for its delta.
                old.timestamp_ms = old.delta_ms = time_ms
            else:
                if header_type < 3:
                    old.delta_ms = time_ms
                old.timestamp_ms = (old.timestamp_ms + old.delta_ms) % _TIMESTAMP_CIRCLE
        old.size, old.type_id, old.stream_id, old.is_extended = size, type_id, stream_id, is_extended
        old.payload += piece
        old.is_first_chunk = len(old.payload) == size
        if not old.is_first_chunk:
            return None
        payload = bytes(old.payload)
        old.payload.clear()
        return Message(type_id, stream_id, old.timestamp_ms, payload)

    def _obey(self, message: Message) -> None:
        if message.type_id not in (MessageType.SET_CHUNK_SIZE, MessageType.ABORT):
            return
        if len(message.payload) != 4:
            raise RemoteProtocolError(f"RTMP control message {message.type_id} of {len(message.payload)} bytes")
        number = int.from_bytes(message.payload, "big")
        if message.type_id == MessageType.ABORT:
            if aborted := self._streams.get(number):
                aborted.payload.clear()
                aborted.is_first_chunk = True
        elif 1 <= number < 2**31:  # §5.4.1: the first bit is 0, the size at least 1
            self._chunk_bytes = number
        else:
            raise RemoteProtocolError(f"RTMP peer sets a chunk size of {number}")


class _NeedMore(Exception):
    """The bytes end inside a chunk."""


class _Cursor:
    """Takes bytes from the front of a buffer that others keep."""

    def __init__(self, buffer: bytearray) -> None:
        self._buffer = buffer
        self.position = 0

    def take(self, n_bytes: int) -> bytes:
        end = self.position + n_bytes
        if end > len(self._buffer):
            raise _NeedMore
        taken = bytes(self._buffer[self.position : end])
        self.position = end
        return taken

    def number(self, n_bytes: int) -> int:
        return int.from_bytes(self.take(n_bytes), "big")
