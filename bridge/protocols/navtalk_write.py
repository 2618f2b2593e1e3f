"""NavTalk v2 messages written as JSON text, in the form that the vendor's own page understands."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from bridge.errors import LocalProtocolError
from bridge.protocols.navtalk import (
    BUFFERED_SAMPLES,
    Answer,
    AudioAppend,
    AudioBackTag,
    AudioClear,
    AvatarAudio,
    AvatarTranscript,
    AvatarTranscriptDelta,
    Candidate,
    Connected,
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
    SessionCreated,
    SessionUpdated,
    TextInput,
    ToolList,
    Unknown,
    UserTranscript,
    Warned,
)


def dump(message: Event | Request) -> str:
    """Write one message in the form of the vendor's own page.

    Raises LocalProtocolError for audio that ends within a sample or exceeds BUFFERED_SAMPLES.
    """
    match message:
        case HistoryItem(text):
            item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
            return json.dumps({"type": message.TYPE, "item": item})
        case FunctionCallOutput(call_id, output):
            item = {"type": "function_call_output", "call_id": call_id, "output": output}
            return json.dumps({"type": message.TYPE, "item": item})
        case ResponseCreate() | AudioClear():
            return json.dumps({"type": message.TYPE})
        case AudioAppend(pcm16, is_bare=True):
            return json.dumps({"type": message.TYPE.removeprefix("realtime."), "audio": _audio_text(pcm16)})
        case AudioAppend(tag=AudioBackTag() as tag):
            # AudioBack names each message and the session's stream twice, outside and inside.
            names = {"messageId": f"{tag.stream_id}-{tag.sequence}", "traceId": tag.stream_id}
            return json.dumps({"type": message.TYPE, **names, "data": _data(message) | names | _tag_data(tag)})
        case Ended(end, text):
            return json.dumps({"type": message.TYPE + end, "message": text})
        case Failed(text):
            return json.dumps({"type": message.TYPE, "message": text})
        case Warned(text, avatar_id):
            return json.dumps({"type": message.TYPE, "message": text, "data": {"avatarId": avatar_id}})
        case Unknown(name):
            return json.dumps({"type": name or message.TYPE})
        case _:
            return json.dumps({"type": message.TYPE, "data": _data(message)})


def fill_shape(shape: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """Write an operator's own message: a string in it that is exactly "{text}" becomes the value of that name.

    The value keeps its type; text around braces, and names that have no value, stay as they are.
    """

    def fill(part: Any) -> Any:
        match part:
            case str():
                return slots.get(part, part)
            case Mapping():
                return {name: fill(inner) for name, inner in part.items()}
            case list() | tuple():
                return [fill(inner) for inner in part]
            case _:
                return part

    slots = {f"{{{name}}}": value for name, value in values.items()}
    return json.dumps(fill(shape))


def _data(message: Event | Request) -> dict[str, Any]:
    match message:
        case Connected(session_id, ice_servers):
            return {"sessionId": session_id, "iceServers": [_ice_server_data(server) for server in ice_servers]}
        case SessionCreated() | SessionUpdated():
            return session_data(message)
        case UserTranscript(text):
            return {"content": text}
        case AvatarTranscriptDelta(text, response_id) | AvatarTranscript(text, response_id):
            return {"content": text, "id": response_id}
        case AvatarAudio(pcm16):
            return {"delta": base64.b64encode(pcm16).decode()}
        case FunctionCallDelta(call_id, text):
            return {"call_id": call_id, "delta": text}
        case FunctionCall(call_id, name, arguments):
            return {"call_id": call_id, "function_name": name, "arguments": arguments}
        case InputConfig():
            return {"content": json.dumps(message.settings)}
        case ToolList(tools):
            return {"content": json.dumps(tools)}
        case AudioAppend(pcm16):
            return {"audio": _audio_text(pcm16)}
        case TextInput(text):
            # Inferred: no page and no application shows this payload.
            return {"content": text}
        case ImageInput(data_url, wants_answer):
            # Inferred: the vendor's applications write it so, no page does.
            return {"content": data_url, "reply": int(wants_answer)}
        case Offer(sdp):
            return {"sdp": {"type": "offer", "sdp": sdp}}
        case Answer(sdp):
            return {"sdp": {"type": "answer", "sdp": sdp}}
        case Candidate(candidate, sdp_mid, sdp_mline_index):
            inner = {"candidate": candidate, "sdpMid": sdp_mid, "sdpMLineIndex": sdp_mline_index}
            return {"candidate": inner}
        case _:
            return {}


def session_data(message: SessionCreated | SessionUpdated) -> dict[str, Any]:
    """What OpenAI's events of these names say of the session, as far as it is known."""
    session: dict[str, Any] = {}
    if isinstance(message, SessionCreated) and message.session_id:
        session["id"] = message.session_id
    if message.expires_at_s is not None:
        session["expires_at"] = message.expires_at_s
    return {"session": session} if session else {}


def _ice_server_data(server: IceServer) -> dict[str, Any]:
    data: dict[str, Any] = {"urls": list(server.urls)}
    if server.username or server.credential:
        data |= {"username": server.username, "credential": server.credential}
    return data


def _tag_data(tag: AudioBackTag) -> dict[str, Any]:
    return {
        "streamId": tag.stream_id,
        "sequence": tag.sequence,
        "sampleRate": 24000,
        "mimeType": "audio/pcm;rate=24000",
        "source": "user",
    }


def _audio_text(pcm16: bytes) -> str:
    if len(pcm16) % 2 or len(pcm16) > 2 * BUFFERED_SAMPLES:
        raise LocalProtocolError(
            f"An audio message holds up to {BUFFERED_SAMPLES} whole samples, not {len(pcm16)} bytes"
        )
    return base64.b64encode(pcm16).decode()
