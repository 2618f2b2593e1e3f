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
    # The documents use the prefix and leave it out at will, for one and the same event.
    bare = body.type.removeprefix("realtime.")
    reader = readers.get(bare) or readers.get(f"realtime.{bare}")
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
    Offer.TYPE: lambda body: Offer(body.sdp()),
    Answer.TYPE: lambda body: Answer(body.sdp()),
    Candidate.TYPE: _Body.candidate,
}
_EVENTS: Mapping[str, Callable[[_Body], Event]] = {
    **_SIGNALLING,
    **{Ended.TYPE + end: _ended(end) for end in End if end is not End.DISCONNECTED},
    # Older names, still handled by one of the vendor's apps.
    "session.gpu_full": _ended(End.GPU_FULL),
    "session.insufficient_balance": _ended(End.INSUFFICIENT_BALANCE),
    "error": _error,
    "response.error": _error,
    Connected.TYPE: lambda body: Connected(
        body.text("sessionId", "session_id"), _ice_servers(body.find("iceServers", "ice_servers"))
    ),
    Warned.TYPE: lambda body: Warned(body.text("message"), body.text("avatarId", "avatar_id")),
    SessionCreated.TYPE: lambda body: SessionCreated(),
    SessionUpdated.TYPE: lambda body: SessionUpdated(),
    SpeechStarted.TYPE: lambda body: SpeechStarted(),
    SpeechStopped.TYPE: lambda body: SpeechStopped(),
    UserTranscript.TYPE: lambda body: UserTranscript(body.text("content", "transcript")),
    AvatarTranscriptDelta.TYPE: lambda body: AvatarTranscriptDelta(
        body.text("content", "delta"), body.text("id", "response_id", "responseId")
    ),
    AvatarTranscript.TYPE: lambda body: AvatarTranscript(
        body.text("content", "transcript"), body.text("id", "response_id", "responseId")
    ),
    AvatarAudio.TYPE: lambda body: AvatarAudio(body.audio("delta")),
    AvatarAudioDone.TYPE: lambda body: AvatarAudioDone(),
    FunctionCall.TYPE: lambda body: FunctionCall(
        body.text("call_id", "callId", "id"), body.text("function_name", "name"), body.json_text("arguments")
    ),
}
_REQUESTS: Mapping[str, Callable[[_Body], Request]] = {
    **_SIGNALLING,
    InputConfig.TYPE: _input_config,
    AudioAppend.TYPE: lambda body: AudioAppend(body.audio("audio")),
    AudioClear.TYPE: lambda body: AudioClear(),
    HistoryItem.TYPE: _history_item,
}


# ---------------------------------------------------------------------------------------------- writing


def dump(message: Event | Request) -> str:
    """Write one message in the form of the vendor's own page.

    Raises LocalProtocolError for audio that ends within a sample or exceeds BUFFERED_SAMPLES.
    """
    match message:
        case HistoryItem(text):
            item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
            return json.dumps({"type": message.TYPE, "item": item})
        case AudioAppend(pcm16, is_bare=True):
            return json.dumps({"type": message.TYPE.removeprefix("realtime."), "audio": _audio_text(pcm16)})
        case Ended(end, text):
            return json.dumps({"type": message.TYPE + end, "message": text})
        case Warned(text, avatar_id):
            return json.dumps({"type": message.TYPE, "message": text, "data": {"avatarId": avatar_id}})
        case _:
            return json.dumps({"type": message.TYPE, "data": _data(message)})


def _data(message: Event | Request) -> dict[str, Any]:
    match message:
        case Connected(session_id, ice_servers):
            return {"sessionId": session_id, "iceServers": [_ice_server_data(server) for server in ice_servers]}
        case UserTranscript(text):
            return {"content": text}
        case AvatarTranscriptDelta(text, response_id) | AvatarTranscript(text, response_id):
            return {"content": text, "id": response_id}
        case AvatarAudio(pcm16):
            return {"delta": base64.b64encode(pcm16).decode()}
        case FunctionCall(call_id, name, arguments):
            return {"call_id": call_id, "function_name": name, "arguments": arguments}
        case InputConfig():
            return {"content": json.dumps(message.settings)}
        case AudioAppend(pcm16):
            return {"audio": _audio_text(pcm16)}
        case Offer(sdp):
            return {"sdp": {"type": "offer", "sdp": sdp}}
        case Answer(sdp):
            return {"sdp": {"type": "answer", "sdp": sdp}}
        case Candidate(candidate, sdp_mid, sdp_mline_index):
            inner = {"candidate": candidate, "sdpMid": sdp_mid, "sdpMLineIndex": sdp_mline_index}
            return {"candidate": inner}
        case _:
            return {}


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
