"""The WebSocket of HeyGen's avatars: sound goes up as JSON, words about the session come down; media goes another way.

Two dialects: `alpha` fills a buffer and commits it, `speak` sends what is to be said and then its end. Source:
docs.heygen.com, "Interactive Avatar Realtime API" (alpha) and "Audio to Video WSS API"; docs.liveavatar.com, "LITE
mode events"; for what they leave open their public clients, HeyGen-Official/pipecat-realtime-demo, pipecat-ai/pipecat
(services/heygen) and livekit/agents (plugins/liveavatar). Where these contradict each other both forms are read.
"""

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from bridge.errors import RemoteProtocolError
from bridge.media.clock import AVATAR_RATE_HZ, NS_PER_MS, NS_PER_S, ticks_to_ns
from bridge.protocols.navtalk_fields import filled, object_fields

Dialect = Literal["alpha", "speak"]

# The pages recommend pieces of a second (alpha: of 1 to 4) and close above 1 MB: a second is 64 kB as base64.
MOST_SAMPLES = AVATAR_RATE_HZ
# The first piece is short, so that the avatar begins soon: clients of the service begin with 400 to 600 ms.
FIRST_SAMPLES = AVATAR_RATE_HZ * 2 // 5
# The vendor's demo discards a rest that is shorter, because the service could do nothing with it; we fill it up.
LEAST_SAMPLES = AVATAR_RATE_HZ * 2 // 25
# What the service has left to say when it gets the next piece of a source that only gives sound as it comes: half of
# the first piece, which is then as long as the pieces that follow.
MARGIN_NS = 200 * NS_PER_MS
# A commit has to carry sound (seed). The vendor's demo sends one byte, half a sample: it adds nothing to be heard.
HALF_SAMPLE = b"\0"
# A session ends after two minutes without a command (HeyGen's REST interface, unless told otherwise) or after five
# (the WebSocket): one that is lost on the way leaves time for another.
KEEP_ALIVE_S = 45.0


# ---------------------------------------------------------------------------------------------- commands


@dataclass(frozen=True, slots=True)
class Append:
    """Alpha: sound for the buffer, PCM16, 24 kHz, mono."""

    TYPE: ClassVar[str] = "agent.audio_buffer_append"
    pcm16: bytes
    event_id: str = ""


@dataclass(frozen=True, slots=True)
class Commit:
    """Alpha: say what is in the buffer, and this."""

    TYPE: ClassVar[str] = "agent.audio_buffer_commit"
    pcm16: bytes = HALF_SAMPLE
    event_id: str = ""


@dataclass(frozen=True, slots=True)
class Clear:
    """Alpha: empty the buffer."""

    TYPE: ClassVar[str] = "agent.audio_buffer_clear"
    event_id: str = ""


@dataclass(frozen=True, slots=True)
class Speak:
    """Say this. Pieces with the same id are one utterance."""

    TYPE: ClassVar[str] = "agent.speak"
    pcm16: bytes
    event_id: str = ""


@dataclass(frozen=True, slots=True)
class SpeakEnd:
    """The utterance is whole."""

    TYPE: ClassVar[str] = "agent.speak_end"
    event_id: str = ""


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Stop, and forget what has not been said."""

    TYPE: ClassVar[str] = "agent.interrupt"
    event_id: str = ""


@dataclass(frozen=True, slots=True)
class StartListening:
    """Look as if somebody else spoke; only while idle."""

    TYPE: ClassVar[str] = "agent.start_listening"
    event_id: str = ""


@dataclass(frozen=True, slots=True)
class StopListening:
    TYPE: ClassVar[str] = "agent.stop_listening"
    event_id: str = ""


@dataclass(frozen=True, slots=True)
class KeepAlive:
    TYPE: ClassVar[str] = "session.keep_alive"
    event_id: str = ""


Command = Append | Commit | Clear | Speak | SpeakEnd | Interrupt | StartListening | StopListening | KeepAlive
_COMMANDS: Mapping[str, type[Command]] = {
    kind.TYPE: kind
    for kind in (Append, Commit, Clear, Speak, SpeakEnd, Interrupt, StartListening, StopListening, KeepAlive)
} | {
    # An older page's table says stop, its example says end; a later page's heading says avatar for agent.
    "agent.end_listening": StopListening,
    "avatar.speak_end": SpeakEnd,
}


def dump_command(command: Command) -> str:
    fields: dict[str, str] = {"type": command.TYPE}
    if command.event_id:
        fields["event_id"] = command.event_id
    if isinstance(command, Append | Commit | Speak):
        fields["audio"] = base64.b64encode(command.pcm16).decode()
    return json.dumps(fields)


def parse_command(text: str | bytes) -> Command:
    """Read what a client sends. Raises RemoteProtocolError."""
    fields = _fields(text)
    type_name, event_id = fields["type"], filled(fields.get("eventid")) or ""
    kind = _COMMANDS.get(type_name)
    if kind is None:
        raise RemoteProtocolError(f"there is no command {type_name[:80]}")
    if kind in (Append, Commit, Speak):
        try:
            return kind(base64.b64decode(filled(fields.get("audio")) or "", validate=True), event_id)
        except (binascii.Error, ValueError):
            raise RemoteProtocolError(f"{type_name}: audio is no base64") from None
    return kind(event_id)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class SessionState:
    """connecting, connected, closing, closed or disconnected: commands are taken while it is connected."""

    TYPE: ClassVar[str] = "session.state_updated"
    state: str


@dataclass(frozen=True, slots=True)
class SpeakStarted:
    """ids: those of the command that it answers to are among them."""

    TYPE: ClassVar[str] = "agent.speak_started"
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SpeakEnded:
    TYPE: ClassVar[str] = "agent.speak_ended"
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SpeakInterrupted:
    TYPE: ClassVar[str] = "agent.speak_interrupted"
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AgentState:
    """idle, listening or talking: some sessions say this alone."""

    TYPE: ClassVar[str] = "agent.state_updated"
    state: str
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A command was taken: appended, committed or cleared, as `what` says."""

    TYPE: ClassVar[str] = "agent.audio_buffer_"
    what: str
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something went wrong, and the session goes on. `kind`: a name such as video_starvation."""

    TYPE: ClassVar[str] = "error"
    kind: str = ""
    message: str = ""
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class Unknown:
    TYPE: ClassVar[str] = ""
    type_name: str


Event = SessionState | SpeakStarted | SpeakEnded | SpeakInterrupted | AgentState | Acknowledged | Trouble | Unknown

_SPEECH: Mapping[str, Callable[[tuple[str, ...]], Event]] = {
    kind.TYPE: kind for kind in (SpeakStarted, SpeakEnded, SpeakInterrupted)
}
# Older names of one and the same.
_AGENT_STATES = (AgentState.TYPE, "agent.state", "agent.status")
_ACKNOWLEDGED = ("appended", "committed", "cleared")


def parse_event(text: str | bytes) -> Event:
    """Read what the service sends. Raises RemoteProtocolError for what is no event."""
    fields = _fields(text)
    type_name, ids = fields["type"], tuple(_ids(fields))
    state = filled(fields.get("newstate")) or filled(fields.get("state")) or filled(fields.get("status"))
    if type_name in _SPEECH:
        return _SPEECH[type_name](ids)
    if type_name == SessionState.TYPE and state is not None:
        return SessionState(state)
    if type_name in _AGENT_STATES and state is not None:
        return AgentState(state, ids)
    if type_name == "agent.idle_started":
        return AgentState("idle", ids)
    what = type_name.removeprefix(Acknowledged.TYPE)
    if what in _ACKNOWLEDGED:
        return Acknowledged(what, ids)
    if type_name in ("error", "warning"):
        inner = object_fields(fields.get(type_name)) or fields
        kind = filled(inner.get("type")) or ""
        return Trouble(
            "" if inner is fields else kind, filled(inner.get("message")) or "", is_warning=type_name == "warning"
        )
    return Unknown(type_name)


def dump_event(event: Event, event_id: str = "") -> str:
    """Write an event as the service does; `event_id` is its own, and our id stands in source_event_id."""
    fields: dict[str, Any] = {"type": event.TYPE}
    if event_id:
        fields["event_id"] = event_id
    match event:
        case SessionState(state):
            fields["state"] = state
        case AgentState(state, ids):
            fields |= {"new_state": state, **_source(ids)}
        case Acknowledged(what, ids):
            fields |= {"type": event.TYPE + what, **_source(ids)}
        case SpeakStarted(ids) | SpeakEnded(ids) | SpeakInterrupted(ids):
            fields |= _source(ids)
        case Trouble(kind, message, is_warning):
            name = "warning" if is_warning else "error"
            fields |= {"type": name, name: {"type": kind, "message": message}}
        case Unknown(type_name):
            fields["type"] = type_name
    return json.dumps(fields)


def _source(ids: tuple[str, ...]) -> dict[str, str]:
    return {"source_event_id": ids[0]} if ids else {}


def _fields(text: str | bytes) -> dict[str, Any]:
    fields = object_fields(text) if isinstance(text, str) else None
    if fields is None or filled(fields.get("type")) is None:
        raise RemoteProtocolError("no JSON object with a type", reason="protocol")
    return fields


def _ids(fields: Mapping[str, Any]) -> Iterator[str]:
    """The documents say that event_id is the command's; sessions were seen whose source_event_id is."""
    for name in ("sourceeventid", "eventid"):
        if (event_id := filled(fields.get(name))) is not None:
            yield event_id


# ---------------------------------------------------------------------------------------------- pieces


class Pieces:
    """Cuts a stretch of speech into the pieces that the service wants, as soon as it needs them.

    It wants to be ahead of what is heard: the first piece is short, the next ones as long as there is time for, and one
    leaves at the latest when the service has `MARGIN_NS` left to say.
    """

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._said_ns = 0  # when the service will have said what it was sent

    def push(self, pcm16: bytes, now_ns: int) -> list[bytes]:
        """Take whole samples; the pieces that are to be sent now."""
        self._waiting += pcm16
        due: list[bytes] = []
        while self._is_due(now_ns):
            due.append(self._cut(FIRST_SAMPLES if now_ns >= self._said_ns else MOST_SAMPLES, now_ns))
        return due

    def end(self, now_ns: int) -> list[bytes]:
        """The stretch is over; what is left of it, if anything, as one piece, filled up to `LEAST_SAMPLES`."""
        if not self._waiting:
            return []
        self._waiting += bytes(max(0, 2 * LEAST_SAMPLES - len(self._waiting)))
        return [self._cut(MOST_SAMPLES, now_ns)]

    def drop(self) -> None:
        """Nothing of it is to be said."""
        self._waiting.clear()
        self._said_ns = 0

    def left_s(self, now_ns: int) -> float:
        """How long the service goes on speaking."""
        return max(0, self._said_ns - now_ns) / NS_PER_S

    def _is_due(self, now_ns: int) -> bool:
        n_samples = len(self._waiting) // 2
        if now_ns >= self._said_ns:
            return n_samples >= FIRST_SAMPLES
        is_short = self._said_ns - now_ns <= MARGIN_NS and n_samples >= LEAST_SAMPLES
        return n_samples >= MOST_SAMPLES or is_short

    def _cut(self, n_samples: int, now_ns: int) -> bytes:
        piece = bytes(self._waiting[: 2 * n_samples])
        del self._waiting[: 2 * n_samples]
        self._said_ns = max(self._said_ns, now_ns) + ticks_to_ns(len(piece) // 2, AVATAR_RATE_HZ)
        return piece
