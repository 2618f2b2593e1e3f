"""What participants of a LiveKit room send each other: data packets, byte streams, and the avatar's audio convention.

Source: livekit/protocol, protobufs/livekit_models.proto; livekit/rust-sdks, livekit/src/room/rpc; livekit/agents,
voice/avatar/_datastream_io.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from livekit.protocol import models

from bridge.errors import RemoteProtocolError
from bridge.protocols.livekit import parse

# Data channels of both peer connections, by their labels.
RELIABLE, LOSSY = "_reliable", "_lossy"

# A worker is fed with one byte stream for each stretch of speech, PCM16 as the attributes say.
AUDIO_TOPIC = "lk.audio_stream"
# The worker's procedure: forget what has not been said.  Ours: it has begun, and it has ended.
CLEAR_BUFFER, PLAYBACK_STARTED, PLAYBACK_FINISHED = "lk.clear_buffer", "lk.playback_started", "lk.playback_finished"
OK, REJECTED = "ok", "reject"

# SCTP of browsers takes 16 KiB in one message; LiveKit's own clients leave room for the rest of the packet.
MAX_CHUNK_BYTES = 15_000
MAX_RPC_BYTES = 15 * 1024
# Whoever opens more streams than this and ends none has lost count; a room has few that send.
MAX_STREAMS, MAX_SENDERS = 16, 256


class RpcCode(IntEnum):
    """Errors of a remote procedure call."""

    UNSUPPORTED_METHOD = 1400
    RECIPIENT_NOT_FOUND = 1401
    REQUEST_TOO_LARGE = 1402
    UNSUPPORTED_SERVER = 1403
    UNSUPPORTED_VERSION = 1404
    APPLICATION = 1500
    CONNECTION_TIMEOUT = 1501
    RESPONSE_TIMEOUT = 1502
    RECIPIENT_GONE = 1503
    RESPONSE_TOO_LARGE = 1504
    SEND_FAILED = 1505


@dataclass
class Outbox:
    """Makes the packets of one participant; those of the reliable channel are numbered."""

    identity: str
    sid: str
    _sequence: int = 0

    def pack(self, packet: models.DataPacket) -> bytes:
        """As it goes out on the reliable channel."""
        self._sequence += 1
        packet.participant_identity, packet.participant_sid = self.identity, self.sid
        packet.sequence = self._sequence
        return packet.SerializeToString()


@dataclass
class Inbox:
    """Reads packets, and drops those that a sender has sent before: it repeats some after it has reconnected.

    repeated  how many were dropped.
    """

    repeated: int = 0
    _last: dict[str, int] = field(default_factory=dict)

    def take(self, data: str | bytes) -> models.DataPacket | None:
        """The packet; None: it is to be dropped. Raises RemoteProtocolError."""
        packet = parse(models.DataPacket, data)
        sender, sequence = packet.participant_sid, packet.sequence
        if sequence and sender:
            if sequence <= self._last.get(sender, 0):
                self.repeated += 1
                return None
            self._last[sender] = sequence
            if len(self._last) > MAX_SENDERS:
                del self._last[next(iter(self._last))]
        return packet


# ---------------------------------------------------------------------------------------------- byte streams


@dataclass
class StreamWriter:
    """One byte stream of unknown length, to these participants."""

    id: str
    destinations: Sequence[str]
    _index: int = 0

    def header(
        self, topic: str, attributes: Mapping[str, str], now_ms: int, name: str = "unknown"
    ) -> models.DataPacket:
        header = models.DataStream.Header(
            stream_id=self.id,
            timestamp=now_ms,
            topic=topic,
            mime_type="application/octet-stream",
            attributes=attributes,
            byte_header=models.DataStream.ByteHeader(name=name),
        )
        return models.DataPacket(destination_identities=self.destinations, stream_header=header)

    def chunks(self, content: bytes) -> Iterator[models.DataPacket]:
        for start in range(0, len(content), MAX_CHUNK_BYTES):
            piece = content[start : start + MAX_CHUNK_BYTES]
            chunk = models.DataStream.Chunk(stream_id=self.id, chunk_index=self._index, content=piece)
            self._index += 1
            yield models.DataPacket(destination_identities=self.destinations, stream_chunk=chunk)

    def trailer(self, reason: str = "") -> models.DataPacket:
        trailer = models.DataStream.Trailer(stream_id=self.id, reason=reason)
        return models.DataPacket(destination_identities=self.destinations, stream_trailer=trailer)


@dataclass(frozen=True, slots=True)
class IncomingStream:
    """A byte stream that somebody has begun."""

    id: str
    sender: str
    topic: str
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StreamData:
    """More of a stream, in its order; `is_end`: it is over, with this or without."""

    stream: IncomingStream
    content: bytes = b""
    is_end: bool = False


class StreamReader:
    """Puts byte streams together. What comes twice is dropped; where something is missing, the stream ends."""

    def __init__(self) -> None:
        self.broken = 0
        self._open: dict[str, tuple[IncomingStream, int]] = {}

    def take(self, packet: models.DataPacket) -> list[StreamData]:
        """What a packet brings; packets of other kinds bring nothing."""
        match packet.WhichOneof("value"):
            case "stream_header":
                return self._begin(packet.participant_identity, packet.stream_header)
            case "stream_chunk":
                return self._continue(packet.stream_chunk)
            case "stream_trailer":
                stream, _ = self._open.pop(packet.stream_trailer.stream_id, (None, 0))
                return [StreamData(stream, is_end=True)] if stream is not None else []
        return []

    def _begin(self, sender: str, header: models.DataStream.Header) -> list[StreamData]:
        stream = IncomingStream(header.stream_id, sender, header.topic, dict(header.attributes))
        if header.HasField("inline_content"):
            return [StreamData(stream, header.inline_content), StreamData(stream, is_end=True)]
        ended = []
        if header.stream_id not in self._open and len(self._open) >= MAX_STREAMS:
            oldest, _ = self._open.pop(next(iter(self._open)))
            self.broken += 1
            ended = [StreamData(oldest, is_end=True)]
        self._open[header.stream_id] = (stream, 0)
        return [*ended, StreamData(stream)]

    def _continue(self, chunk: models.DataStream.Chunk) -> list[StreamData]:
        stream, expected = self._open.get(chunk.stream_id, (None, 0))
        if stream is None or chunk.chunk_index < expected:
            return []
        if chunk.chunk_index > expected:
            del self._open[chunk.stream_id]
            self.broken += 1
            return [StreamData(stream, is_end=True)]
        self._open[chunk.stream_id] = (stream, expected + 1)
        return [StreamData(stream, chunk.content)]


def audio_attributes(sample_rate_hz: int, channels: int = 1) -> dict[str, str]:
    """What the header of a stretch of speech has to say: receivers refuse it otherwise."""
    return {"sample_rate": str(sample_rate_hz), "num_channels": str(channels)}


def read_audio_attributes(attributes: Mapping[str, str]) -> tuple[int, int]:
    """Sample rate and channels. Raises RemoteProtocolError."""
    try:
        rate_hz, channels = int(attributes["sample_rate"]), int(attributes["num_channels"])
    except (KeyError, ValueError):
        raise RemoteProtocolError("an audio stream without sample_rate and num_channels", reason="protocol") from None
    if not (8_000 <= rate_hz <= 192_000 and 1 <= channels <= 8):
        raise RemoteProtocolError(f"an audio stream of {rate_hz} Hz and {channels} channels", reason="protocol")
    return rate_hz, channels


# ---------------------------------------------------------------------------------------------- remote procedures


def rpc_request(call_id: str, destination: str, method: str, payload: str, timeout_ms: int) -> models.DataPacket:
    request = models.RpcRequest(id=call_id, method=method, payload=payload, response_timeout_ms=timeout_ms, version=1)
    return models.DataPacket(destination_identities=[destination], rpc_request=request)


def rpc_ack(call_id: str, destination: str) -> models.DataPacket:
    return models.DataPacket(destination_identities=[destination], rpc_ack=models.RpcAck(request_id=call_id))


def rpc_response(call_id: str, destination: str, payload: str) -> models.DataPacket:
    response = models.RpcResponse(request_id=call_id, payload=payload)
    return models.DataPacket(destination_identities=[destination], rpc_response=response)


def rpc_error(call_id: str, destination: str, code: RpcCode) -> models.DataPacket:
    error = models.RpcError(code=code, message=code.name.replace("_", " ").capitalize())
    response = models.RpcResponse(request_id=call_id, error=error)
    return models.DataPacket(destination_identities=[destination], rpc_response=response)
