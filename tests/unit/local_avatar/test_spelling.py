"""Every way of writing an event says the same, and by default it is the vendor's own."""

import json

import pytest

from bridge.local_avatar.faults import FAULTS, Fault, Faults
from bridge.local_avatar.spelling import Spelling
from bridge.protocols import navtalk
from bridge.protocols.navtalk_json import dump, parse_event

ICE = (navtalk.IceServer(("turn:a.example:3478", "stun:b.example"), "user", "pass"),)
EVENTS: list[navtalk.Event] = [
    navtalk.Connected("session-1", ICE),
    navtalk.Warned("Two of them", "avatar-2"),
    navtalk.Ended(navtalk.End.CONNECTION_LIMIT_EXCEEDED, "Too many"),
    navtalk.SessionCreated(),
    navtalk.SpeechStarted(),
    navtalk.UserTranscript("heard"),
    navtalk.AvatarTranscriptDelta("said", "response-1"),
    navtalk.AvatarAudio(b"\1\2"),
    navtalk.FunctionCallDelta("call_1", '{"a'),
    navtalk.FunctionCall("call_1", "get_weather", '{"some_key": 1}'),
    navtalk.Failed("no voice"),
    navtalk.Offer("v=0"),
    navtalk.Answer("v=0"),
    navtalk.Candidate("candidate:1", "0", 0),
]


def spelling(*faults: str) -> Spelling:
    return Spelling(Faults(Fault.parse(text) for text in faults))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_by_default_events_are_written_as_the_vendors_page_reads_them(event: navtalk.Event) -> None:
    assert spelling("loss").write(event) == dump(event)


@pytest.mark.parametrize("nesting", FAULTS["nesting"].choices)
@pytest.mark.parametrize("name", ["", *FAULTS["spelling"].choices])
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_nesting_and_spelling_reads_the_same(event: navtalk.Event, nesting: str, name: str) -> None:
    faults = [f"nesting:{nesting}", "sdp-string", *([f"spelling:{name}"] if name else [])]
    text = spelling(*faults).write(event)
    assert text is not None and parse_event(text) == event


@pytest.mark.parametrize(
    ("faults", "text"),
    [
        (["nesting:flat"], '{"type": "realtime.response.audio.delta", "delta": "AQI="}'),
        (["nesting:double"], '{"type": "realtime.response.audio.delta", "data": {"data": {"delta": "AQI="}}}'),
        (["nesting:raw"], '{"type": "realtime.response.audio.delta", "raw_data": {"delta": "AQI="}}'),
        (["spelling:bare"], '{"type": "response.audio.delta", "data": {"delta": "AQI="}}'),
        (["spelling:upper"], '{"TYPE": "REALTIME.RESPONSE.AUDIO.DELTA", "DATA": {"DELTA": "AQI="}}'),
    ],
)
def test_a_fault_changes_the_writing(faults: list[str], text: str) -> None:
    assert spelling(*faults).write(navtalk.AvatarAudio(b"\1\2")) == text


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("camel", {"sdpMid", "sdpMLineIndex", "candidate"}),
        ("snake", {"sdp_mid", "sdp_m_line_index", "candidate"}),
        ("upper", {"SDP_MID", "SDP_M_LINE_INDEX", "CANDIDATE"}),
    ],
)
def test_names_are_spelled_at_every_depth(name: str, keys: set[str]) -> None:
    message = json.loads(spelling(f"spelling:{name}").write(navtalk.Candidate("candidate:1", "0", 0)))
    [data] = [value for key, value in message.items() if key.lower() == "data"]
    [inner] = data.values()
    assert set(inner) == keys


ALIASED: list[navtalk.Event] = [
    *EVENTS,
    navtalk.AvatarTranscript("said", "response-1"),
    navtalk.Ended(navtalk.End.GPU_FULL),
    navtalk.Ended(navtalk.End.INSUFFICIENT_BALANCE, "Nothing left"),
]


@pytest.mark.parametrize("nesting", FAULTS["nesting"].choices)
@pytest.mark.parametrize("alias", FAULTS["alias"].choices)
@pytest.mark.parametrize("event", ALIASED, ids=lambda event: type(event).__name__)
def test_every_alias_reads_the_same(event: navtalk.Event, alias: str, nesting: str) -> None:
    text = spelling(f"alias:{alias}", f"nesting:{nesting}", "spelling:upper").write(event)
    if alias == "terse" and isinstance(event, navtalk.FunctionCallDelta):
        assert text is None
    else:
        assert text is not None and parse_event(text) == event


CALL = navtalk.FunctionCall("call_1", "get_weather", '{"some_key": 1}')
CALL_TYPE = navtalk.FunctionCall.TYPE


@pytest.mark.parametrize(
    ("alias", "event", "message"),
    [
        (
            "openai",
            navtalk.AvatarTranscriptDelta("said", "response-1"),
            {"type": navtalk.AvatarTranscriptDelta.TYPE, "data": {"delta": "said", "response_id": "response-1"}},
        ),
        (
            "openai",
            navtalk.UserTranscript("heard"),
            {"type": navtalk.UserTranscript.TYPE, "data": {"transcript": "heard"}},
        ),
        ("openai", navtalk.AvatarAudioDone(), {"type": "realtime.response.done", "data": {}}),
        (
            "openai",
            CALL,
            {"type": CALL_TYPE, "data": {"call_id": "call_1", "name": "get_weather", "arguments": '{"some_key": 1}'}},
        ),
        ("apps", navtalk.AvatarAudioDone(), {"type": "realtime.response.completed", "data": {}}),
        (
            "apps",
            navtalk.Ended(navtalk.End.GPU_FULL, "All"),
            {"type": "session.gpu_full", "message": "All", "data": {}},
        ),
        (
            "apps",
            CALL,
            {
                "type": CALL_TYPE,
                "data": {"callId": "call_1", "function_name": "get_weather", "arguments": {"some_key": 1}},
            },
        ),
        (
            "terse",
            CALL,
            {
                "type": CALL_TYPE,
                "raw_data": {"function_name": "get_weather"},
                "data": {"id": "call_1", "arguments": '{"some_key": 1}'},
            },
        ),
    ],
)
def test_an_alias_gives_other_names(alias: str, event: navtalk.Event, message: dict[str, object]) -> None:
    text = spelling(f"alias:{alias}").write(event)
    assert text is not None and json.loads(text) == message


def test_values_are_never_respelled() -> None:
    text = spelling("spelling:upper").write(navtalk.FunctionCall("call_1", "get_weather", '{"some_key": 1}'))
    assert json.loads(text)["DATA"] == {
        "CALL_ID": "call_1",
        "FUNCTION_NAME": "get_weather",
        "ARGUMENTS": '{"some_key": 1}',
    }


@pytest.mark.parametrize(
    ("form", "data"),
    [
        ("none", {}),
        (
            "string",
            {
                "iceServers": [
                    {"urls": "turn:a.example:3478", "username": "user", "credential": "pass"},
                    {"urls": "stun:b.example", "username": "user", "credential": "pass"},
                ]
            },
        ),
        ("list", {"iceServers": json.loads(dump(EVENTS[0]))["data"]["iceServers"]}),
        ("snake", {"ice_servers": json.loads(dump(EVENTS[0]))["data"]["iceServers"]}),
    ],
)
def test_ice_servers_have_four_forms(form: str, data: dict[str, object]) -> None:
    written = json.loads(spelling(f"ice-servers:{form}").write(EVENTS[0]))
    assert written["data"] == {"sessionId": "session-1"} | data
