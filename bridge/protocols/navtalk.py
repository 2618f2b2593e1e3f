"""NavTalk's unified realtime protocol, version 2: its messages, and the order they come in.

One WebSocket carries everything: an `Event` goes from the service to the client, a `Request` the other way; the
hand-shake is the table `NEXT`. How a message looks in JSON is `navtalk_json`.

Source: docs.navtalk.ai, "WebSocket Connection", "WebRTC Connection", "FAQ" and the pages of the single events.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from bridge.errors import RemoteProtocolError

# 20 ms at 24 kHz: the frame of Opus and of every microphone, so a live source waits for nothing else.
LIVE_SAMPLES = 480
# The vendor's page cuts its base64 text after 4096 characters "to avoid message size limits", which it does not state:
# 4096 / 4 * 3 = 3072 bytes = 1536 samples = 64 ms. Longer messages are therefore never sent.
BUFFERED_SAMPLES = 4096 // 4 * 3 // 2

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
_BALANCE_WORDS = re.compile(r"insufficient (points|balance)", re.IGNORECASE)
_LICENCE_WORDS = re.compile(r"invalid licen[cs]e", re.IGNORECASE)
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
    """The moment to send history."""

    TYPE: ClassVar[str] = "realtime.session.created"


@dataclass(frozen=True, slots=True)
class SessionUpdated:
    """Audio may be sent from now on."""

    TYPE: ClassVar[str] = "realtime.session.updated"


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
class FunctionCall:
    """The model calls a tool. `arguments` is JSON text."""

    TYPE: ClassVar[str] = "realtime.response.function_call_arguments.done"

    call_id: str
    name: str
    arguments: str


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
class AudioAppend:
    """Input sound: PCM16 little-endian, 24 kHz, mono; whole samples, at most BUFFERED_SAMPLES when we send it.

    is_bare  OpenAI's flat form, as the page on the transparency mode shows it.
    """

    TYPE: ClassVar[str] = "realtime.input_audio_buffer.append"

    pcm16: bytes = field(repr=False)
    is_bare: bool = False


@dataclass(frozen=True, slots=True)
class AudioClear:
    """Drop what was sent and not yet spoken."""

    TYPE: ClassVar[str] = "input_audio_buffer.clear"


Conversation = (
    SpeechStarted
    | SpeechStopped
    | UserTranscript
    | AvatarTranscriptDelta
    | AvatarTranscript
    | AvatarAudio
    | AvatarAudioDone
    | FunctionCall
)
Signalling = Offer | Answer | Candidate
Event = Connected | Warned | Ended | SessionCreated | SessionUpdated | Conversation | Signalling | Unknown
Request = InputConfig | HistoryItem | AudioAppend | AudioClear | Signalling | Unknown

# ---------------------------------------------------------------------------------------------- the hand-shake


class State(StrEnum):
    """How far the client's session is; the values complete "while …"."""

    CONNECTING = "connecting"  # socket open, waiting for conversation.connected.success
    CONFIGURING = "configuring"
    STREAMING = "streaming"  # session.updated was seen
    CLOSED = "closed"


_OPEN = (State.CONNECTING, State.CONFIGURING, State.STREAMING)
# Where the offer stands in the order of events is not documented: signalling is legal from the start.
_ANY_TIME = (Warned, Offer, Answer, Candidate, Unknown)
NEXT: Mapping[tuple[State, type[Event]], State] = {
    (State.CONNECTING, Connected): State.CONFIGURING,
    (State.CONFIGURING, SessionCreated): State.CONFIGURING,
    (State.CONFIGURING, SessionUpdated): State.STREAMING,
    (State.STREAMING, SessionUpdated): State.STREAMING,  # one may follow each realtime.input_config
    # A service that only mirrors sound is spoken to before, or without, session.updated.
    **{(s, e): s for s in (State.CONFIGURING, State.STREAMING) for e in Conversation.__args__},
    **{(s, e): s for s in _OPEN for e in _ANY_TIME},
    **{(s, Ended): State.CLOSED for s in _OPEN},
}


def advance(state: State, event: Event) -> State:
    """The state after an event of the service. Raises RemoteProtocolError for one that is out of order."""
    try:
        return NEXT[state, type(event)]
    except KeyError:
        raise RemoteProtocolError(f"NavTalk sent {type(event).__name__} while {state}") from None
