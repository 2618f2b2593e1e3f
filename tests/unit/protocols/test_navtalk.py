"""NavTalk v2: messages of the documents, what is refused, what an end means."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from bridge.errors import LocalProtocolError, RemoteProtocolError
from bridge.protocols import navtalk
from bridge.protocols.navtalk import End, Ended
from bridge.protocols.navtalk_json import dump, parse_event, parse_request

GOLDEN = [
    json.loads(line) for line in (Path(__file__).parents[2] / "golden" / "navtalk_v2.jsonl").read_text().splitlines()
]


def as_json(value: Any) -> Any:
    """A message as the golden file writes it: its name and those of its fields that are not at their default."""
    if not dataclasses.is_dataclass(value):
        return value.hex() if isinstance(value, bytes) else list(map(as_json, value)) if is_list(value) else value
    fields = {
        field.name: as_json(getattr(value, field.name))
        for field in dataclasses.fields(value)
        if getattr(value, field.name) != field.default
    }
    return {type(value).__name__: fields} if hasattr(value, "TYPE") else fields


def is_list(value: Any) -> bool:
    return isinstance(value, tuple | list)


def wire(message: navtalk.Event | navtalk.Request) -> dict[str, Any]:
    loaded = json.loads(dump(message))
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize("line", GOLDEN, ids=lambda line: f"{line['message']['type']}: {line['origin']}")
def test_every_documented_form_is_read(line: dict[str, Any]) -> None:
    parse = parse_event if line["from"] == "service" else parse_request
    assert as_json(parse(json.dumps(line["message"]))) == line["means"]


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
    navtalk.AvatarAudioDone(),
    navtalk.FunctionCall("c-1", "find", '{"a": 1}'),
    navtalk.Offer("v=0"),
    navtalk.Answer("v=0"),
    navtalk.Candidate("candidate:1", "0", 0),
]
REQUESTS = [
    navtalk.InputConfig("cedar", "Be kind.", ({"type": "function", "name": "find"},)),
    navtalk.HistoryItem("hello"),
    navtalk.AudioAppend(b"\x01\x02"),
    navtalk.AudioClear(),
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
        {"type": "realtime.response.audio.delta", "data": {"delta": "AA!="}},
        {"type": "realtime.response.audio.delta", "data": {"delta": "é"}},
        {"type": "realtime.response.audio.delta", "data": {"delta": "AAAA"}},
    ],
)
def test_a_known_message_without_what_it_is_for_breaks_the_protocol(message: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError, match=message["type"]):
        parse_event(json.dumps(message))


def test_a_configuration_that_is_no_json_text_breaks_the_protocol() -> None:
    with pytest.raises(RemoteProtocolError, match="input_config"):
        parse_request('{"type": "realtime.input_config", "data": {"content": "[object Object]"}}')


def test_half_a_surrogate_pair_becomes_text_that_can_be_sent() -> None:
    event = parse_event('{"type": "error", "message": "\\ud800"}')
    assert isinstance(event, navtalk.Failed)
    assert event.message.encode() == b"?"


def test_what_is_no_ice_server_is_left_out_of_the_list() -> None:
    servers = [5, None, {}, {"urls": 5}, {"urls": ["http://x", "stun:a"]}, "turn:b", {"url": "stuns:c"}]
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
    ],
)
def test_other_ends_pass_by_themselves(ended: Ended) -> None:
    assert not ended.is_permanent
