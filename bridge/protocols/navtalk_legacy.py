"""NavTalk's older realtime interface: its messages, read and written, for both ends.

There are two WebSockets. The first is OpenAI's realtime interface: events are flat and have no prefix, and mean what
those of the unified interface mean (`protocols.navtalk`); its binary frames are sound. The second carries WebRTC's
signalling, each message with the session that it is for.

Source: docs.navtalk.ai, "Real-time Digital Human Interaction", here the page; the vendor's applications navtalk/Sample
and navtalk/Samples, which know more messages, and contradict the page on some.
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from bridge.errors import RemoteProtocolError
from bridge.protocols import navtalk
from bridge.protocols.navtalk_fields import Body, fold_type, identifier, load, object_fields
from bridge.protocols.navtalk_json import EVENTS, REQUESTS, dump, read, read_candidate, read_sdp
from bridge.protocols.navtalk_write import session_data

# What both ends count on, as the page has it: sound as this program sends and reads it, and words for the transcript.
FORMS: Mapping[str, Any] = {
    "modalities": ["text", "audio"],
    "input_audio_format": "pcm16",
    "output_audio_format": "pcm16",
    "input_audio_transcription": {"model": "whisper-1"},
}


@dataclass(frozen=True, slots=True)
class SessionUpdate:
    """What the session is to be like; sent as soon as it is created."""

    TYPE: ClassVar[str] = "session.update"

    session: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Create:
    """Asks for media. The applications send it once the second socket is open; the page does not."""

    TYPE: ClassVar[str] = "create"


@dataclass(frozen=True, slots=True)
class Signal:
    """One message of the second WebSocket. `target`: the session it is for; whoever answers repeats it."""

    message: Create | navtalk.Signalling | navtalk.Unknown
    target: str = ""


Request = navtalk.Request | SessionUpdate
# Named in the vendor's SDK alone.
_SESSION_ID = "session.session_id"


def session_settings(
    voice: str | None,
    prompt: str | None,
    tools: tuple[Mapping[str, Any], ...] | None,
    further: Mapping[str, Any],
) -> dict[str, Any]:
    """The session of a `SessionUpdate`: its forms, what is set, and over both what is `further` said."""
    settings = {"instructions": prompt, "voice": voice, "tools": tools}
    return {**{key: value for key, value in settings.items() if value is not None}, **FORMS, **further}


# ---------------------------------------------------------------------------------------------- the first WebSocket


def name_of(type_name: str) -> str:
    """What this interface calls an event or a message of a type of `protocols.navtalk`."""
    if type_name == navtalk.Connected.TYPE:
        return _SESSION_ID
    return type_name.removeprefix("realtime.").removeprefix("webrtc.signaling.")


def parse_event(frame: str | bytes) -> navtalk.Event:
    """Read one frame of a service. Raises RemoteProtocolError when a known message lacks what it is for."""
    if isinstance(frame, str):
        event = read(frame, _EVENTS)
        # What the unified interface says here has a WebSocket of its own, which may not be open yet to answer by.
        return navtalk.Unknown(event.TYPE) if isinstance(event, navtalk.Signalling) else event
    # The page plays them and does not say what is in them; what was asked for is PCM16.
    if len(frame) % 2:
        raise RemoteProtocolError("a binary frame ends within a sample")
    return navtalk.AvatarAudio(frame)


def parse_request(text: str) -> Request:
    """Read one message of a client. Raises RemoteProtocolError when a known one lacks what it is for."""
    return read(text, _REQUESTS)


def dump_event(event: navtalk.Event) -> str | None:
    """Write one event in the form that the page understands; None: this interface has none of its kind."""
    fields = _fields(event)
    return None if fields is None else json.dumps({"type": name_of(event.TYPE), **fields})


def dump_request(request: Request) -> str:
    """Write one message. Raises LocalProtocolError as `navtalk_json.dump` does."""
    match request:
        case SessionUpdate(session):
            return json.dumps({"type": request.TYPE, "session": session})
        case navtalk.AudioAppend():
            return dump(replace(request, is_bare=True))
        case _:
            # OpenAI's own messages, which the unified interface takes as they are.
            return dump(request)


def _fields(event: navtalk.Event) -> dict[str, Any] | None:
    match event:
        case navtalk.SessionCreated() | navtalk.SessionUpdated():
            return session_data(event)
        case navtalk.Connected(session_id):
            return {"session_id": session_id}
        case navtalk.UserTranscript(text):
            return {"transcript": text}
        case navtalk.AvatarTranscriptDelta(text, response_id):
            # The applications read a mere text.
            return {"delta": {"text": text}, "response_id": response_id}
        case navtalk.AvatarTranscript(text, response_id):
            return {"transcript": text, "response_id": response_id}
        case navtalk.AvatarAudio(pcm16):
            return {"delta": base64.b64encode(pcm16).decode()}
        case navtalk.FunctionCallDelta(call_id, text):
            return {"call_id": call_id, "delta": text}
        case navtalk.FunctionCall(call_id, name, arguments):
            return {"call_id": call_id, "name": name, "arguments": arguments}
        case navtalk.Ended(end, text) if end in (navtalk.End.GPU_FULL, navtalk.End.INSUFFICIENT_BALANCE):
            return {"type": f"session.{end}", "message": text}
        case navtalk.Failed(text):
            return {"error": {"message": text}}
        case navtalk.SpeechStarted() | navtalk.SpeechStopped() | navtalk.AvatarAudioDone() | navtalk.ResponseDone():
            return {}
    return None


_EVENTS: Mapping[str, Callable[[Body], navtalk.Event]] = {
    **EVENTS,
    fold_type(_SESSION_ID): lambda body: navtalk.Connected(_session_id(body)),
}


def _session_id(body: Body) -> str:
    return body.find(identifier, "session_id") or body.find(identifier, "id") or body.require(identifier, "session_id")


def _session(value: Any) -> dict[str, Any] | None:
    session = load(value)
    return session if isinstance(session, dict) else None


_REQUESTS: Mapping[str, Callable[[Body], Request]] = {
    **REQUESTS,
    fold_type(SessionUpdate.TYPE): lambda body: SessionUpdate(body.require(_session, "session")),
}

# ---------------------------------------------------------------------------------------------- the second WebSocket


def parse_signal(text: str) -> Signal:
    """Read one message of either end. Raises RemoteProtocolError when a known one lacks what it is for."""
    message = read(text, _SIGNALS)
    return Signal(message, Body("", object_fields(text) or {}).find(identifier, "targetSessionId") or "")


def dump_signal(signal: Signal) -> str:
    """Write one message in the form that the page understands."""
    message = signal.message
    fields: dict[str, Any] = {}
    match message:
        case navtalk.Offer(sdp) | navtalk.Answer(sdp):
            fields = {"sdp": {"type": name_of(message.TYPE), "sdp": sdp}}
        case navtalk.Candidate(candidate, sdp_mid, sdp_mline_index):
            fields = {"candidate": {"candidate": candidate, "sdpMid": sdp_mid, "sdpMLineIndex": sdp_mline_index}}
    return json.dumps({"type": name_of(message.TYPE), "targetSessionId": signal.target, **fields})


_SIGNALS: Mapping[str, Callable[[Body], Create | navtalk.Signalling]] = {
    fold_type(Create.TYPE): lambda body: Create(),
    fold_type(name_of(navtalk.Offer.TYPE)): lambda body: navtalk.Offer(read_sdp(body)),
    fold_type(name_of(navtalk.Answer.TYPE)): lambda body: navtalk.Answer(read_sdp(body)),
    fold_type(name_of(navtalk.Candidate.TYPE)): read_candidate,
}
