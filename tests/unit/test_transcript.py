"""What is written down: who said it, and when it sounded."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from bridge.media.access_unit import AccessUnit
from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.media.opus import SILENCE_20_MS
from bridge.ports import AvatarEvent
from bridge.transcript import Transcript
from tests.unit.dsp.voices import silence, voice
from tests.unit.test_hush import packets

SPOKEN = voice()[:24_000]  # a second
WORDS = "Good evening, here is the news."


class FakeDesk:
    """voiced_s_ago, onsets: as the inputs' detectors have it."""

    voiced_s_ago: float | None = None
    onsets = 0


class Programme:
    """A transcript, its reader, and what goes on air: session time is the clock's."""

    def __init__(self) -> None:
        self.desk = FakeDesk()
        self.now_ns = 0
        self.transcript = Transcript("leo", self.desk, 0, now_ns=lambda: self.now_ns)  # type: ignore[arg-type]
        self._reading = self.transcript.read()
        self.reader = self._reading.__enter__()

    def tell(self, *events: tuple[str, str] | str, sound_s: float = 0.0) -> None:
        for event in events:
            kind, text = (event, "") if isinstance(event, str) else event
            self.transcript.on_event(AvatarEvent(kind, kind, text, sound_s))  # type: ignore[arg-type]

    def air(self, *sounds: np.ndarray) -> None:
        self.put(packets(np.concatenate(sounds)))

    def put(self, units: Iterable[AccessUnit]) -> None:
        start_ns = self.now_ns
        for unit in units:
            pts_ns = start_ns + unit.pts_ns
            self.now_ns = pts_ns + unit.duration_ns
            self.transcript.on_unit(replace(unit, pts_ns=pts_ns, arrival_ns=unit.arrival_ns and self.now_ns))

    def wait(self, duration_s: float) -> None:
        """Silence stands in."""
        count = round(duration_s * 50)
        self.put(AccessUnit(SILENCE.codec, SILENCE_20_MS, n * 20 * NS_PER_MS, 20 * NS_PER_MS) for n in range(count))

    def said(self) -> list[tuple[str, str, float, float, bool]]:
        return [
            (said.speaker, said.text, said.begins_ns / NS_PER_S, said.ends_ns / NS_PER_S, said.is_cut)
            for said in self.reader.new()
        ]


SILENCE = packets(silence(0.1))[0]


def near(time_s: float) -> object:
    return pytest.approx(time_s, abs=0.07)


def answered(programme: Programme, words: str = WORDS, sound_s: float = 1.0) -> None:
    deltas = [("avatar_transcript_delta", f"{word} ") for word in words.split()]
    programme.tell("response_started", *deltas, ("avatar_transcript", words))
    programme.tell("response_done", sound_s=sound_s)


def test_an_answer_lies_where_it_sounds_and_not_where_it_was_told() -> None:
    programme = Programme()
    answered(programme)
    programme.air(silence(0.7), SPOKEN, silence(1.5))
    assert programme.said() == [("avatar", WORDS, near(0.7), near(1.7), False)]


def test_an_answer_is_one_however_it_pauses() -> None:
    programme = Programme()
    answered(programme, sound_s=3.2)
    programme.air(SPOKEN, silence(1.2), SPOKEN, silence(1.5))
    assert programme.said() == [("avatar", WORDS, near(0), near(3.2), False)]


def test_what_nobody_heard_was_not_said() -> None:
    programme = Programme()
    answered(programme)
    programme.wait(20)
    answered(programme, "Now you hear me.")
    programme.air(SPOKEN, silence(1.5))
    assert [text for _, text, *_ in programme.said()] == ["Now you hear me."]


def test_an_answer_that_is_generated_while_another_sounds_comes_after_it() -> None:
    programme = Programme()
    answered(programme, "Let me look.", sound_s=0.97)
    answered(programme, "It rains.", sound_s=1.0)
    programme.air(SPOKEN, silence(0.3), SPOKEN, silence(1.5))
    assert programme.said() == [
        ("avatar", "Let me look.", near(0), near(1.0), False),
        ("avatar", "It rains.", near(1.3), near(2.3), False),
    ]


def test_words_that_come_late_are_waited_for() -> None:
    programme = Programme()
    programme.tell("response_started", ("avatar_transcript_delta", "Good "))
    programme.tell("response_done", sound_s=1.0)
    programme.air(SPOKEN, silence(2.0))
    programme.tell(("avatar_transcript", "Good evening."))
    programme.wait(0.1)
    assert programme.said() == [("avatar", "Good evening.", near(0), near(1), False)]


def test_of_an_interrupted_answer_only_what_was_said_is_written() -> None:
    programme = Programme()
    answered(programme, "one two three four five six seven eight", sound_s=4.0)
    programme.air(SPOKEN)
    programme.transcript.cut()
    programme.tell(("avatar_transcript_delta", " nine"))
    programme.air(silence(0.5))
    ((_, text, begins_s, ends_s, is_cut),) = programme.said()
    assert text in ("one two", "one two three")
    assert (begins_s, ends_s, is_cut) == (near(0), near(1), True)


def test_the_end_of_a_recording_has_what_has_sounded() -> None:
    programme = Programme()
    answered(programme, "one two three four five six seven eight", sound_s=4.0)
    programme.air(SPOKEN)
    assert not programme.said()
    (said,) = programme.reader.rest()
    assert said.is_cut
    assert said.text.startswith("one two")
    assert not said.text.endswith("eight")


def test_a_host_is_written_where_the_voice_was_though_the_words_come_later() -> None:
    programme = Programme()
    programme.wait(1.0)
    programme.desk.onsets, programme.desk.voiced_s_ago = 1, 0.0
    programme.wait(1.5)
    programme.tell("speech_started")
    programme.wait(0.5)
    for ago in range(25):  # the detector's hang-over
        programme.desk.voiced_s_ago = ago * 0.02
        programme.wait(0.02)
    programme.desk.voiced_s_ago = None
    programme.tell("speech_stopped")
    programme.wait(2.0)
    programme.tell(("user_transcript", " What time is it? "))
    assert programme.said() == [("host", "What time is it?", near(0.92), near(3.0), False)]


def test_a_host_whom_viewers_hear_later_is_written_where_they_do() -> None:
    programme = Programme()
    programme.wait(1.0)
    programme.desk.onsets, programme.desk.voiced_s_ago = 1, -4.0
    programme.wait(2.0)
    programme.desk.voiced_s_ago = None
    programme.tell("speech_started", "speech_stopped", ("user_transcript", "What time is it?"))
    programme.wait(1.0)
    assert programme.said() == []
    programme.wait(2.0)
    (so_far,) = programme.reader.rest()
    assert (so_far.text, so_far.ends_ns / NS_PER_S, so_far.is_cut) == ("What time", near(6.0), True)
    programme.wait(2.0)
    assert programme.said() == [("host", "What time is it?", near(4.92), near(7.0), False)]


def test_where_the_service_is_sooner_the_detector_knows_better() -> None:
    programme = Programme()
    programme.wait(1.0)
    programme.tell("speech_started")
    programme.wait(0.1)
    programme.desk.onsets, programme.desk.voiced_s_ago = 1, -4.0
    programme.wait(1.0)
    programme.desk.voiced_s_ago = None
    programme.tell("speech_stopped", ("user_transcript", "Hello"))
    programme.wait(5.0)
    assert programme.said() == [("host", "Hello", near(5.02), near(6.1), False)]


def test_a_noise_that_the_service_does_not_take_for_speech_begins_no_turn() -> None:
    programme = Programme()
    programme.desk.onsets, programme.desk.voiced_s_ago = 1, 0.0
    programme.wait(0.2)
    programme.desk.voiced_s_ago = None
    programme.wait(5.0)
    programme.desk.onsets, programme.desk.voiced_s_ago = 2, 0.0
    programme.wait(1.0)
    programme.tell("speech_started", "speech_stopped", ("user_transcript", "Hello"))
    assert programme.said() == [("host", "Hello", near(5.12), near(6.2), False)]


def test_without_a_detector_the_service_says_when_a_host_spoke() -> None:
    programme = Programme()
    programme.wait(1.0)
    programme.tell("speech_started")
    programme.wait(2.0)
    programme.tell("speech_stopped")
    programme.wait(1.0)
    programme.tell(("user_transcript", "Hello"))
    assert programme.said() == [("host", "Hello", near(1), near(3), False)]


def test_who_comes_later_reads_what_is_said_later() -> None:
    programme = Programme()
    answered(programme)
    programme.air(SPOKEN, silence(1.5))
    with programme.transcript.read() as second:
        assert not second.new()
        answered(programme, "Goodbye.")
        programme.air(SPOKEN, silence(1.5))
        assert [said.text for said in second.new()] == ["Goodbye."]
    assert [text for _, text, *_ in programme.said()] == [WORDS, "Goodbye."]
