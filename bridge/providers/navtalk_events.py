"""What NavTalk's events mean to a session."""

from collections.abc import Iterator

from bridge.media.clock import AVATAR_RATE_HZ
from bridge.ports import AvatarEvent
from bridge.protocols import navtalk
from bridge.redact import mask


class Conversation:
    """Reads the events of one session in their order; an answer begins with its first words or sound."""

    def __init__(self) -> None:
        self._is_answering = False
        self._answer_id = ""  # of the newest answer; empty where the service gives none
        self._sound_samples = 0

    def read(self, event: navtalk.Event) -> Iterator[AvatarEvent]:
        """What the event says, in one or two events of the bridge's own."""
        match event:
            case navtalk.SpeechStarted():
                yield AvatarEvent("speech_started", event.TYPE)
            case navtalk.SpeechStopped():
                # A turn interrupts: the answer before it may never be done.
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
            case navtalk.AvatarAudioDone():
                sound_s = self._sound_samples / AVATAR_RATE_HZ if self._is_answering else 0.0
                self._is_answering = False
                yield AvatarEvent("response_done", event.TYPE, sound_s=sound_s)
            case navtalk.Warned(message):
                yield AvatarEvent("warning", event.TYPE, mask(message))
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
        yield AvatarEvent("response_started", type_name)
