"""NavTalk v2 messages as JSON text, read and written, for both ends.

`parse_event` reads what a service sends, `parse_request` what a client sends, `dump` writes either. The vendor's pages
contradict each other on where a value stands and on prefixes of type names: reading accepts every documented place,
writing uses the one that the vendor's own page understands, `{"type": …, "data": {…}}`.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from bridge.errors import LocalProtocolError, RemoteProtocolError
from bridge.protocols.navtalk import (
    BUFFERED_SAMPLES,
    Answer,
    AudioAppend,
    AudioClear,
    AvatarAudio,
    AvatarAudioDone,
    AvatarTranscript,
    AvatarTranscriptDelta,
    Candidate,
    Connected,
    End,
    Ended,
    Event,
    FunctionCall,
    HistoryItem,
    IceServer,
    InputConfig,
    Offer,
    Request,
    SessionCreated,
    SessionUpdated,
    Signalling,
    SpeechStarted,
    SpeechStopped,
    Unknown,
    UserTranscript,
    Warned,
)

# Services send four or five; more is a mistake or an attack on the resolver.
_MAX_ICE_SERVERS = 16

_M = TypeVar("_M")


def parse_event(text: str) -> Event:
    """Read one message of a service. Raises RemoteProtocolError when a known one lacks what it is for."""
    return _parse(text, _EVENTS)


def parse_request(text: str) -> Request:
    """Read one message of a client. Raises RemoteProtocolError when a known one lacks what it is for."""
    return _parse(text, _REQUESTS)


def _parse(text: str, readers: Mapping[str, Callable[["_Body"], _M]]) -> _M | Unknown:
    message = _load(text)
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        # The vendor's FAQ itself sends "[object Object]": such a frame is no reason to end a session.
        return Unknown()
    body = _Body(message)
    reader = readers.get(body.type.removeprefix("realtime."))
    return reader(body) if reader else Unknown(body.type)


def _load(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


class _Body:
    """Finds a value in every place where the documents show one: data, the top level, data.data, raw_data."""

    def __init__(self, message: Mapping[str, Any]) -> None:
        self.type = _clean(message["type"])
        data = message.get("data")
        nested = data.get("data") if isinstance(data, dict) else None
        self._places = [p for p in (data, message, nested, message.get("raw_data")) if isinstance(p, dict)]

    def find(self, *names: str) -> Any:
        """The first value that is not null; names are tried in each place before the next place."""
        found = (place[name] for place in self._places for name in names if place.get(name) is not None)
        return next(found, None)

    def text(self, *names: str) -> str:
        value = self.find(*names)
        return _clean(value) if isinstance(value, str) else ""

    def sdp(self) -> str:
        value = self.find("sdp")
        sdp = _Body({"type": self.type, "data": value}).text("sdp") if isinstance(value, dict) else self.text("sdp")
        if not sdp:
            raise RemoteProtocolError(f"{self.type} holds no SDP")
        return sdp

    def candidate(self) -> Candidate:
        inner = self.find("candidate")
        fields = _Body({"type": self.type, "data": inner}) if isinstance(inner, dict) else self
        index = fields.find("sdpMLineIndex", "sdp_mline_index")
        return Candidate(
            fields.text("candidate"),
            fields.text("sdpMid", "sdp_mid") or None,
            index if isinstance(index, int) and index >= 0 else None,
        )

    def audio(self, *names: str) -> bytes:
        try:
            pcm16 = base64.b64decode(self.text(*names), validate=True)
        except (binascii.Error, ValueError):
            raise RemoteProtocolError(f"{self.type} holds no base64") from None
        if len(pcm16) % 2:
            raise RemoteProtocolError(f"{self.type} ends within a sample")
        return pcm16

    def json_text(self, *names: str) -> str:
        value = self.find(*names)
        return self.text(*names) if value is None or isinstance(value, str) else json.dumps(value)


def _clean(text: str) -> str:
    """JSON can spell half a surrogate pair, which no log and no socket could take."""
    return text.encode("utf-8", "replace").decode()


def _ice_servers(value: Any) -> tuple[IceServer, ...]:
    """Read a list of RTCIceServer, of URLs, or either as JSON text or one URL; what is neither is left out."""
    if isinstance(value, str):
        value = _load(value) or [value]
    servers = []
    for entry in value[:_MAX_ICE_SERVERS] if isinstance(value, list) else [value]:
        if isinstance(entry, str):
            entry = {"urls": entry}
        if not isinstance(entry, dict):
            continue
        urls = entry.get("urls") or entry.get("url")
        urls = [urls] if isinstance(urls, str) else urls if isinstance(urls, list) else []
        usable = tuple(url for url in urls if isinstance(url, str) and re.match(r"(stun|turn)s?:\S", url))
        if usable:
            fields = _Body({"type": "", "data": entry})
            servers.append(IceServer(usable, fields.text("username"), fields.text("credential")))
    return tuple(servers)


def _ended(end: End) -> Callable[[_Body], Event]:
    return lambda body: Ended(end, body.text("message"))


def _error(body: _Body) -> Event:
    error = body.find("error")
    inner = _Body({"type": body.type, "data": error}) if isinstance(error, dict) else body
    return Warned(inner.text("message", "error") or body.type)


def _input_config(body: _Body) -> Request:
    settings = _load(body.text("content"))
    if not isinstance(settings, dict):
        raise RemoteProtocolError(f"{body.type} holds no JSON text of an object in data.content")
    fields = _Body({"type": body.type, "data": settings})
    tools = fields.find("tools")
    return InputConfig(
        fields.text("voice") or None, fields.text("prompt") or None, tuple(tools) if isinstance(tools, list) else None
    )


def _history_item(body: _Body) -> Request:
    item = body.find("item")
    parts = item.get("content") if isinstance(item, dict) and item.get("type") == "message" else None
    if not isinstance(parts, list):
        return Unknown(body.type)
    return HistoryItem("".join(_Body({"type": "", "data": part}).text("text") for part in parts))


_SIGNALLING: Mapping[str, Callable[[_Body], Signalling]] = {
    "webrtc.signaling.offer": lambda body: Offer(body.sdp()),
    "webrtc.signaling.answer": lambda body: Answer(body.sdp()),
    "webrtc.signaling.iceCandidate": _Body.candidate,
}
# Without the prefix `realtime.`, which the documents themselves use or leave out at will.
_EVENTS: Mapping[str, Callable[[_Body], Event]] = {
    **_SIGNALLING,
    **{f"conversation.connected.{end}": _ended(end) for end in End if end is not End.DISCONNECTED},
    # Older names, still handled by one of the vendor's apps.
    "session.gpu_full": _ended(End.GPU_FULL),
    "session.insufficient_balance": _ended(End.INSUFFICIENT_BALANCE),
    "conversation.connected.success": lambda body: Connected(
        body.text("sessionId", "session_id"), _ice_servers(body.find("iceServers", "ice_servers"))
    ),
    "conversation.connected.warning": lambda body: Warned(body.text("message"), body.text("avatarId", "avatar_id")),
    "error": _error,
    "response.error": _error,
    "session.created": lambda body: SessionCreated(),
    "session.updated": lambda body: SessionUpdated(),
    "input_audio_buffer.speech_started": lambda body: SpeechStarted(),
    "input_audio_buffer.speech_stopped": lambda body: SpeechStopped(),
    "conversation.item.input_audio_transcription.completed": lambda body: UserTranscript(
        body.text("content", "transcript")
    ),
    "response.audio_transcript.delta": lambda body: AvatarTranscriptDelta(
        body.text("content", "delta"), body.text("id", "response_id", "responseId")
    ),
    "response.audio_transcript.done": lambda body: AvatarTranscript(
        body.text("content", "transcript"), body.text("id", "response_id", "responseId")
    ),
    "response.audio.delta": lambda body: AvatarAudio(body.audio("delta")),
    "response.audio.done": lambda body: AvatarAudioDone(),
    "response.function_call_arguments.done": lambda body: FunctionCall(
        body.text("call_id", "callId", "id"), body.text("function_name", "name"), body.json_text("arguments")
    ),
}
_REQUESTS: Mapping[str, Callable[[_Body], Request]] = {
    **_SIGNALLING,
    "input_config": _input_config,
    "input_audio_buffer.append": lambda body: AudioAppend(body.audio("audio")),
    "input_audio_buffer.clear": lambda body: AudioClear(),
    "conversation.item.create": _history_item,
}


# ---------------------------------------------------------------------------------------------- writing


def dump(message: Event | Request) -> str:
    """Write one message in the form of the vendor's own page.

    Raises LocalProtocolError for audio that ends within a sample or exceeds BUFFERED_SAMPLES, and for `Unknown`.
    """
    match message:
        case HistoryItem(text):
            item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
            return json.dumps({"type": "conversation.item.create", "item": item})
        case AudioAppend(pcm16, is_bare=True):
            return json.dumps({"type": "input_audio_buffer.append", "audio": _audio_text(pcm16)})
        case AudioClear():
            return json.dumps({"type": "input_audio_buffer.clear"})
        case Ended(end, text):
            return json.dumps({"type": f"conversation.connected.{end}", "message": text})
        case Warned(text, avatar_id):
            data = {"avatarId": avatar_id} if avatar_id else {}
            return json.dumps({"type": "conversation.connected.warning", "message": text, "data": data})
        case _:
            type_name, data = _wrapped(message)
            return json.dumps({"type": type_name, "data": data})


def _wrapped(message: Event | Request) -> tuple[str, dict[str, Any]]:
    match message:
        case Connected(session_id, ice_servers):
            servers = [_ice_server_data(server) for server in ice_servers]
            return "conversation.connected.success", {"sessionId": session_id, "iceServers": servers}
        case SessionCreated():
            return "realtime.session.created", {}
        case SessionUpdated():
            return "realtime.session.updated", {}
        case SpeechStarted():
            return "realtime.input_audio_buffer.speech_started", {}
        case SpeechStopped():
            return "realtime.input_audio_buffer.speech_stopped", {}
        case UserTranscript(text):
            return "realtime.conversation.item.input_audio_transcription.completed", {"content": text}
        case AvatarTranscriptDelta(text, response_id):
            return "realtime.response.audio_transcript.delta", {"content": text, "id": response_id}
        case AvatarTranscript(text, response_id):
            return "realtime.response.audio_transcript.done", {"content": text, "id": response_id}
        case AvatarAudio(pcm16):
            return "realtime.response.audio.delta", {"delta": base64.b64encode(pcm16).decode()}
        case AvatarAudioDone():
            return "realtime.response.audio.done", {}
        case FunctionCall(call_id, name, arguments):
            data = {"call_id": call_id, "function_name": name, "arguments": arguments}
            return "realtime.response.function_call_arguments.done", data
        case InputConfig():
            return "realtime.input_config", {"content": json.dumps(message.settings)}
        case AudioAppend(pcm16):
            return "realtime.input_audio_buffer.append", {"audio": _audio_text(pcm16)}
        case Offer(sdp):
            return "webrtc.signaling.offer", {"sdp": {"type": "offer", "sdp": sdp}}
        case Answer(sdp):
            return "webrtc.signaling.answer", {"sdp": {"type": "answer", "sdp": sdp}}
        case Candidate(candidate, sdp_mid, sdp_mline_index):
            inner = {"candidate": candidate, "sdpMid": sdp_mid, "sdpMLineIndex": sdp_mline_index}
            return "webrtc.signaling.iceCandidate", {"candidate": inner}
        case _:
            raise LocalProtocolError(f"{type(message).__name__} is for reading only")


def _ice_server_data(server: IceServer) -> dict[str, Any]:
    data: dict[str, Any] = {"urls": list(server.urls)}
    if server.username:
        data |= {"username": server.username, "credential": server.credential}
    return data


def _audio_text(pcm16: bytes) -> str:
    if len(pcm16) % 2 or len(pcm16) > 2 * BUFFERED_SAMPLES:
        raise LocalProtocolError(
            f"An audio message holds up to {BUFFERED_SAMPLES} whole samples, not {len(pcm16)} bytes"
        )
    return base64.b64encode(pcm16).decode()
