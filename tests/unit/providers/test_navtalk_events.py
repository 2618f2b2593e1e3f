from collections.abc import Sequence

from bridge.ports import AvatarEvent
from bridge.protocols import navtalk
from bridge.providers.navtalk_events import Conversation
from bridge.redact import Secret

HALF_A_SECOND = navtalk.AvatarAudio(bytes(24_000))


def read(*events: navtalk.Event) -> list[AvatarEvent]:
    conversation = Conversation()
    return [meaning for event in events for meaning in conversation.read(event)]


def kinds(events: Sequence[AvatarEvent]) -> list[str]:
    return [event.kind for event in events if event.kind != "other"]


def test_an_answer_begins_with_its_first_words_and_its_end_says_how_long_it_sounds() -> None:
    words = [navtalk.AvatarTranscriptDelta(word, "r1") for word in ("Good", " day")]
    events = read(words[0], HALF_A_SECOND, words[1], HALF_A_SECOND, navtalk.AvatarAudioDone())
    assert kinds(events) == [
        "response_started",
        "avatar_transcript_delta",
        "avatar_transcript_delta",
        "response_done",
    ]
    assert events[-1].sound_s == 1.0


def test_an_answer_begins_with_its_first_sound_where_that_comes_first() -> None:
    events = read(HALF_A_SECOND, navtalk.AvatarTranscriptDelta("Good", "r1"), navtalk.AvatarAudioDone())
    assert kinds(events) == ["response_started", "avatar_transcript_delta", "response_done"]
    assert events[-1].sound_s == 0.5


def test_a_service_that_sends_no_sound_beside_webrtc_leaves_the_length_unknown() -> None:
    assert read(navtalk.AvatarTranscriptDelta("Good"), navtalk.AvatarAudioDone())[-1].sound_s == 0.0


def test_each_answer_has_a_length_of_its_own() -> None:
    events = read(HALF_A_SECOND, HALF_A_SECOND, navtalk.AvatarAudioDone(), HALF_A_SECOND, navtalk.AvatarAudioDone())
    assert [event.sound_s for event in events if event.kind == "response_done"] == [1.0, 0.5]
    assert kinds(events) == ["response_started", "response_done"] * 2


def test_an_answer_without_end_does_not_count_into_the_next_turn() -> None:
    events = read(HALF_A_SECOND, navtalk.SpeechStarted(), navtalk.SpeechStopped(), HALF_A_SECOND)
    assert kinds(events) == ["response_started", "speech_started", "speech_stopped", "response_started"]
    assert read(HALF_A_SECOND, navtalk.SpeechStopped(), HALF_A_SECOND, navtalk.AvatarAudioDone())[-1].sound_s == 0.5


def test_words_of_another_answer_begin_it_though_the_one_before_has_no_end() -> None:
    events = read(
        navtalk.AvatarTranscriptDelta("Good", "r1"),
        HALF_A_SECOND,
        navtalk.AvatarTranscriptDelta("Well", "r2"),
        navtalk.AvatarAudioDone(),
    )
    assert kinds(events)[2] == "response_started"
    assert events[-1].sound_s == 0.0


def test_last_words_after_the_end_of_the_sound_begin_nothing() -> None:
    word = navtalk.AvatarTranscriptDelta("Good", "r1")
    assert kinds(read(word, navtalk.AvatarAudioDone(), word)).count("response_started") == 1


def test_words_are_passed_on_and_warnings_masked() -> None:
    Secret("sk_canary_123")
    events = read(
        navtalk.UserTranscript("Hello?"),
        navtalk.AvatarTranscript("Good day"),
        navtalk.Warned("sk_canary_123 expires"),
        navtalk.Unknown("x"),
    )
    assert [(event.kind, event.text) for event in events] == [
        ("user_transcript", "Hello?"),
        ("avatar_transcript", "Good day"),
        ("warning", "*** expires"),
        ("unknown", ""),
    ]
