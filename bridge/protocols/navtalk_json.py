"""NavTalk v2 messages as JSON text, read and written, for both ends.

`parse_event` reads what a service sends, `parse_request` what a client sends, `dump` writes either. The vendor's pages
and applications contradict each other on where a value stands, on the case of its name and on prefixes of type names:
reading accepts all of them, writing uses the form that the vendor's own page understands, `{"type": …, "data": {…}}`.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from bridge.errors import RemoteProtocolError
from bridge.protocols.navtalk import (
    Answer,
    AudioAppend,
    AudioBackTag,
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
    Failed,
    FunctionCall,
    FunctionCallDelta,
    FunctionCallOutput,
    HistoryItem,
    IceServer,
    ImageInput,
    InputConfig,
    Offer,
    Request,
    ResponseCreate,
    ResponseDone,
    SessionCreated,
    SessionUpdated,
    Signalling,
    SpeechStarted,
    SpeechStopped,
    Status,
    TextInput,
    ToolList,
    Unknown,
    UserTranscript,
    Warned,
)
from bridge.protocols.navtalk_fields import (
    Body,
    count,
    filled,
    fold,
    fold_type,
    identifier,
    json_text,
    load,
    object_fields,
    string,
    unix_time_s,
)
from bridge.protocols.navtalk_write import dump, fill_shape

__all__ = ["EVENTS", "REQUESTS", "dump", "fill_shape", "parse_event", "parse_request", "read"]

# Services send four or five, with as many addresses; more is a mistake or an attack on the resolver.
_MAX_ICE_SERVERS = 16
# The longest documented name has 62. A name goes into logs and errors, masked and then cut to less: what is cut here
# is longer than any secret that could be cut in half.
_MAX_TYPE_LENGTH = 4096

_M = TypeVar("_M")


def parse_event(text: str) -> Event:
    """Read one message of a service. Raises RemoteProtocolError when a known one lacks what it is for."""
    return read(text, EVENTS)


def parse_request(text: str) -> Request:
    """Read one message of a client. Raises RemoteProtocolError when a known one lacks what it is for."""
    return read(text, REQUESTS)


def read(text: str, readers: Mapping[str, Callable[[Body], _M]]) -> _M | Unknown:
    """Read one message of the types that there are readers for. Raises RemoteProtocolError as they do."""
    fields = object_fields(text)
    name = string(fields.get("type")) if fields else None
    if fields is None or name is None:
        # The vendor's FAQ itself sends "[object Object]": such a frame is no reason to end a session.
        return Unknown()
    body = Body(name[:_MAX_TYPE_LENGTH], fields)
    reader = readers.get(fold_type(body.type))
    return reader(body) if reader else Unknown(body.type)


# ---------------------------------------------------------------------------------------------- values


def _pcm16(body: Body, name: str) -> bytes:
    text = body.require(string, name)
    try:
        pcm16 = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise body.lacking("base64") from None
    if len(pcm16) % 2:
        raise RemoteProtocolError(f"{body.type} ends within a sample")
    return pcm16


def _ice_servers(value: Any) -> tuple[IceServer, ...] | None:
    """Read RTCIceServer objects or URLs, one or a list, also as JSON text; what is neither is left out."""
    entries = load(value) or value
    if isinstance(entries, dict | str):
        entries = [entries]
    if not isinstance(entries, list):
        return None
    listed = ({"urls": entry} if isinstance(entry, str) else entry for entry in entries[:_MAX_ICE_SERVERS])
    return tuple(filter(None, map(_ice_server, listed))) or None


def _ice_server(value: Any) -> IceServer | None:
    fields = object_fields(value)
    if fields is None:
        return None
    urls = fields.get("urls") or fields.get("url")
    texts = map(string, urls[:_MAX_ICE_SERVERS] if isinstance(urls, list) else [urls])
    usable = tuple(url for url in texts if url and re.fullmatch(r"(stun|turn)s?:\S+", url))
    username, credential = (string(fields.get(name)) or "" for name in ("username", "credential"))
    return IceServer(usable, username, credential) if usable else None


def _tools(value: Any) -> tuple[Mapping[str, Any], ...] | None:
    tools = load(value)
    return tuple(tool for tool in tools if isinstance(tool, dict)) if isinstance(tools, list) else None


def _parts(value: Any) -> str | None:
    """Read a text that may be cut into parts, `[{"type": "input_text", "text": …}]`."""
    if not isinstance(value, list):
        return string(value)
    texts = [string(fields.get("text")) for fields in map(object_fields, value) if fields]
    return "\n".join(text for text in texts if text) if any(text is not None for text in texts) else None


# ---------------------------------------------------------------------------------------------- messages


def read_sdp(body: Body) -> str:
    return body.within("sdp").require(filled, "sdp")


def read_candidate(body: Body) -> Candidate:
    fields = body.within("candidate")
    candidate = fields.text("candidate")
    if not candidate and not fields.has_blank("candidate"):
        raise body.lacking("candidate")
    return Candidate(candidate, fields.find(identifier, "sdpMid"), fields.find(count, "sdpMLineIndex"))


def _ended(end: End) -> Callable[[Body], Event]:
    return lambda body: Ended(end, _said(body))


def _failed(body: Body) -> Event:
    return Failed(_said(body) or body.type)


def _expires_at_s(body: Body) -> float | None:
    # OpenAI's event holds the session as an object.
    named = body.within("session").find(unix_time_s, "expires_at")
    return body.find(unix_time_s, "expires_at") if named is None else named


def _session_id(body: Body) -> str:
    session = body.find(object_fields, "session") or {}
    return identifier(session.get("id")) or body.find(identifier, "session_id") or ""


def _said(body: Body) -> str:
    """What the service says about a failure or an end; `data` itself may be the text."""
    message = body.within("error").text("message") or body.text("message")
    return message or body.find(_plain, "reason", "error", "data") or ""


def _plain(value: Any) -> str | None:
    return filled(value) if object_fields(value) is None else None


def _words(body: Body, *names: str) -> str:
    """The first text that is not empty; one that is empty under all names is one, too."""
    return body.find(lambda value: _text(value) or None, *names) or body.require(_text, *names)


def _text(value: Any) -> str | None:
    """Read a text, which the page on the older interface shows within an object."""
    if isinstance(value, dict):
        return string((object_fields(value) or {}).get("text"))
    return string(value)


def _response_id(body: Body) -> str:
    return body.find(identifier, "response_id") or body.find(identifier, "id") or ""


def _call_id(body: Body) -> str:
    # An id beside it may be that of an item or of a response.
    return body.find(identifier, "call_id") or body.find(identifier, "id") or body.require(identifier, "call_id")


def _function_call(body: Body) -> Event:
    # The page on function calls shows no name at all, and a function without parameters may come without arguments.
    return FunctionCall(_call_id(body), body.text("function_name", "name"), body.find(json_text, "arguments") or "{}")


def _input_config(body: Body) -> Request:
    settings = Body(body.type, body.require(object_fields, "content"))
    return InputConfig(settings.find(string, "voice"), settings.find(string, "prompt"), settings.find(_tools, "tools"))


def _item(body: Body) -> Request:
    item = Body(body.type, body.require(object_fields, "item"))
    kind = fold(item.text("type") or "message")
    if kind == "functioncalloutput":
        return _function_call_output(item)
    # The service keeps the avatar's own turns: an item of another role is none that the documents show.
    if kind != "message" or fold(item.text("role") or "user") != "user":
        return Unknown(body.type)
    return HistoryItem(item.require(_parts, "content"))


def _function_call_output(body: Body) -> Request:
    output = body.find(string, "output")
    return FunctionCallOutput(_call_id(body), body.require(json_text, "output") if output is None else output)


def _audio_append(body: Body) -> Request:
    stream_id, sequence = body.find(identifier, "streamId"), body.find(count, "sequence")
    tag = AudioBackTag(stream_id, sequence) if stream_id and sequence is not None else None
    return AudioAppend(_pcm16(body, "audio"), tag=tag)


def _by_folded_type(readers: Mapping[str, Callable[[Body], _M]]) -> Mapping[str, Callable[[Body], _M]]:
    return {fold_type(name): reader for name, reader in readers.items()}


_SIGNALLING: Mapping[str, Callable[[Body], Signalling]] = {
    Offer.TYPE: lambda body: Offer(read_sdp(body)),
    Answer.TYPE: lambda body: Answer(read_sdp(body)),
    Candidate.TYPE: read_candidate,
}
EVENTS: Mapping[str, Callable[[Body], Event]] = _by_folded_type(
    {
        **_SIGNALLING,
        **{Ended.TYPE + end: _ended(end) for end in End if end is not End.DISCONNECTED},
        # Older names, still handled by one of the vendor's apps, or in the address of a page.
        "session.gpu_full": _ended(End.GPU_FULL),
        "session.insufficient_balance": _ended(End.INSUFFICIENT_BALANCE),
        "session.connection_limit_exceeded": _ended(End.CONNECTION_LIMIT_EXCEEDED),
        Connected.TYPE: lambda body: Connected(
            body.find(identifier, "sessionId") or "", body.find(_ice_servers, "iceServers") or ()
        ),
        Warned.TYPE: lambda body: Warned(body.text("message"), body.find(identifier, "avatarId") or ""),
        SessionCreated.TYPE: lambda body: SessionCreated(_expires_at_s(body), _session_id(body)),
        SessionUpdated.TYPE: lambda body: SessionUpdated(_expires_at_s(body)),
        Status.TYPE: lambda body: Status(),
        Failed.TYPE: _failed,
        "response.error": _failed,
        "realtime_synthesis.tts.error": _failed,
        "realtime_synthesis.stt.error": _failed,
        SpeechStarted.TYPE: lambda body: SpeechStarted(),
        SpeechStopped.TYPE: lambda body: SpeechStopped(),
        UserTranscript.TYPE: lambda body: UserTranscript(_words(body, "content", "transcript")),
        AvatarTranscriptDelta.TYPE: lambda body: AvatarTranscriptDelta(
            _words(body, "content", "delta"), _response_id(body)
        ),
        AvatarTranscript.TYPE: lambda body: AvatarTranscript(_words(body, "content", "transcript"), _response_id(body)),
        AvatarAudio.TYPE: lambda body: AvatarAudio(_pcm16(body, "delta")),
        AvatarAudioDone.TYPE: lambda body: AvatarAudioDone(),
        ResponseDone.TYPE: lambda body: ResponseDone(),
        "response.completed": lambda body: ResponseDone(),
        FunctionCallDelta.TYPE: lambda body: FunctionCallDelta(_call_id(body), body.require(string, "delta")),
        FunctionCall.TYPE: _function_call,
    }
)
REQUESTS: Mapping[str, Callable[[Body], Request]] = _by_folded_type(
    {
        **_SIGNALLING,
        InputConfig.TYPE: _input_config,
        ToolList.TYPE: lambda body: ToolList(body.require(_tools, "content")),
        HistoryItem.TYPE: _item,
        "function_call_output": lambda body: _function_call_output(body.within("item")),
        ResponseCreate.TYPE: lambda body: ResponseCreate(),
        AudioAppend.TYPE: _audio_append,
        AudioClear.TYPE: lambda body: AudioClear(),
        TextInput.TYPE: lambda body: TextInput(body.require(_parts, "content", "text")),
        ImageInput.TYPE: lambda body: ImageInput(
            body.require(filled, "content", "image"), body.find(count, "reply") == 1
        ),
    }
)
