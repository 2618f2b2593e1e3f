"""What a session with NavTalk makes of the service's events, and what it tells the avatar."""

import contextlib
import json
import time
from random import Random
from typing import Any

import pytest
import structlog

from bridge.errors import BridgeError, ProviderRejected, ProviderUnavailable, RemoteProtocolError
from bridge.ports import ToolCall
from bridge.protocols import navtalk
from bridge.protocols.navtalk import End, Ended
from bridge.protocols.navtalk_json import dump, parse_event
from bridge.providers import navtalk_session, navtalk_socket
from bridge.providers.navtalk_events import MAX_ARGUMENT_CHARACTERS, MAX_OPEN_CALLS
from bridge.providers.navtalk_knowledge import MAX_TOLD, Knowledge
from bridge.redact import Secret
from tests.fuzz.navtalk_messages import broken
from tests.golden.navtalk import LINES, Line
from tests.unit.providers.fakes import CONNECTED, CREATED, HAND_SHAKE, UPDATED, Scene, scene, settled

TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
STUN = navtalk.IceServer(("stun:from-service",))
CALL = "realtime.response.function_call_arguments.done"
CLEAR = "input_audio_buffer.clear"


def failure(scene: Scene) -> BridgeError:
    error = scene.task.exception()
    assert isinstance(error, BridgeError)
    return error


def is_end(text: str) -> bool:
    with contextlib.suppress(RemoteProtocolError):
        return isinstance(parse_event(text), Ended)
    return False


def logged_events(logged: list[Any]) -> list[str]:
    return [line["event"] for line in logged]


# ---------------------------------------------------------------------------------------------- events in any order


async def test_the_link_is_ready_once_whatever_comes_twice() -> None:
    async with scene() as it:
        await it.socket.say(UPDATED, UPDATED, CONNECTED, CREATED, CONNECTED, UPDATED)
        assert it.listener.links == [it.session]
        assert not it.task.done()


@pytest.mark.parametrize(
    "event",
    [
        navtalk.Ended(End.BACKEND_ERROR),
        navtalk.AvatarAudioDone(),
        navtalk.ResponseDone(),
        navtalk.Candidate("candidate:1 1 udp 1 127.0.0.1 1 typ host"),
        navtalk.Answer("v=0"),
        navtalk.Status(),
        navtalk.SpeechStopped(),
    ],
    ids=lambda event: type(event).__name__,
)
async def test_any_event_may_be_the_first(event: navtalk.Event) -> None:
    async with scene() as it:
        await it.socket.say(event)
        assert it.task.done() == isinstance(event, Ended)
        assert len(it.listener.events) == 1


async def test_when_the_service_will_end_the_session_is_told_and_told_anew() -> None:
    async with scene() as it:
        now_s = time.time()
        await it.socket.say(CONNECTED, navtalk.SessionCreated(now_s + 600), navtalk.SessionUpdated(now_s + 60), UPDATED)
        assert it.listener.limits_s == pytest.approx([600, 60], abs=2)


async def test_when_a_session_ends_is_told_by_the_services_clock() -> None:
    async with scene(date="Wed, 27 Aug 2025 20:00:32 GMT") as it:
        await it.socket.say(CONNECTED, navtalk.SessionCreated(1_756_324_832.0 + 60.0))
        assert it.listener.limits_s == pytest.approx([60], abs=2)


async def test_an_end_that_is_over_already_is_none_and_logged_once() -> None:
    with structlog.testing.capture_logs() as logged:
        async with scene() as it:
            await it.socket.say(CONNECTED, *[navtalk.SessionCreated(1_756_324_832.0)] * 2)
            assert it.listener.limits_s == [] and not it.task.done()
    assert logged_events(logged).count("avatar_service_limit_over") == 1


async def test_an_event_without_what_it_is_for_is_reported_each_time_and_logged_once() -> None:
    with structlog.testing.capture_logs() as logged:
        async with scene() as it:
            await it.socket.say(*HAND_SHAKE, *['{"type": "webrtc.signaling.offer", "data": {"sdp": null}}'] * 3)
            await it.socket.say('{"type": "realtime.response.audio.delta", "data": {"delta": "%"}}')
            assert not it.task.done()
            assert [event.type for event in it.listener.told("malformed")] == [
                *["webrtc.signaling.offer"] * 3,
                "realtime.response.audio.delta",
            ]
    assert logged_events(logged).count("avatar_service_event_malformed") == 2


@pytest.mark.parametrize("line", [line for line in LINES if line.from_service], ids=str)
async def test_no_broken_event_but_an_end_ends_a_session_that_has_media(line: Line) -> None:
    random = Random(str(line))
    async with scene() as it:
        await it.socket.say(*HAND_SHAKE, navtalk.Offer("room/1"))
        it.peers[0].connect("audio", "video")
        it.peers[0].carry("video")
        for _ in range(50):
            text = json.dumps(broken(line.message, random))
            if not is_end(text):
                await it.socket.say(text)
                assert not it.task.done(), text


async def test_unknown_events_are_reported_each_time_and_logged_once_per_name() -> None:
    knowledge = Knowledge()
    with structlog.testing.capture_logs() as logged:
        for _ in range(2):
            async with scene(knowledge=knowledge) as it:
                await it.socket.say('{"type": "realtime.rate_limits"}', b"\0", '{"type": "realtime.rate_limits"}', "no")
                assert [event.type for event in it.listener.told("unknown")] == [
                    "realtime.rate_limits",
                    "binary",
                    "realtime.rate_limits",
                    "unknown",
                ]
    told = [line["type"] for line in logged if line["event"] == "avatar_service_event_unknown"]
    assert told == ["realtime.rate_limits", "binary", "unknown"]


async def test_a_service_that_makes_up_types_fills_no_log_and_shows_no_secret() -> None:
    Secret("sk_canary_unit")
    with structlog.testing.capture_logs() as logged:
        async with scene() as it:
            for n in range(2 * MAX_TOLD):
                await it.socket.say(json.dumps({"type": f"sk_canary_unit {n} {'x' * 1000}"}))
            types = [event.type for event in it.listener.told("unknown")]
    assert len(types) == 2 * MAX_TOLD
    assert max(map(len, types)) == 80
    assert "canary" not in f"{types} {logged}"
    assert logged_events(logged).count("avatar_service_event_unknown") == MAX_TOLD


async def test_a_secret_where_a_long_type_is_cut_is_masked_before() -> None:
    Secret("sk_canary_" * 20)
    async with scene() as it:
        await it.socket.say(json.dumps({"type": f"x {'sk_canary_' * 20} y"}))
        assert [event.type for event in it.listener.told("unknown")] == ["x *** y"]


async def test_what_went_wrong_in_the_service_is_a_warning_and_the_session_goes_on() -> None:
    with structlog.testing.capture_logs() as logged:
        async with scene() as it:
            await it.socket.say(navtalk.Failed("rate limit of the model"))
            assert it.listener.told("warning")[0].text == "rate limit of the model"
            assert not it.task.done()
    assert "avatar_service_warning" in logged_events(logged)


# ---------------------------------------------------------------------------------------------- the hand-shake


async def test_tools_stand_in_the_configuration() -> None:
    async with scene(tools=(TOOL,), voice="cedar") as it:
        (config,) = it.socket.sent_of("realtime.input_config")
        assert json.loads(config["data"]["content"]) == {"voice": "cedar", "tools": [TOOL]}


async def test_history_is_sent_once_in_a_session() -> None:
    history = ["first"]
    async with scene(history) as it:
        history.append("said meanwhile")
        await it.socket.say(CREATED, CREATED)
        items = it.socket.sent_of("conversation.item.create")
        assert [item["item"]["content"][0]["text"] for item in items] == ["first", "said meanwhile"]


async def test_a_mirror_is_told_no_history() -> None:
    async with scene(["first"], role="speak") as it:
        await it.socket.say(CONNECTED, CREATED)
        with pytest.raises(ProviderRejected, match="history"):
            await it.session.remember("later")
        assert it.socket.sent == []


async def test_what_a_user_said_before_can_be_told_later_too() -> None:
    async with scene() as it:
        await it.socket.say(CREATED)
        await it.session.remember("My name is Ann.")
        (item,) = it.socket.sent_of("conversation.item.create")
        assert item["item"]["content"][0]["text"] == "My name is Ann."


async def test_that_no_ice_servers_are_named_is_said_once_per_provider() -> None:
    knowledge = Knowledge()
    with structlog.testing.capture_logs() as logged:
        for _ in range(2):
            async with scene(knowledge=knowledge) as it:
                await it.socket.say(CONNECTED, CONNECTED)
        async with scene(ice_servers=()) as it:
            await it.socket.say(CONNECTED)
    assert logged_events(logged).count("avatar_service_names_no_ice_servers") == 1


async def test_a_second_success_may_bring_ice_servers_and_never_takes_them_away() -> None:
    for events in ([CONNECTED, navtalk.Connected("s-1", (STUN,))], [navtalk.Connected("s-1", (STUN,)), CONNECTED]):
        async with scene() as it:
            await it.socket.say(*events, navtalk.Offer("room/1"))
            assert [server.urls for server in it.peers[0].ice_servers] == [STUN.urls]


# ---------------------------------------------------------------------------------------------- what the avatar is told


async def test_ice_servers_of_which_none_can_be_used_are_told_once_and_take_nothing_away() -> None:
    unusable = navtalk.Connected("s-1", (navtalk.IceServer(("turn:from-service?transport=sctp",)),))
    with structlog.testing.capture_logs() as logged:
        async with scene() as it:
            await it.socket.say(navtalk.Connected("s-1", (STUN,)), unusable, unusable, navtalk.Offer("room/1"))
            assert [server.urls for server in it.peers[0].ice_servers] == [STUN.urls]
    assert logged_events(logged).count("avatar_service_ice_servers_unusable") == 1


async def test_audio_for_a_mirror_is_tagged_with_its_stream_and_number() -> None:
    async with scene(role="speak") as it:
        await it.session.send_audio(bytes(2 * 2000))
        await it.session.send_audio(b"\0\0")
        sent = [message["data"] for message in it.socket.sent_of("realtime.input_audio_buffer.append")]
        assert [message["sequence"] for message in sent] == [0, 1, 2]
        assert len({message["streamId"] for message in sent}) == 1
    async with scene(role="speak") as other:
        await other.session.send_audio(b"\0\0")
        assert other.socket.sent[0]["data"]["streamId"] != sent[0]["streamId"]


async def test_audio_of_a_conversation_is_not_tagged() -> None:
    async with scene() as it:
        await it.session.send_audio(b"\0\0")
        assert it.socket.sent[0]["data"] == {"audio": "AAA="}


async def test_text_is_said_in_the_inferred_shape_or_in_the_operators() -> None:
    async with scene() as it:
        await it.session.say("Good day")
        assert it.socket.sent == [json.loads(dump(navtalk.TextInput("Good day")))]
    async with scene(shapes={"input_text": {"type": "x.text", "parts": [{"text": "{text}"}]}}) as it:
        await it.session.say('a "quoted" {text}')
        assert it.socket.sent == [{"type": "x.text", "parts": [{"text": 'a "quoted" {text}'}]}]


async def test_text_that_is_too_long_is_rejected_and_the_session_goes_on() -> None:
    async with scene() as it:
        await it.session.say("x" * navtalk_session.MAX_TEXT_CHARACTERS)
        with pytest.raises(ProviderRejected, match="32769"):
            await it.session.say("x" * (navtalk_session.MAX_TEXT_CHARACTERS + 1))
        assert len(it.socket.sent) == 1
        assert not it.task.done()


async def test_pictures_are_shown_in_the_inferred_shape_or_in_the_operators() -> None:
    async with scene() as it:
        await it.session.show(b"JPEG", "image/jpeg", wants_answer=True)
        data_url = "data:image/jpeg;base64,SlBFRw=="
        assert it.socket.sent == [json.loads(dump(navtalk.ImageInput(data_url, True)))]
    async with scene(shapes={"input_image": {"type": "x.image", "url": "{image}", "reply": "{reply}"}}) as it:
        await it.session.show(b"JPEG", "image/jpeg", wants_answer=False)
        assert it.socket.sent == [{"type": "x.image", "url": data_url, "reply": 0}]


@pytest.mark.parametrize(
    ("image", "media_type"),
    [(bytes(navtalk_session.MAX_IMAGE_BYTES + 1), "image/jpeg"), (b"x", "text/html"), (b"x", "image/png;base64,")],
    ids=["too large", "no picture", "no type"],
)
async def test_a_picture_that_cannot_be_shown_is_rejected(image: bytes, media_type: str) -> None:
    async with scene() as it:
        with pytest.raises(ProviderRejected):
            await it.session.show(image, media_type, wants_answer=False)
        assert it.socket.sent == []


async def test_an_interruption_clears_what_the_service_has_not_spoken() -> None:
    for role in ("conversation", "speak"):
        async with scene(role=role) as it:
            await it.session.interrupt()
            assert [message["type"] for message in it.socket.sent] == [CLEAR]


async def test_a_mirror_refuses_what_only_a_model_can_do() -> None:
    async with scene(role="speak") as it:
        for verb in (
            it.session.say("Good day"),
            it.session.show(b"x", "image/png", wants_answer=True),
            it.session.answer_tool("call_1", "sunny"),
        ):
            with pytest.raises(ProviderRejected, match="in the role speak"):
                await verb
        assert it.socket.sent == []


# ---------------------------------------------------------------------------------------------- tools


async def test_a_tool_call_is_passed_on_and_answered_with_its_output_and_a_response() -> None:
    async with scene() as it:
        await it.socket.say(navtalk.FunctionCall("call_1", "weather", '{"city": "Oslo"}'))
        assert it.listener.calls == [ToolCall("call_1", "weather", '{"city": "Oslo"}')]
        assert [event.type for event in it.listener.told("tool_call")] == [CALL]
        await it.session.answer_tool("call_1", "sunny")
        assert it.socket.sent == [
            json.loads(dump(navtalk.FunctionCallOutput("call_1", "sunny"))),
            json.loads(dump(navtalk.ResponseCreate())),
        ]


async def test_a_call_without_arguments_has_those_of_its_pieces() -> None:
    pieces = [navtalk.FunctionCallDelta("call_1", '{"ci'), navtalk.FunctionCallDelta("call_2", "x")]
    async with scene() as it:
        await it.socket.say(*pieces, navtalk.FunctionCallDelta("call_1", 'ty": 1}'))
        await it.socket.say(
            navtalk.FunctionCall("call_1", "weather", ""), navtalk.FunctionCall("call_1", "weather", "")
        )
        assert [call.arguments for call in it.listener.calls] == ['{"city": 1}', "{}"]


async def test_whole_arguments_win_over_pieces() -> None:
    async with scene() as it:
        await it.socket.say(navtalk.FunctionCallDelta("call_1", '{"a'), navtalk.FunctionCall("call_1", "f", '{"b": 1}'))
        assert it.listener.calls[0].arguments == '{"b": 1}'


async def test_pieces_are_bounded() -> None:
    piece = "x" * (MAX_ARGUMENT_CHARACTERS // 2)
    async with scene() as it:
        await it.socket.say(*[navtalk.FunctionCallDelta("call_1", piece)] * 3, navtalk.FunctionCall("call_1", "f", ""))
        assert it.listener.calls == []
        assert it.listener.told("tool_call") == []
        assert [event.type for event in it.listener.told("malformed")] == [CALL]
        calls = [f"call {n}" for n in range(MAX_OPEN_CALLS + 1)]
        await it.socket.say(*[navtalk.FunctionCallDelta(call, '"x"') for call in calls])
        await it.socket.say(*[navtalk.FunctionCall(call, "f", "") for call in calls])
        assert [call.arguments for call in it.listener.calls] == ["{}", *['"x"'] * MAX_OPEN_CALLS]


async def test_a_call_that_cannot_be_answered_is_malformed() -> None:
    async with scene() as it:
        await it.socket.say(json.dumps({"type": CALL, "data": {"name": "weather", "arguments": "{}"}}))
        assert it.listener.calls == []
        assert [event.type for event in it.listener.told("malformed")] == [CALL]


# ---------------------------------------------------------------------------------------------- ends


@pytest.mark.parametrize(
    ("ended", "kind", "reason"),
    [
        (Ended(End.FAIL, "Invalid license key"), ProviderRejected, "fail"),
        (Ended(End.FAIL, "Avatar not found"), ProviderRejected, "fail"),
        (Ended(End.FAIL, "connection timed out"), ProviderUnavailable, "fail"),
        (Ended(End.INSUFFICIENT_BALANCE), ProviderRejected, "insufficient_balance"),
        (Ended(End.CLOSE, "Insufficient points"), ProviderRejected, "insufficient_balance"),
        (Ended(End.GPU_FULL), ProviderUnavailable, "gpu_full"),
        (Ended(End.CONNECTION_LIMIT_EXCEEDED, "at most 5"), ProviderUnavailable, "connection_limit_exceeded"),
        (Ended(End.BACKEND_ERROR), ProviderUnavailable, "backend_error"),
        (Ended(End.CLOSE), ProviderUnavailable, "close"),
    ],
    ids=lambda value: str(value.end) if isinstance(value, Ended) else "",
)
async def test_an_end_is_told_before_it_is_raised(ended: Ended, kind: type[BridgeError], reason: str) -> None:
    async with scene() as it:
        await it.socket.say(*HAND_SHAKE, ended)
        assert type(failure(it)) is kind
        assert failure(it).reason == reason
        assert [(event.type, event.text) for event in it.listener.told("ended")] == [(reason, ended.message)]


@pytest.mark.parametrize(
    ("code", "words", "kind", "reason"),
    [
        (1000, "Insufficient points", ProviderRejected, "insufficient_balance"),
        (1011, "Insufficient points", ProviderRejected, "insufficient_balance"),
        (1000, "", ProviderUnavailable, "disconnected"),
        (1011, "bug", ProviderUnavailable, "disconnected"),
    ],
)
async def test_a_close_ends_as_its_words_say_whatever_its_code(
    code: int, words: str, kind: type[BridgeError], reason: str
) -> None:
    async with scene() as it:
        await it.socket.say(*HAND_SHAKE)
        await it.socket.close(code, words)
        assert type(failure(it)) is kind
        assert failure(it).reason == reason
        assert [(event.type, event.text) for event in it.listener.told("ended")] == [(reason, words)]


async def test_a_message_of_ours_that_was_too_long_is_named() -> None:
    async with scene() as it:
        await it.socket.say(*HAND_SHAKE)
        await it.socket.close(1009, "over 2 MiB")
        assert isinstance(failure(it), ProviderUnavailable)
        assert "our message was too long for the service: over 2 MiB" in str(failure(it))


async def test_how_long_a_service_has_not_read_includes_what_large_messages_are_granted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A deadline in the past, so that nobody waits for it.
    monkeypatch.setattr(navtalk_socket, "SEND_TIMEOUT_S", -30.0)
    async with scene() as it:
        it.socket.n_unread_bytes = 23 * navtalk_socket.SLOWEST_BYTES_PER_S
        with pytest.raises(ProviderUnavailable, match="stopped reading for -7 s"):
            await it.session.say("x")
        await settled()
        assert "stopped reading for -7 s" in str(failure(it))


async def test_an_end_that_waits_behind_what_the_session_sends_decides() -> None:
    async with scene(["said before"]) as it:
        await it.socket.say(CONNECTED)
        it.socket.refuse(1000)
        # The history cannot be sent any more.
        await it.socket.say(CREATED, Ended(End.GPU_FULL, "busy"))
        assert failure(it).reason == "gpu_full"
        assert [(event.type, event.text) for event in it.listener.told("ended")] == [("gpu_full", "busy")]


async def test_an_end_that_the_bridge_runs_into_first_is_still_told_as_what_it_is() -> None:
    async with scene() as it:
        await it.socket.say(*HAND_SHAKE)
        it.socket.refuse(1000)
        with pytest.raises(ProviderUnavailable, match="the connection is gone"):
            await it.session.send_audio(bytes(960))
        assert not it.task.done()
        await it.socket.say(Ended(End.GPU_FULL, "busy"))
        assert failure(it).reason == "gpu_full"
        assert [event.type for event in it.listener.told("ended")] == ["gpu_full"]


async def test_the_end_is_told_without_secrets() -> None:
    Secret("sk_canary_unit")
    async with scene() as it:
        await it.socket.say(Ended(End.FAIL, "Invalid license key sk_canary_unit"))
        assert it.listener.told("ended")[0].text == "Invalid license key ***"


async def test_a_hand_shake_that_does_not_go_on_says_so_in_its_reason() -> None:
    async with scene(step_s=0.0) as it:
        assert isinstance(failure(it), ProviderUnavailable)
        assert failure(it).reason == "handshake"
        assert it.listener.events == []
