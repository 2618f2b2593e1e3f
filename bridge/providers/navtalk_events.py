"""What NavTalk's events mean to a session."""

from collections.abc import Iterator

from bridge.errors import RemoteProtocolError
from bridge.media.clock import AVATAR_RATE_HZ
from bridge.ports import AvatarEvent, ToolCall
from bridge.protocols import navtalk
from bridge.redact import mask

# A model's arguments are a few names and numbers; 64 KiB hold a whole page of text.
MAX_ARGUMENT_CHARACTERS = 64 * 1024
# As many calls as a session answers at a time.
MAX_OPEN_CALLS = 16
# The longest documented type has 61 characters.
_MAX_TYPE_CHARACTERS = 80


class Conversation:
    """Reads the events of one session in their order; an answer begins with its first words or sound."""

    def __init__(self) -> None:
        self._is_answering = False
        self._answer_id = ""  # of the newest answer; empty where the service gives none
        self._sound_samples = 0
        self._ended_by = ""  # the event that ended the newest answer
        self._has_called_tool = False  # and said nothing since

    def read(self, event: navtalk.Event) -> Iterator[AvatarEvent]:
        """What the event says, in one or two events of the bridge's own."""
        match event:
            case navtalk.SpeechStarted():
                # Who speaks interrupts: the answer before it may never be done.
                self._is_answering = False
                yield AvatarEvent("speech_started", event.TYPE)
            case navtalk.SpeechStopped():
                self._is_answering = False
                yield AvatarEvent("speech_stopped", event.TYPE)
            case navtalk.UserTranscript(text):
                yield AvatarEvent("user_transcript", event.TYPE, text)
            case navtalk.AvatarTranscriptDelta(text, answer_id):
                yield from self._begin(event.TYPE, answer_id)
                yield AvatarEvent("avatar_transcript_delta", event.TYPE, text)
            case navtalk.AvatarTranscript(text):
                yield AvatarEvent("avatar_transcript", event.TYPE, text)
            case navtalk.AvatarAudio(pcm16):
                yield from self._begin(event.TYPE)
                self._sound_samples += len(pcm16) // 2
                yield AvatarEvent("other", event.TYPE)
            case navtalk.AvatarAudioDone() | navtalk.ResponseDone():
                yield self._end(event)
            case navtalk.FunctionCall():
                self._has_called_tool = not self._is_answering
                yield AvatarEvent("tool_call", event.TYPE)
            case navtalk.Warned(message) | navtalk.Failed(message):
                yield AvatarEvent("warning", event.TYPE, mask(message))
            case navtalk.Ended(_, message):
                yield AvatarEvent("ended", event.cause.value, mask(message))
            case navtalk.Unknown(type_name):
                yield AvatarEvent("unknown", shown_type(type_name))
            case _:
                yield AvatarEvent("other", event.TYPE)

    def _begin(self, type_name: str, answer_id: str = "") -> Iterator[AvatarEvent]:
        """An answer of this id goes on, or begins."""
        is_same = answer_id in ("", self._answer_id)
        # The last words of an answer may follow the end of its sound.
        is_late = bool(answer_id) and is_same
        if is_same and (self._is_answering or is_late):
            return
        if self._is_answering and not self._answer_id:
            self._answer_id = answer_id  # its sound, which has no id, came before its words
            return
        self._is_answering, self._answer_id, self._sound_samples = True, answer_id, 0
        self._ended_by, self._has_called_tool = "", False
        yield AvatarEvent("response_started", type_name)

    def _end(self, event: navtalk.AvatarAudioDone | navtalk.ResponseDone) -> AvatarEvent:
        """The answer ends with the first of two events; the other one, where a service sends both, says nothing new."""
        is_second = self._ended_by not in ("", event.TYPE)
        # A response that only called a tool ends too, and the answer is still to come.
        is_call = isinstance(event, navtalk.ResponseDone) and self._has_called_tool
        if is_second or is_call:
            self._ended_by, self._has_called_tool = "", False
            return AvatarEvent("other", event.TYPE)
        sound_s = self._sound_samples / AVATAR_RATE_HZ if self._is_answering else 0.0
        self._is_answering, self._ended_by = False, event.TYPE
        return AvatarEvent("response_done", event.TYPE, sound_s=sound_s)


class ToolCalls:
    """Puts the calls of one session together. Of more than `MAX_OPEN_CALLS` unfinished ones the oldest is forgotten."""

    def __init__(self) -> None:
        self._arguments: dict[str, str] = {}

    def read(self, event: navtalk.Event) -> ToolCall | None:
        """The call that an event completes; arguments that it lacks are those of its pieces.

        Raises RemoteProtocolError for a call of which only pieces came, and too many.
        """
        match event:
            case navtalk.FunctionCallDelta(call_id, text):
                self._extend(call_id, text)
            case navtalk.FunctionCall(call_id, name, arguments):
                pieces = self._arguments.pop(call_id, "")
                if arguments not in ("", "{}") or not pieces:
                    return ToolCall(call_id, name, arguments or "{}")
                if len(pieces) > MAX_ARGUMENT_CHARACTERS:
                    raise RemoteProtocolError(f"{event.TYPE}: more than {MAX_ARGUMENT_CHARACTERS} characters in pieces")
                return ToolCall(call_id, name, pieces)
        return None

    def _extend(self, call_id: str, text: str) -> None:
        arguments = self._arguments.pop(call_id, "") + text
        # One character more than allowed tells that there was too much.
        self._arguments[call_id] = arguments[: MAX_ARGUMENT_CHARACTERS + 1]
        if len(self._arguments) > MAX_OPEN_CALLS:
            del self._arguments[next(iter(self._arguments))]


def shown_type(type_name: str) -> str:
    """A type that a service made up, fit to be shown; a frame without one is `unknown`."""
    return mask(type_name)[:_MAX_TYPE_CHARACTERS] or navtalk.Unknown.TYPE
