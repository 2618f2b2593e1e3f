"""NavTalk's unified realtime protocol, version 2: its messages.

One WebSocket carries everything: an `Event` goes from the service to the client, a `Request` the other way. How a
message looks in JSON is `navtalk_json`. The documents show an order of events, contradict each other on it, and say
nothing of the offer's place in it: no event is out of order here.

Source: docs.navtalk.ai, "WebSocket Connection", "WebRTC Connection", "FAQ" and the pages of the single events.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

# 20 ms at 24 kHz: the frame of Opus and of every microphone, so a live source waits for nothing else.
LIVE_SAMPLES = 480
# The vendor's page cuts its base64 text after 4096 characters "to avoid message size limits", which it does not state:
# 4096 / 4 * 3 = 3072 bytes = 1536 samples = 64 ms. Longer messages are therefore never sent.
BUFFERED_SAMPLES = 4096 // 4 * 3 // 2

# Query parameters, each of which asks for a mirror, that says what it is sent: the first is documented, on the second
# two independent workers of third parties rely.
TRANSPARENCY = ("model", "transparency")
AUDIO_BACK = ("audioBack", "true")


def query_of(url: str, further: Mapping[str, str]) -> dict[str, str]:
    """The query parameters that a service is asked with: those of its URL, and over them further ones."""
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True)) | dict(further)


def with_query(url: str, ours: Mapping[str, str]) -> str:
    """The URL with these query parameters; it keeps those of its own that have other names."""
    parts = urlsplit(url)
    theirs = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in ours]
    query = urlencode([*theirs, *ours.items()], quote_via=quote, safe="")
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


# ---------------------------------------------------------------------------------------------- values


@dataclass(frozen=True, slots=True)
class IceServer:
    """One STUN or TURN server, as in WebRTC's RTCIceServer."""

    urls: tuple[str, ...]
    username: str = ""
    credential: str = field(default="", repr=False)


class End(StrEnum):
    """Why a session is over; the values end the service's own event names, but for the last."""

    FAIL = "fail"
    CLOSE = "close"
    INSUFFICIENT_BALANCE = "insufficient_balance"
    GPU_FULL = "gpu_full"
    CONNECTION_LIMIT_EXCEEDED = "connection_limit_exceeded"
    BACKEND_ERROR = "backend_error"
    DISCONNECTED = "disconnected"  # the WebSocket closed without an event


# Close codes are undocumented: an empty account may well end in 1000, so only events and words decide.
_BALANCE_WORDS = re.compile(r"insufficient[\s_-]+(points|balance)", re.IGNORECASE)
# The words lie near each other, and a long text is searched in linear time.
_LICENCE_WORDS = re.compile(r"invalid[\s_-]+licen[cs]e|licen[cs]e\b.{0,100}\binvalid", re.IGNORECASE)
_PASSING_WORDS = re.compile(r"time(d )?[- ]?out", re.IGNORECASE)

# ---------------------------------------------------------------------------------------------- service to client


@dataclass(frozen=True, slots=True)
class Connected:
    TYPE: ClassVar[str] = "conversation.connected.success"

    session_id: str
    ice_servers: tuple[IceServer, ...] = ()


@dataclass(frozen=True, slots=True)
class Warned:
    """Something for the operator's eyes, such as which of several avatars of one name was taken."""

    TYPE: ClassVar[str] = "conversation.connected.warning"

    message: str
    avatar_id: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """The session is over. The event's whole name is TYPE and the end."""

    TYPE: ClassVar[str] = "conversation.connected."

    end: End
    message: str = ""

    @property
    def cause(self) -> End:
        """What the end comes to, by its words where they say more than its name."""
        if _BALANCE_WORDS.search(self.message):
            return End.INSUFFICIENT_BALANCE
        return End.FAIL if _LICENCE_WORDS.search(self.message) else self.end

    @property
    def is_permanent(self) -> bool:
        """Only the operator can change it: licence, avatar name or balance. All else passes by itself."""
        if self.cause is End.FAIL:
            return not _PASSING_WORDS.search(self.message)
        return self.cause is End.INSUFFICIENT_BALANCE


@dataclass(frozen=True, slots=True)
class SessionCreated:
    """The moment to send history.

    expires_at_s  Unix time at which the service ends the session; None: it does not say. No page of the vendor's shows
                  it: it is part of OpenAI's event of this name, which the service passes on, as is the session's id.
    """

    TYPE: ClassVar[str] = "realtime.session.created"

    expires_at_s: float | None = None
    session_id: str = ""


@dataclass(frozen=True, slots=True)
class SessionUpdated:
    """Audio may be sent from now on. `expires_at_s`: as in `SessionCreated`, and newer."""

    TYPE: ClassVar[str] = "realtime.session.updated"

    expires_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The service hears somebody speak in its input."""

    TYPE: ClassVar[str] = "realtime.input_audio_buffer.speech_started"


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """The service takes the turn for finished."""

    TYPE: ClassVar[str] = "realtime.input_audio_buffer.speech_stopped"


@dataclass(frozen=True, slots=True)
class UserTranscript:
    TYPE: ClassVar[str] = "realtime.conversation.item.input_audio_transcription.completed"

    text: str


@dataclass(frozen=True, slots=True)
class AvatarTranscriptDelta:
    TYPE: ClassVar[str] = "realtime.response.audio_transcript.delta"

    text: str
    response_id: str = ""


@dataclass(frozen=True, slots=True)
class AvatarTranscript:
    TYPE: ClassVar[str] = "realtime.response.audio_transcript.done"

    text: str
    response_id: str = ""


@dataclass(frozen=True, slots=True)
class AvatarAudio:
    """The answer's sound, PCM16 24 kHz mono, beside the one on WebRTC; often left out by the service."""

    TYPE: ClassVar[str] = "realtime.response.audio.delta"

    pcm16: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AvatarAudioDone:
    """The answer's sound is generated; it may still be playing."""

    TYPE: ClassVar[str] = "realtime.response.audio.done"


@dataclass(frozen=True, slots=True)
class ResponseDone:
    """The answer is complete, sound and words; some services say so beside, or instead of, AvatarAudioDone."""

    TYPE: ClassVar[str] = "realtime.response.done"


@dataclass(frozen=True, slots=True)
class FunctionCallDelta:
    """A piece of a tool call's arguments; FunctionCall repeats them whole."""

    TYPE: ClassVar[str] = "realtime.response.function_call_arguments.delta"

    call_id: str
    text: str


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """The model calls a tool. `arguments` is JSON text."""

    TYPE: ClassVar[str] = "realtime.response.function_call_arguments.done"

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Something went wrong in the service, which goes on: its model, its speech recognition or its synthesis."""

    TYPE: ClassVar[str] = "error"

    message: str


@dataclass(frozen=True, slots=True)
class Status:
    """`realtime.status`: known by name alone."""

    TYPE: ClassVar[str] = "realtime.status"


# ---------------------------------------------------------------------------------------------- both ways


@dataclass(frozen=True, slots=True)
class Offer:
    TYPE: ClassVar[str] = "webrtc.signaling.offer"

    sdp: str


@dataclass(frozen=True, slots=True)
class Answer:
    TYPE: ClassVar[str] = "webrtc.signaling.answer"

    sdp: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """One ICE candidate; an empty one ends the list (RFC 8838 §14)."""

    TYPE: ClassVar[str] = "webrtc.signaling.iceCandidate"

    candidate: str
    sdp_mid: str | None = None
    sdp_mline_index: int | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """A message of a type not listed here; empty for a frame that is no JSON object with a type."""

    TYPE: ClassVar[str] = "unknown"

    type: str = ""


# ---------------------------------------------------------------------------------------------- client to service


@dataclass(frozen=True, slots=True)
class InputConfig:
    """What to change of the service's console settings, sent as soon as the socket is open; None keeps a setting."""

    TYPE: ClassVar[str] = "realtime.input_config"

    voice: str | None = None
    prompt: str | None = None
    tools: tuple[Mapping[str, Any], ...] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The keys that are set."""
        values = {"voice": self.voice, "prompt": self.prompt, "tools": self.tools}
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class HistoryItem:
    """What a user said in an earlier session; the service keeps the avatar's own turns."""

    TYPE: ClassVar[str] = "conversation.item.create"

    text: str


@dataclass(frozen=True, slots=True)
class AudioBackTag:
    """What a worker that drives the mirror mode AudioBack writes beside its sound. No page of the vendor's shows it.

    stream_id  of the session.  sequence: number of the message, from 0.
    """

    stream_id: str
    sequence: int


@dataclass(frozen=True, slots=True)
class AudioAppend:
    """Input sound: PCM16 little-endian, 24 kHz, mono; whole samples, at most BUFFERED_SAMPLES when we send it.

    is_bare  OpenAI's flat form, as the page on the transparency mode shows it; read, the two forms are the same.
    tag      AudioBack's additions to the wrapped form.
    """

    TYPE: ClassVar[str] = "realtime.input_audio_buffer.append"

    pcm16: bytes = field(repr=False)
    is_bare: bool = False
    tag: AudioBackTag | None = None


@dataclass(frozen=True, slots=True)
class AudioClear:
    """Drop what was sent and not yet spoken."""

    TYPE: ClassVar[str] = "input_audio_buffer.clear"


@dataclass(frozen=True, slots=True)
class ToolList:
    """Tools alone, the older way to register them."""

    TYPE: ClassVar[str] = "realtime.input_function_call"

    tools: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class TextInput:
    """Something typed. The name is documented, the shape of its payload is inferred from realtime.input_image."""

    TYPE: ClassVar[str] = "realtime.input_text"

    text: str


@dataclass(frozen=True, slots=True)
class ImageInput:
    """Something shown: a picture as a data URL. The shape is that of the vendor's applications, not of a page.

    wants_answer  the avatar is to speak about it now; else it only knows.
    """

    TYPE: ClassVar[str] = "realtime.input_image"

    data_url: str = field(repr=False)
    wants_answer: bool = False


@dataclass(frozen=True, slots=True)
class FunctionCallOutput:
    """What a tool gave back, as text."""

    TYPE: ClassVar[str] = "conversation.item.create"

    call_id: str
    output: str


@dataclass(frozen=True, slots=True)
class ResponseCreate:
    """Answer now: after a tool's output, or to let the avatar greet."""

    TYPE: ClassVar[str] = "response.create"


Conversation = (
    SpeechStarted
    | SpeechStopped
    | UserTranscript
    | AvatarTranscriptDelta
    | AvatarTranscript
    | AvatarAudio
    | AvatarAudioDone
    | ResponseDone
    | FunctionCallDelta
    | FunctionCall
)
Signalling = Offer | Answer | Candidate
Event = (
    Connected | Warned | Ended | SessionCreated | SessionUpdated | Status | Failed | Conversation | Signalling | Unknown
)
Request = (
    InputConfig
    | ToolList
    | HistoryItem
    | AudioAppend
    | AudioClear
    | TextInput
    | ImageInput
    | FunctionCallOutput
    | ResponseCreate
    | Signalling
    | Unknown
)
