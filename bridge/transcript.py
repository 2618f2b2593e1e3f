"""Who said what, and when it sounded in the programme."""

import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from bridge.answer import CHARACTERS_PER_S
from bridge.desk import Desk
from bridge.dsp.voice import VoiceDetector
from bridge.ear import sounds
from bridge.media.access_unit import AccessUnit
from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.media.opus_decoder import BrokenPacket, OpusDecoder
from bridge.media.opus_sound import open_decoder
from bridge.media.utterance import MAX_CHARACTERS, Utterance
from bridge.ports import AvatarEvent
from bridge.timeline.moment import Moment

HOST = "Host"
# Readers look with every unit; those that lag by more have a disk that does not answer.
_MOST_KEPT = 100
# Two answers may be under way: one that sounds, and one that is generated behind it.
_MOST_ANSWERS = 3
# Pauses between sentences last up to a second, also of voices that are made. A frozen stream, or words that the
# service owes, are waited for longer, and for an answer's first sound as long as a slow voice may take.
_PAUSE_NS = NS_PER_S
_PATIENCE_NS = 5 * NS_PER_S
_UNHEARD_NS = 15 * NS_PER_S
# Between words there is less silence: an avatar that was told to stop has, and another answer begins behind it.
_CUT_PAUSE_NS = 250 * NS_PER_MS
# Of its sound, until it was all said: how long an answer is, is known within the pauses at its ends.
_WHOLE = 0.9
# A service finds out that somebody speaks a second or so after our own detector; a pause within a turn is no longer.
_ONSET_WITHIN_NS = 2 * NS_PER_S


@dataclass(slots=True)
class _Answer:
    """What the avatar says, as the service tells of it, and as it sounds.

    asked_ns   session time at which the service began to tell.
    said       texts that are complete; current: the one that is not.
    sound_s    all of its sound, as far as the service has told; 0: it has not.
    begins_ns  session time of its first sound; None: none was heard.  ends_ns: of the last one so far.
    """

    asked_ns: int
    said: str = ""
    current: str = ""
    sound_s: float = 0.0
    is_done: bool = False
    is_cut: bool = False
    begins_ns: int | None = None
    ends_ns: int = 0
    decoder: OpusDecoder = field(default_factory=open_decoder)

    @property
    def text(self) -> str:
        return (self.said + self.current).strip()

    @property
    def lasts_s(self) -> float:
        """All of it, about."""
        return self.sound_s or len(self.text) / CHARACTERS_PER_S

    @property
    def sounded_s(self) -> float:
        return 0.0 if self.begins_ns is None else (self.ends_ns - self.begins_ns) / NS_PER_S

    @property
    def share(self) -> float:
        """How much of it has sounded, about: 1 is all."""
        return self.sounded_s / self.lasts_s if self.lasts_s else 1.0

    def add(self, text: str, *, is_complete: bool) -> None:
        if self.is_cut:
            return  # what its service still tells is not heard
        if is_complete:
            # An answer may have several texts.
            self.said, self.current = f"{self.said}{text or self.current} "[:MAX_CHARACTERS], ""
        else:
            self.current = (self.current + text)[: MAX_CHARACTERS - len(self.said)]

    def hear(self, unit: AccessUnit) -> None:
        """Sound of it, or silence, goes on air."""
        if not unit.arrival_ns:
            return  # silence that stands in
        try:
            sound = self.decoder.decode(unit.payload)
        except BrokenPacket:
            return
        if sounds(sound):
            self.begins_ns = unit.pts_ns if self.begins_ns is None else self.begins_ns
            self.ends_ns = unit.pts_ns + unit.duration_ns

    def is_over(self, now_ns: int, *, has_successor: bool) -> bool:
        """Whether no sound or word of it is to be expected any more."""
        if self.begins_ns is None:
            waits_ns = min(_UNHEARD_NS, round(self.lasts_s * NS_PER_S) + _PATIENCE_NS) if has_successor else _UNHEARD_NS
            return self.is_cut or now_ns - self.asked_ns > waits_ns
        silent_ns = now_ns - self.ends_ns
        if self.is_cut:
            return has_successor or silent_ns >= _CUT_PAUSE_NS
        if self.share < _WHOLE:
            return silent_ns > _PATIENCE_NS
        if has_successor:
            surplus_ns = (self.sounded_s - self.lasts_s) * NS_PER_S
            return max(silent_ns, surplus_ns) >= _CUT_PAUSE_NS
        is_told = self.is_done and not self.current and bool(self.said)
        return silent_ns > (_PAUSE_NS if is_told else _PATIENCE_NS)


@dataclass(slots=True)
class _Turn:
    """When the host speaks; is_heard: the service has said so. begins_ns None: not yet."""

    begins_ns: int | None = None
    ends_ns: int = 0
    is_heard: bool = False


class Transcript:
    """Puts together what the avatar's service tells, and when that sounds. Implements `ports.Transcript`.

    The words of an answer mostly come before it sounds: when it does is heard in what goes on air, which is decoded
    for this alone, while an answer is under way and somebody reads. What viewers did not hear is not said. A host's
    words come after they were spoken; when that was, is known from the voice detector of the inputs, and when viewers
    hear it, from the delay of the input.
    """

    def __init__(
        self, avatar: str, desk: Desk, origin_ns: int, *, now_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """`avatar`: what people call it.  `origin_ns`: when session time began."""
        self._avatar, self._desk, self._now_ns = avatar, desk, now_ns
        self._moment = Moment(origin_ns)
        self._n_readers = 0
        self._said: deque[Utterance] = deque(maxlen=_MOST_KEPT)
        self._n_said = 0
        self._coming: deque[Utterance] = deque(maxlen=_MOST_KEPT)  # told already, and viewers are still to hear it
        self._answers: deque[_Answer] = deque()
        self._turn, self._turn_before = _Turn(), _Turn()
        self._onsets = desk.onsets

    @contextmanager
    def read(self) -> Iterator["_Reader"]:
        self._n_readers += 1
        try:
            yield _Reader(self)
        finally:
            self._n_readers -= 1

    def since(self, number: int) -> tuple[int, Sequence[Utterance]]:
        """What was said to its end after so many utterances, and how many there are now."""
        n_new = min(self._n_said - number, len(self._said))
        return self._n_said, list(self._said)[len(self._said) - n_new :]

    def under_way(self) -> Sequence[Utterance]:
        """What has sounded so far of what is not at its end."""
        now_ns = self._session_ns()
        heard = (_until(said, now_ns) for said in self._coming if said.begins_ns < now_ns)
        answers = (self._utterance(answer, is_at_its_end=False) for answer in self._answers)
        return [*heard, *(utterance for utterance in answers if utterance is not None)]

    # ------------------------------------------------------------------------------------------ what the service tells

    def on_event(self, event: AvatarEvent) -> None:
        if not self._n_readers:
            self._answers.clear()
            return
        match event.kind:
            case "response_started":
                if self._answers and not self._answers[-1].is_done:
                    self._answers[-1].is_cut = True
                    self._settle(self._answers.pop())
                self._begin()
            case "avatar_transcript_delta" | "avatar_transcript" as kind:
                answer = self._answers[-1] if self._answers else self._begin()
                answer.add(event.text, is_complete=kind == "avatar_transcript")
            case "response_done" if self._answers:
                answer = self._answers[-1]
                answer.is_done, answer.sound_s = True, max(answer.sound_s, event.sound_s)
            case "speech_started":
                self._begin_turn()
            case "speech_stopped":
                now_ns = self._session_ns()
                self._turn_before = _Turn(self._turn.begins_ns, self._turn.ends_ns or now_ns)
                self._turn = _Turn()
            case "user_transcript":
                self._end_turn(event.text[:MAX_CHARACTERS])

    def cut(self) -> None:
        """The avatar stops speaking."""
        for answer in self._answers:
            answer.is_cut = True

    def _begin(self) -> _Answer:
        if len(self._answers) == _MOST_ANSWERS:
            self._settle(self._answers.popleft())
        self._answers.append(_Answer(self._session_ns()))
        return self._answers[-1]

    # ------------------------------------------------------------------------------------------ what sounds

    def on_unit(self, unit: AccessUnit) -> None:
        """A unit goes on air."""
        self._moment.follow(unit)
        if unit.codec.kind != "audio" or not self._n_readers:
            return
        self._hear_host()
        while self._coming and self._coming[0].ends_ns <= unit.pts_ns:
            self._say(self._coming.popleft())
        while self._answers:
            answer, has_successor = self._answers[0], len(self._answers) > 1
            if answer.is_over(unit.pts_ns, has_successor=has_successor):
                self._settle(self._answers.popleft())
            else:
                answer.hear(unit)
                return

    def _hear_host(self) -> None:
        ago_s, onsets = self._desk.voiced_s_ago, self._desk.onsets
        if ago_s is None:
            return
        voiced_ns = self._session_ns() - round(ago_s * NS_PER_S)
        turn = self._turn
        # A noise that the service did not take for speech begins no turn; a service that was sooner knows it less well.
        is_noise = not turn.is_heard and voiced_ns - turn.ends_ns > _ONSET_WITHIN_NS
        is_new = turn.begins_ns is None or not turn.ends_ns or is_noise
        if onsets != self._onsets and is_new:
            turn.begins_ns = voiced_ns - round(VoiceDetector.ONSET_S * NS_PER_S)
        self._onsets = onsets
        if turn.begins_ns is not None:
            turn.ends_ns = voiced_ns

    def _begin_turn(self) -> None:
        now_ns = self._session_ns()
        if self._turn.begins_ns is None or now_ns - self._turn.ends_ns > _ONSET_WITHIN_NS:
            self._turn = _Turn(now_ns)
        self._turn.is_heard = True

    def _end_turn(self, text: str) -> None:
        now_ns = self._session_ns()
        turn, self._turn_before = self._turn_before, _Turn()
        if turn.begins_ns is None:
            turn, self._turn = self._turn, _Turn()
        ends_ns, begins_ns = turn.ends_ns or now_ns, turn.begins_ns
        if begins_ns is None:  # nobody knows
            begins_ns = ends_ns - round(len(text) / CHARACTERS_PER_S * NS_PER_S)
        if text.strip():
            said = Utterance(speaker="host", name=HOST, text=text.strip(), begins_ns=begins_ns, ends_ns=ends_ns)
            if ends_ns > now_ns:
                self._coming.append(said)
            else:
                self._say(said)

    # ------------------------------------------------------------------------------------------ what was said

    def _settle(self, answer: _Answer) -> None:
        if (utterance := self._utterance(answer, is_at_its_end=not answer.is_cut)) is not None:
            self._say(utterance)

    def _utterance(self, answer: _Answer, *, is_at_its_end: bool) -> Utterance | None:
        text = answer.text
        is_cut = not is_at_its_end and answer.share < _WHOLE
        if is_cut:
            text = _beginning(text, answer.share)
        if answer.begins_ns is None or not text:
            return None
        return Utterance(
            speaker="avatar",
            name=self._avatar,
            text=text,
            begins_ns=answer.begins_ns,
            ends_ns=answer.ends_ns,
            is_cut=is_cut,
        )

    def _say(self, utterance: Utterance) -> None:
        self._said.append(utterance)
        self._n_said += 1

    def _session_ns(self) -> int:
        return self._moment.at(self._now_ns())


class _Reader:
    """Implements `ports.TranscriptReader`."""

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._n_read, _ = transcript.since(0)

    def new(self) -> Sequence[Utterance]:
        self._n_read, new = self._transcript.since(self._n_read)
        return new

    def rest(self) -> Sequence[Utterance]:
        return [*self.new(), *self._transcript.under_way()]


def _beginning(text: str, share: float) -> str:
    """So much of it, to the end of the word that is being said."""
    n_said = round(share * len(text))
    rest_of_word = re.match(r"\S*", text[n_said:])
    return text[:n_said] + (rest_of_word[0] if rest_of_word else "")


def _until(said: Utterance, now_ns: int) -> Utterance:
    share = (now_ns - said.begins_ns) / (said.ends_ns - said.begins_ns)
    return replace(said, text=_beginning(said.text, share), ends_ns=now_ns, is_cut=True)
