"""The publishing side of RTMP, without I/O (Adobe, "RTMP Specification 1.0"; FCPublish and kin as FMLE sends them).

Reconnect requests are those of Veovera, "Enhanced RTMP (V2)".

Bytes in, events out, bytes to send:

    publisher = RtmpPublisher(parse_url("rtmp://host/app", "key"))
    transport.write(publisher.data_to_send())
    for event in publisher.receive_data(data): ...

Nothing in it depends on time: RTMP lets the handshake's clock fields be 0 (§5.2.3), deadlines are the caller's.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias
from urllib.parse import parse_qsl, quote, quote_plus

from bridge.errors import LocalProtocolError, RemoteProtocolError
from bridge.media.access_unit import Kind
from bridge.protocols import amf
from bridge.protocols.rtmp_address import RtmpAddress
from bridge.protocols.rtmp_chunks import ChunkReader, ChunkWriter, Message, MessageType

# One chunk per message costs least; 64 KiB holds all but large keyframes, and nginx-rtmp and FFmpeg were seen to accept
# it. (librtmp senders use 4 KiB, which is for slow uplinks shared by tracks.)
CHUNK_BYTES = 65_536
# What the server sends us are commands of a few hundred bytes; 64 KiB leaves room for the talkative.
_MAX_INCOMING_BYTES = 65_536
# Nothing waits for the acknowledgements we ask for: progress is read from the socket. 2.5 MB is FMLE's value.
_WINDOW_BYTES = 2_500_000

_HANDSHAKE_BYTES = 1536
_VERSION = 3
# §5.2.2: versions from 32 on are forbidden, to tell RTMP from text: "H" of an HTTP server is 72.
_FIRST_TEXT_VERSION = 32

_PING_REQUEST, _PING_RESPONSE = 6, 7
_CONTROL_CHUNK_STREAM, _COMMAND_CHUNK_STREAM, _DATA_CHUNK_STREAM = 2, 3, 5
_MEDIA_CHUNK_STREAM: dict[Kind, int] = {"audio": 4, "video": 6}
_MEDIA_TYPE: dict[Kind, MessageType] = {"audio": MessageType.AUDIO, "video": MessageType.VIDEO}

# Transaction ids are ours to choose and each command is sent once.
_CONNECT, _RELEASE_STREAM, _FC_PUBLISH, _CREATE_STREAM, _PUBLISH, _FC_UNPUBLISH, _DELETE_STREAM = range(1, 8)
# Courtesies of FMLE that servers may not know; an error in answer to them says nothing about the broadcast.
_OPTIONAL = (_RELEASE_STREAM, _FC_PUBLISH, _FC_UNPUBLISH, _DELETE_STREAM)

# Refusals that pass by themselves. Every other one is taken as the operator's to cure.
_TRANSIENT_CODES = frozenset(
    {"NetConnection.Connect.AppShutdown", "NetConnection.Connect.Closed", "NetConnection.Connect.Failed"}
)
_BAD_NAME = "NetStream.Publish.BadName"

# Enhanced RTMP v2, "Enhancing NetConnection connect Command": what we can do, for servers that ask before they use it.
# Pictures are forwarded (4) and sound is encoded (2), both sent as they were before these FourCCs; of the extensions
# we know the reconnect request (1).
_ENHANCED: dict[str, amf.Value] = {
    "fourCcList": ["avc1", "mp4a"],
    "videoFourCcInfoMap": {"avc1": 4.0},
    "audioFourCcInfoMap": {"mp4a": 2.0},
    "capsEx": 1.0,
}
_RECONNECT_REQUEST = "NetConnection.Connect.ReconnectRequest"


class State(Enum):
    """What the publisher waits for; the value completes "waiting for …" and "closed … before …"."""

    HANDSHAKING = "the handshake"
    CONNECTING = "the answer to connect"
    CREATING_STREAM = "the answer to createStream"
    PUBLISHING = "the answer to publish"
    LIVE = "the end of the broadcast"
    CLOSED = "the end of the connection"


class _Answer(Enum):
    HANDSHAKE_DONE = "handshake"
    CONNECTED = "result of connect"
    STREAM_CREATED = "result of createStream"
    STARTED = "publish start"
    REFUSED = "refusal"
    UNPUBLISHED = "unpublish"


# Everything a server may say to a publisher, and when. Anything else is the server's mistake.
_NEXT: dict[tuple[State, _Answer], State] = {
    (State.HANDSHAKING, _Answer.HANDSHAKE_DONE): State.CONNECTING,
    (State.CONNECTING, _Answer.CONNECTED): State.CREATING_STREAM,
    (State.CONNECTING, _Answer.REFUSED): State.CLOSED,
    (State.CREATING_STREAM, _Answer.STREAM_CREATED): State.PUBLISHING,
    (State.CREATING_STREAM, _Answer.REFUSED): State.CLOSED,
    (State.PUBLISHING, _Answer.STARTED): State.LIVE,
    (State.PUBLISHING, _Answer.REFUSED): State.CLOSED,
    (State.LIVE, _Answer.STARTED): State.LIVE,  # said twice by servers that relay another's status
    (State.LIVE, _Answer.REFUSED): State.CLOSED,
    (State.LIVE, _Answer.UNPUBLISHED): State.CLOSED,
}


@dataclass(frozen=True, slots=True)
class Published:
    """The server takes media from now on."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The server said no before the broadcast began.

    request       what was answered: "the answer to publish" and so on.
    words         the server's own code and description, without the stream key; as long and as odd as they came.
    is_transient  it passes by itself, as when the name is still taken by a connection that was lost.
    """

    request: str
    words: str
    is_transient: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """The server ended a running broadcast; words as in `Refused`."""

    words: str


@dataclass(frozen=True, slots=True)
class ReconnectAsked:
    """The server wants a running broadcast elsewhere, and takes it here until then.

    tc_url  for `rtmp_address.resolve`; empty: the same place.  It may hold a token.
    """

    tc_url: str = field(repr=False)


Event: TypeAlias = Published | Refused | Ended | ReconnectAsked


class RtmpPublisher:
    """One publishing connection: handshake, connect, createStream, publish, media, unpublish."""

    def __init__(
        self,
        address: RtmpAddress,
        *,
        waits: bool = False,
        chunk_bytes: int = CHUNK_BYTES,
        nonce: bytes | None = None,
    ) -> None:
        """`waits`: once connected it says nothing of the stream key until `publish`."""
        self._address = address
        self._chunk_bytes = chunk_bytes
        self._writer = ChunkWriter()
        self._reader = ChunkReader(_MAX_INCOMING_BYTES)
        self._handshake = bytearray()
        self._stream_id = 0
        self._received_bytes = 0
        self._acknowledged_bytes = 0
        self._peer_window_bytes = 0
        self._announced_window_bytes = _WINDOW_BYTES
        self._waits = waits
        self.state = State.HANDSHAKING
        # §5.2.3: C0 and C1. Four zero bytes behind the time ask for the plain handshake, without digests.
        self._outgoing = [bytes([_VERSION]) + bytes(8) + (nonce or os.urandom(_HANDSHAKE_BYTES - 8))]

    @property
    def has_asked_to_publish(self) -> bool:
        """The server knows the stream key: what it says from now on is about the broadcast."""
        return self._stream_id > 0

    def data_to_send(self) -> bytes:
        """All that waits to be sent; forgets it."""
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        return data

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes as they come. Raises RemoteProtocolError; the connection is of no use after that."""
        self._received_bytes += len(data)
        if self.state is State.HANDSHAKING:
            data = self._shake_hands(data)
        events = [event for message in self._reader.receive(data) for event in self._on_message(message)]
        # Half a window early: a server may stop at the full one (§5.4.4).
        if self._peer_window_bytes and self._received_bytes - self._acknowledged_bytes > self._peer_window_bytes // 2:
            self._acknowledged_bytes = self._received_bytes
            self._control(MessageType.ACKNOWLEDGEMENT, self._received_bytes % 2**32)
        return events

    def publish(self) -> None:
        """Wait no longer."""
        self._waits = False
        if self.state is State.CREATING_STREAM:
            self._ask_for_stream()

    def send_media(self, kind: Kind, timestamp_ms: int, tag_body: bytes) -> None:
        """Queue one FLV tag body; timestamp_ms grows without end and is put on the 2**32 circle here."""
        self._require_live()
        message = Message(_MEDIA_TYPE[kind], self._stream_id, timestamp_ms % 2**32, tag_body)
        self._outgoing.append(self._writer.write(_MEDIA_CHUNK_STREAM[kind], message))

    def send_metadata(self, timestamp_ms: int, script_body: bytes) -> None:
        """Queue the body of an onMetaData script tag, for the server to keep and show to later viewers."""
        self._require_live()
        body = amf.encode("@setDataFrame") + script_body
        message = Message(MessageType.DATA_AMF0, self._stream_id, timestamp_ms % 2**32, body)
        self._outgoing.append(self._writer.write(_DATA_CHUNK_STREAM, message))

    def unpublish(self) -> None:
        """Queue the end of the broadcast, if there is one; later messages of the server are ignored."""
        if self.state is State.LIVE:
            self._command(0, "FCUnpublish", _FC_UNPUBLISH, None, self._address.stream_name)
            self._command(0, "deleteStream", _DELETE_STREAM, None, float(self._stream_id))
        self.state = State.CLOSED

    # ------------------------------------------------------------------------------------------ handshake

    def _shake_hands(self, data: bytes) -> bytes:
        """Collect S0, S1 and S2; return what follows them.

        S2 should echo C1. It is not compared: FFmpeg and nginx-rtmp do not either, and proxies alter it.
        """
        self._handshake += data
        if self._handshake and self._handshake[0] >= _FIRST_TEXT_VERSION:
            raise RemoteProtocolError(f"the peer does not speak RTMP: its first byte is {self._handshake[0]}")
        if len(self._handshake) < 1 + 2 * _HANDSHAKE_BYTES:
            return b""
        s1 = bytes(self._handshake[1 : 1 + _HANDSHAKE_BYTES])
        rest = bytes(self._handshake[1 + 2 * _HANDSHAKE_BYTES :])
        self._handshake.clear()
        self._advance(_Answer.HANDSHAKE_DONE)
        self._outgoing.append(s1)  # C2: the echo of S1
        self._control(MessageType.SET_CHUNK_SIZE, self._chunk_bytes)
        self._control(MessageType.WINDOW_ACK_SIZE, _WINDOW_BYTES)
        self._command(
            0,
            "connect",
            _CONNECT,
            {
                "app": self._address.app,
                "type": "nonprivate",
                "flashVer": "FMLE/3.0 (compatible; avatar-bridge)",
                "tcUrl": self._address.tc_url,
                **_ENHANCED,
            },
        )
        return rest

    # ------------------------------------------------------------------------------------------ incoming messages

    def _on_message(self, message: Message) -> Sequence[Event]:
        payload = message.payload
        match message.type_id:
            case MessageType.WINDOW_ACK_SIZE:
                self._peer_window_bytes = _number(payload, 0, "window size")
            case MessageType.SET_PEER_BANDWIDTH:
                # §5.4.5: answered only if it is news.
                if (window_bytes := _number(payload, 0, "peer bandwidth")) != self._announced_window_bytes:
                    self._announced_window_bytes = window_bytes
                    self._control(MessageType.WINDOW_ACK_SIZE, window_bytes)
            case MessageType.USER_CONTROL:
                if payload[:2] == _PING_REQUEST.to_bytes(2, "big"):
                    stamp = _number(payload, 2, "ping request")
                    response = _PING_RESPONSE.to_bytes(2, "big") + stamp.to_bytes(4, "big")
                    self._send(_CONTROL_CHUNK_STREAM, MessageType.USER_CONTROL, 0, response)
            case MessageType.COMMAND_AMF0:
                return self._on_command(amf.decode(payload))
            case MessageType.COMMAND_AMF3:
                # One byte for the format, then AMF0 as long as nobody asked for AMF3 (§7.1.1).
                return self._on_command(amf.decode(payload[1:]))
        return ()

    def _ask_for_stream(self) -> None:
        self._command(0, "releaseStream", _RELEASE_STREAM, None, self._address.stream_name)
        self._command(0, "FCPublish", _FC_PUBLISH, None, self._address.stream_name)
        self._command(0, "createStream", _CREATE_STREAM, None)

    def _on_command(self, values: Sequence[amf.Value]) -> Sequence[Event]:
        if self.state is State.CLOSED or len(values) < 2:
            return ()
        name, transaction, *arguments = values
        status: dict[str, amf.Value] = next((a for a in reversed(arguments) if isinstance(a, dict)), {})
        code = str(status.get("code", ""))
        is_error = status.get("level") == "error"
        match name:
            case "_result" if transaction == _CONNECT and not is_error:
                self._advance(_Answer.CONNECTED)
                if not self._waits:
                    self._ask_for_stream()
            case "_result" if transaction == _CREATE_STREAM:
                self._advance(_Answer.STREAM_CREATED)
                self._stream_id = _stream_id(arguments)
                self._command(self._stream_id, "publish", _PUBLISH, None, self._address.stream_name, "live")
            case "onStatus" if code == "NetStream.Publish.Start":
                is_first = self.state is not State.LIVE
                self._advance(_Answer.STARTED)
                return (Published(),) if is_first else ()
            case "onStatus" if code == _RECONNECT_REQUEST:
                tc_url = status.get("tcUrl")
                asked = ReconnectAsked(tc_url if isinstance(tc_url, str) else "")
                return (asked,) if self.state is State.LIVE else ()
            case "onStatus" if code == "NetStream.Unpublish.Success":
                return self._refuse(_Answer.UNPUBLISHED, status)
            case "_error" if transaction not in _OPTIONAL:
                return self._refuse(_Answer.REFUSED, status)
            case "onStatus" | "_result" if is_error and transaction not in _OPTIONAL:
                return self._refuse(_Answer.REFUSED, status)
            case "close":
                return self._refuse(_Answer.REFUSED, status)
        return ()

    def _refuse(self, answer: _Answer, status: dict[str, amf.Value]) -> Sequence[Event]:
        before = self.state
        self._advance(answer)
        code, description = str(status.get("code", "")), str(status.get("description", ""))
        words = self._without_key(": ".join(filter(None, (code, description))) or "no reason given")
        if before is State.LIVE:
            return (Ended(words),)
        # A server that missed the end of our last connection holds the name until its own timeout.
        is_name_taken = code == _BAD_NAME and any(w in description.lower() for w in ("already", "in use"))
        return (Refused(before.value, words, code in _TRANSIENT_CODES or is_name_taken),)

    def _advance(self, answer: _Answer) -> None:
        try:
            self.state = _NEXT[self.state, answer]
        except KeyError:
            raise RemoteProtocolError(f"RTMP server sends {answer.value} while {self.state.value} is awaited") from None

    def _without_key(self, words: str) -> str:
        name, _, query = self._address.stream_name.partition("?")
        _, _, app_query = self._address.app.partition("?")
        values = (value for _, value in parse_qsl(query) + parse_qsl(app_query))
        # Masking "1" of backup=1 would only spoil the server's words.
        secrets = {self._address.stream_name, name, *(value for value in values if len(value) >= 4)}
        secrets |= {form(secret, safe="") for secret in secrets for form in (quote, quote_plus)}
        for secret in sorted(secrets, key=len, reverse=True):
            words = words.replace(secret, "***")
        return words

    # ------------------------------------------------------------------------------------------ outgoing messages

    def _require_live(self) -> None:
        if self.state is not State.LIVE:
            raise LocalProtocolError(f"RTMP media sent while {self.state.value} is awaited")

    def _control(self, type_id: MessageType, number: int) -> None:
        self._send(_CONTROL_CHUNK_STREAM, type_id, 0, number.to_bytes(4, "big"))

    def _command(self, stream_id: int, *values: amf.Value) -> None:
        self._send(_COMMAND_CHUNK_STREAM, MessageType.COMMAND_AMF0, stream_id, amf.encode(*values))

    def _send(self, chunk_stream_id: int, type_id: MessageType, stream_id: int, payload: bytes) -> None:
        self._outgoing.append(self._writer.write(chunk_stream_id, Message(type_id, stream_id, 0, payload)))


def _number(payload: bytes, offset: int, what: str) -> int:
    if len(payload) < offset + 4:
        raise RemoteProtocolError(f"RTMP {what} of {len(payload)} bytes is truncated")
    return int.from_bytes(payload[offset : offset + 4], "big")


def _stream_id(arguments: Sequence[amf.Value]) -> int:
    number = arguments[-1] if arguments else None
    if isinstance(number, bool) or not isinstance(number, float) or not 0 < number < 2**32:
        raise RemoteProtocolError("RTMP server answers createStream without a stream id")
    return int(number)
