"""What the avatar answers to what it hears, reads and sees, and in which order it says so."""

import base64
import io
import json

import av
import numpy as np
import pytest

from bridge.local_avatar.conversation import MAX_CALLS
from bridge.local_avatar.speech import MAX_CHARACTERS
from bridge.protocols import navtalk
from bridge.protocols.navtalk_json import dump
from tests.unit.local_avatar.scripted import (
    LEO,
    PAUSE,
    FakePerformer,
    FakeSocket,
    audio,
    no_media,  # noqa: F401  a fixture of this module
    serve,
    serving,
    settle,
    speech,
    spell,
)

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TOOLS = dump(navtalk.InputConfig(tools=(WEATHER,)))
RESPOND = dump(navtalk.ResponseCreate())


def text(words: str) -> str:
    return dump(navtalk.TextInput(words))


def spoken(socket: FakeSocket) -> list[str]:
    return [event.text for event in socket.got if isinstance(event, navtalk.AvatarTranscript)]


def picture(width_px: int = 64, height_px: int = 48) -> str:
    frame = av.VideoFrame.from_ndarray(np.full((height_px, width_px, 3), (20, 40, 220), np.uint8), format="rgb24")
    file = io.BytesIO()
    with av.open(file, "w", format="image2pipe") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "rgb24"
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


# ---------------------------------------------------------------------------------------------- sound


@pytest.mark.parametrize("query", ["audioBack=true", "model=transparency"])
async def test_a_mirror_says_what_it_is_sent_and_no_silence(query: str) -> None:
    await serve(f"{LEO}&{query}", audio(PAUSE + speech(0.5) + PAUSE + PAUSE))
    said_s = len(FakePerformer.made.said) / 48_000
    assert 0.5 < said_s < 1.2


async def test_a_turn_is_answered_by_repeating_it_in_the_order_of_the_documents() -> None:
    async with serving(audio(speech(1.0) + PAUSE)) as socket:
        kinds = [kind for kind in socket.got_types()[4:] if kind is not navtalk.AvatarTranscriptDelta]
        assert list(dict.fromkeys(kinds)) == [
            navtalk.SpeechStarted,
            navtalk.SpeechStopped,
            navtalk.UserTranscript,
            navtalk.AvatarTranscript,
            navtalk.AvatarAudio,
            navtalk.AvatarAudioDone,
        ]
        assert navtalk.UserTranscript("(speech, 1.0 s)") in socket.got
        assert spoken(socket) == ["(repeats speech, 1.0 s)"]
        sounds = [event.pcm16 for event in socket.got if isinstance(event, navtalk.AvatarAudio)]
        assert b"".join(sounds) == FakePerformer.made.said


async def test_the_face_listens_to_a_turn_and_thinks_before_the_answer() -> None:
    async with serving(audio(speech(1.0) + PAUSE)):
        did = [mood for mood in FakePerformer.made.did if mood != "stop_speaking"]
        assert did == ["idle", "listening", "idle", "thinking", "idle", "speak"]


async def test_somebody_who_speaks_again_interrupts_the_answer() -> None:
    async with serving(audio(speech(1.0) + PAUSE + speech(0.3))) as socket:
        assert FakePerformer.made.did[-3:] == ["stop_speaking", "idle", "listening"]
        assert socket.got_types().count(navtalk.SpeechStarted) == 2


async def test_an_answer_that_is_still_thought_of_is_never_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.local_avatar.conversation.THOUGHT_S", 3600.0)
    async with serving([*audio(speech(1.0) + PAUSE + speech(0.3)), text("Hello")]) as socket:
        assert spoken(socket) == ["Hello"]


async def test_a_client_may_interrupt_by_clearing() -> None:
    await serve(LEO, [dump(navtalk.AudioClear())])
    assert FakePerformer.made.did == ["stop_speaking", "idle"]


# ---------------------------------------------------------------------------------------------- texts


async def test_a_text_is_spoken_word_by_word() -> None:
    async with serving([text("Good  evening,\nladies ")]) as socket:
        deltas = [event for event in socket.got if isinstance(event, navtalk.AvatarTranscriptDelta)]
        assert [delta.text for delta in deltas] == ["Good", "  evening,", "\nladies"]
        assert {delta.response_id for delta in deltas} == {"response-1"}
        assert FakePerformer.made.said == await spell("Good  evening,\nladies")


async def test_a_mirror_speaks_texts_too() -> None:
    socket, _ = await serve(f"{LEO}&audioBack=true", [text("Hello"), *["{}"] * 5])
    assert spoken(socket) == ["Hello"]


async def test_a_text_without_words_is_answered_by_nothing() -> None:
    async with serving([text(" \n ")]) as socket:
        assert spoken(socket) == []


async def test_a_text_is_spoken_up_to_its_bound() -> None:
    async with serving([text("long " * MAX_CHARACTERS)]) as socket:
        assert len(spoken(socket)[0]) <= MAX_CHARACTERS


async def test_a_second_text_interrupts_the_first() -> None:
    async with serving([text("One"), text("Two")]):
        assert FakePerformer.made.did.count("stop_speaking") == 2


@pytest.mark.parametrize(
    ("sends", "answer"),
    [
        ([], "You have not said anything yet."),
        ([dump(navtalk.HistoryItem("I like tea")), dump(navtalk.HistoryItem("Not coffee"))], "You said: Not coffee"),
        ([dump(navtalk.HistoryItem("I like tea")), text("And cake")], "You said: And cake"),
    ],
)
async def test_what_was_said_is_remembered(sends: list[str], answer: str) -> None:
    async with serving([*sends, text("So, what did I say?")]) as socket:
        assert spoken(socket)[-1] == answer


async def test_a_request_without_a_question_is_greeted_by_name() -> None:
    socket, _ = await serve("license=x&avatarId=local-mia", [RESPOND, "{}"])
    assert spoken(socket) == ["Hello, I am Mia."]


# ---------------------------------------------------------------------------------------------- tools


@pytest.mark.parametrize("registered", [TOOLS, dump(navtalk.ToolList((WEATHER,)))], ids=["config", "list"])
async def test_a_tool_that_a_text_names_is_called_and_its_output_spoken(registered: str) -> None:
    async with serving([registered, text("Get weather, city Berlin")]) as socket:
        [call] = [event for event in socket.got if isinstance(event, navtalk.FunctionCall)]
        deltas = [event.text for event in socket.got if isinstance(event, navtalk.FunctionCallDelta)]
        assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Berlin"})
        assert "".join(deltas) == call.arguments and len(deltas) > 1
        assert spoken(socket) == []
        assert FakePerformer.made.did[-1] == "thinking"
        await socket.say(dump(navtalk.FunctionCallOutput(call.call_id, "It rains.")), RESPOND)
        assert spoken(socket) == ["It rains."]
        assert FakePerformer.made.did[-2:] == ["idle", "speak"]


async def test_an_output_that_nobody_asked_for_is_not_spoken() -> None:
    async with serving([dump(navtalk.FunctionCallOutput("call_7", "It rains.")), RESPOND]) as socket:
        assert spoken(socket) == ["Hello, I am Leo."]


async def test_a_request_to_go_on_without_the_output_says_what_is_missing() -> None:
    async with serving([TOOLS, text("get_weather"), RESPOND]) as socket:
        assert spoken(socket) == ["I am still waiting for get_weather."]


async def test_of_calls_that_are_never_answered_the_newest_are_kept() -> None:
    async with serving([TOOLS, *[text("get_weather")] * (MAX_CALLS + 3)]) as socket:
        calls = [event for event in socket.got if isinstance(event, navtalk.FunctionCall)]
        await socket.say(*(dump(navtalk.FunctionCallOutput(call.call_id, "rain")) for call in calls), RESPOND)
        assert spoken(socket) == [" ".join(["rain"] * MAX_CALLS)]


async def test_other_tools_replace_those_before_and_other_settings_do_not() -> None:
    keeps, forgets = dump(navtalk.InputConfig(voice="cedar")), dump(navtalk.InputConfig(tools=()))
    async with serving([TOOLS, keeps, text("get_weather"), forgets, text("get_weather")]) as socket:
        assert socket.got_types().count(navtalk.FunctionCall) == 1
        assert spoken(socket) == ["get_weather"]


# ---------------------------------------------------------------------------------------------- pictures


async def test_a_picture_that_wants_an_answer_is_described() -> None:
    async with serving([dump(navtalk.ImageInput(picture(), wants_answer=True))]) as socket:
        await socket.got_one(navtalk.AvatarAudioDone)
        assert spoken(socket) == ["I see a picture of 64 by 48 pixels, mostly blue."]


async def test_a_picture_without_a_question_is_told_of_in_the_next_answer_and_then_forgotten() -> None:
    async with serving([dump(navtalk.ImageInput(picture()))]) as socket:
        assert spoken(socket) == []
        await socket.say(text("Hello."))
        await socket.got_one(navtalk.AvatarAudioDone)
        await socket.say(text("Bye."))
        assert spoken(socket) == ["Hello. I see a picture of 64 by 48 pixels, mostly blue.", "Bye."]


async def test_a_picture_that_cannot_be_read_is_an_error_and_no_answer() -> None:
    async with serving([dump(navtalk.ImageInput("data:image/gif;base64,R0lG", wants_answer=True))]) as socket:
        await socket.got_one(navtalk.Failed)
        await settle()
        assert spoken(socket) == []
        await socket.say(text("Hello."))
        assert spoken(socket) == ["Hello."]
