"""NavTalk v2: messages of the documents, what is refused, what an end means."""

import json
from types import UnionType
from typing import Any

import pytest

from bridge.errors import LocalProtocolError, RemoteProtocolError
from bridge.protocols import navtalk
from bridge.protocols.navtalk import End, Ended
from bridge.protocols.navtalk_json import dump, fill_shape, parse_event, parse_request
from tests.golden.navtalk import LINES, Line, as_json


def wire(message: navtalk.Event | navtalk.Request) -> dict[str, Any]:
    loaded = json.loads(dump(message))
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize("line", LINES, ids=str)
def test_every_documented_form_is_read(line: Line) -> None:
    assert as_json(line.parse(line.message)) == line.means


@pytest.mark.parametrize("line", [line for line in LINES if line.is_ours], ids=str)
def test_every_form_that_is_ours_is_written(line: Line) -> None:
    assert wire(line.parse(line.message)) == line.message


def test_every_message_is_documented_and_has_a_form_that_is_ours() -> None:
    def names(union: UnionType) -> set[str]:
        return {message.__name__ for message in union.__args__} - {"Unknown"}

    for from_service, union in ((True, navtalk.Event), (False, navtalk.Request)):
        ours = {name for line in LINES if line.from_service is from_service if line.is_ours for name in line.means}
        assert names(union) == ours - {"Unknown"}


EVENTS = [
    navtalk.Connected("s-1", (navtalk.IceServer(("turn:a:1",), "u", "c"), navtalk.IceServer(("stun:b:2",)))),
    navtalk.Warned("two of this name", "a-1"),
    *[Ended(end, "why") for end in End if end is not End.DISCONNECTED],
    navtalk.SessionCreated(),
    navtalk.SessionUpdated(),
    navtalk.SpeechStarted(),
    navtalk.SpeechStopped(),
    navtalk.UserTranscript("grüß Gott"),
    navtalk.AvatarTranscriptDelta("good ", "r-1"),
    navtalk.AvatarTranscript("good day", "r-1"),
    navtalk.AvatarAudio(b"\x01\x02"),
    navtalk.AvatarAudio(b""),
    navtalk.AvatarAudioDone(),
    navtalk.ResponseDone(),
    navtalk.FunctionCallDelta("c-1", '{"a'),
    navtalk.Failed("try again"),
    navtalk.Status(),
    navtalk.Unknown("realtime.rate_limits"),
    navtalk.FunctionCall("c-1", "find", '{"a": 1}'),
    navtalk.Offer("v=0"),
    navtalk.Answer("v=0"),
    navtalk.Candidate("candidate:1", "0", 0),
]
REQUESTS = [
    navtalk.InputConfig("cedar", "Be kind.", ({"type": "function", "name": "find"},)),
    navtalk.InputConfig(),
    navtalk.InputConfig(prompt="", tools=()),
    navtalk.ToolList(({"type": "function", "name": "find"},)),
    navtalk.HistoryItem("hello"),
    navtalk.AudioAppend(b"\x01\x02"),
    navtalk.AudioAppend(b"\x01\x02", tag=navtalk.AudioBackTag("st-1", 0)),
    navtalk.AudioClear(),
    navtalk.TextInput("grüß Gott"),
    navtalk.ImageInput("data:image/png;base64,AAAA", wants_answer=True),
    navtalk.ImageInput("data:image/png;base64,AAAA"),
    navtalk.FunctionCallOutput("c-1", ""),
    navtalk.ResponseCreate(),
    navtalk.Offer("v=0"),
    navtalk.Answer("v=0"),
    navtalk.Candidate("candidate:1", "0", 0),
]


@pytest.mark.parametrize("event", EVENTS, ids=repr)
def test_a_client_reads_what_a_service_writes(event: navtalk.Event) -> None:
    assert parse_event(dump(event)) == event


@pytest.mark.parametrize("request_", REQUESTS, ids=repr)
def test_a_service_reads_what_a_client_writes(request_: navtalk.Request) -> None:
    assert parse_request(dump(request_)) == request_


# ---------------------------------------------------------------------------------------------- writing


def test_the_configuration_is_json_text_with_only_the_keys_that_are_set() -> None:
    message = wire(navtalk.InputConfig(prompt="Be kind."))
    assert json.loads(message["data"]["content"]) == {"prompt": "Be kind."}


def test_an_offer_is_written_as_the_page_of_the_vendor_reads_it() -> None:
    assert wire(navtalk.Offer("v=0")) == {
        "type": "webrtc.signaling.offer",
        "data": {"sdp": {"type": "offer", "sdp": "v=0"}},
    }


def test_the_longest_audio_message_has_4096_characters_of_base64() -> None:
    message = wire(navtalk.AudioAppend(bytes(2 * navtalk.BUFFERED_SAMPLES)))
    assert len(message["data"]["audio"]) == 4096


def test_transparent_audio_is_flat_and_has_no_prefix() -> None:
    message = wire(navtalk.AudioAppend(b"\0\0", is_bare=True))
    assert message == {"type": "input_audio_buffer.append", "audio": "AAA="}


def test_audio_of_a_mirroring_session_is_tagged_inside_and_outside() -> None:
    message = wire(navtalk.AudioAppend(b"\0\0", tag=navtalk.AudioBackTag("st-1", 7)))
    names = {"messageId": "st-1-7", "traceId": "st-1"}
    assert message == {"type": "realtime.input_audio_buffer.append", "data": message["data"]} | names
    assert message["data"].items() >= names.items()
    assert message["data"]["source"] == "user"


def test_a_message_of_the_raw_kind_has_no_wrapping() -> None:
    assert wire(navtalk.ResponseCreate()) == {"type": "response.create"}
    assert wire(navtalk.AudioClear()) == {"type": "input_audio_buffer.clear"}


def test_an_operator_s_shape_takes_values_of_their_own_type_at_any_depth() -> None:
    shape = {
        "type": "realtime.input_image",
        "data": {"parts": ["{image}", {"now": "{reply}", "n": 3}], "text": "{text}"},
    }
    filled = json.loads(fill_shape(shape, {"image": "data:,", "reply": 1, "text": 'a "{reply}"'}))
    assert filled == {
        "type": "realtime.input_image",
        "data": {"parts": ["data:,", {"now": 1, "n": 3}], "text": 'a "{reply}"'},
    }


def test_text_around_braces_and_unknown_names_stay_in_a_shape() -> None:
    assert json.loads(fill_shape({"a": "x {text}", "b": "{other}"}, {"text": "t"})) == {"a": "x {text}", "b": "{other}"}


@pytest.mark.parametrize("n_bytes", [1, 959, 2 * navtalk.BUFFERED_SAMPLES + 2])
def test_audio_that_is_cut_within_a_sample_or_too_long_is_not_sent(n_bytes: int) -> None:
    with pytest.raises(LocalProtocolError, match="whole samples"):
        dump(navtalk.AudioAppend(bytes(n_bytes)))


# ---------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("text", ["", "[object Object]", "[]", "null", "1", '{"type": 5}', "{}", "[" * 100_000])
def test_a_frame_that_is_no_typed_json_object_is_unknown(text: str) -> None:
    assert parse_event(text) == parse_request(text) == navtalk.Unknown()


def test_an_unknown_type_keeps_its_name() -> None:
    assert parse_event('{"type": "realtime.rate_limits"}') == navtalk.Unknown("realtime.rate_limits")


@pytest.mark.parametrize(
    "message",
    [
        {"type": "webrtc.signaling.offer"},
        {"type": "webrtc.signaling.offer", "data": {"sdp": {"type": "offer"}}},
        {"type": "webrtc.signaling.offer", "data": {"sdp": 7}},
        {"type": "webrtc.signaling.answer", "data": {"sdp": ""}},
        {"type": "webrtc.signaling.iceCandidate"},
        {"type": "webrtc.signaling.iceCandidate", "data": {"candidate": 7}},
        {"type": "webrtc.signaling.iceCandidate", "data": {"candidate": {"sdpMid": "0"}}},
        {"type": "realtime.response.audio.delta"},
        {"type": "realtime.response.audio.delta", "data": {"delta": "AA!="}},
        {"type": "realtime.response.audio.delta", "data": {"delta": "é"}},
        {"type": "realtime.response.audio.delta", "data": {"delta": "AAAA"}},
        {"type": "realtime.response.audio_transcript.delta", "data": {"content": ["good "]}},
        {"type": "realtime.response.audio_transcript.done"},
        {"type": "realtime.conversation.item.input_audio_transcription.completed", "data": {}},
        {"type": "realtime.response.function_call_arguments.done", "data": {"name": "find"}},
        {"type": "realtime.response.function_call_arguments.delta", "data": {"call_id": "call_1"}},
    ],
    ids=json.dumps,
)
def test_an_event_without_what_it_is_for_breaks_the_protocol(message: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError, match=message["type"]):
        parse_event(json.dumps(message))


@pytest.mark.parametrize(
    "message",
    [
        {"type": "realtime.input_config", "data": {"content": "[object Object]"}},
        {"type": "realtime.input_function_call", "data": {"content": "{}"}},
        {"type": "realtime.input_audio_buffer.append", "data": {}},
        {"type": "realtime.input_text", "data": {"content": {}}},
        {"type": "realtime.input_image", "data": {"content": "", "reply": 1}},
        {"type": "conversation.item.create"},
        {"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": []}},
        {"type": "conversation.item.create", "item": {"type": "function_call_output", "call_id": "call_1"}},
        {"type": "conversation.item.create", "item": {"type": "function_call_output", "output": "4"}},
    ],
    ids=json.dumps,
)
def test_a_request_without_what_it_is_for_breaks_the_protocol(message: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError, match=message["type"]):
        parse_request(json.dumps(message))


def test_an_error_says_nothing_of_what_was_inside() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse_request('{"type": "realtime.input_config", "data": {"content": "hunter2", "hunter2": 1}}')
    assert str(caught.value) == "realtime.input_config holds no content"


def test_a_type_of_any_length_leaves_a_short_name() -> None:
    assert parse_event(json.dumps({"type": "x" * 10_000})) == navtalk.Unknown("x" * 4096)


def test_half_a_surrogate_pair_becomes_text_that_can_be_sent() -> None:
    event = parse_event('{"type": "error", "message": "\\ud800"}')
    assert isinstance(event, navtalk.Failed)
    assert event.message.encode() == b"?"


def test_what_is_no_ice_server_is_left_out_of_the_list() -> None:
    servers = [5, None, {}, {"urls": 5}, {"urls": ["http://x", "stun:a b", "stun:a"]}, "turn:b", {"url": "stuns:c"}]
    event = parse_event(json.dumps({"type": "conversation.connected.success", "data": {"iceServers": servers}}))
    assert isinstance(event, navtalk.Connected)
    assert [server.urls for server in event.ice_servers] == [("stun:a",), ("turn:b",), ("stuns:c",)]


def test_a_list_of_ice_servers_may_be_json_text_and_is_bounded() -> None:
    text = json.dumps([{"urls": f"stun:host-{n}"} for n in range(100)])
    event = parse_event(json.dumps({"type": "conversation.connected.success", "data": {"iceServers": text}}))
    assert isinstance(event, navtalk.Connected)
    assert len(event.ice_servers) == 16


def test_the_credential_of_an_ice_server_is_not_shown() -> None:
    assert "hunter2" not in repr(navtalk.IceServer(("turn:a",), "u", "hunter2"))


# ---------------------------------------------------------------------------------------------- ends


@pytest.mark.parametrize(
    "ended",
    [
        Ended(End.FAIL, "Invalid license key"),
        Ended(End.FAIL, "Avatar not found"),
        Ended(End.FAIL),
        Ended(End.INSUFFICIENT_BALANCE),
        Ended(End.CLOSE, "Insufficient points"),
        Ended(End.DISCONNECTED, "Insufficient points"),
        Ended(End.DISCONNECTED, "invalid license"),
        Ended(End.CLOSE, "insufficient_balance"),
        Ended(End.CLOSE, "INSUFFICIENT  POINTS"),
        Ended(End.DISCONNECTED, "The licence sk_*** is invalid."),
        Ended(End.BACKEND_ERROR, "License key invalid"),
    ],
)
def test_ends_that_only_the_operator_can_change_are_permanent(ended: Ended) -> None:
    assert ended.is_permanent


@pytest.mark.parametrize(
    "ended",
    [
        Ended(End.GPU_FULL, "try later"),
        Ended(End.CONNECTION_LIMIT_EXCEEDED, "5 connections"),
        Ended(End.BACKEND_ERROR),
        Ended(End.CLOSE),
        Ended(End.DISCONNECTED),
        Ended(End.FAIL, "Connection timeout"),
        Ended(End.BACKEND_ERROR, "licence server: no valid answer"),
    ],
)
def test_other_ends_pass_by_themselves(ended: Ended) -> None:
    assert not ended.is_permanent
