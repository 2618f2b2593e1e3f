"""NavTalk v2: a message means the same in every spelling and wherever its values stand."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.protocols import navtalk
from bridge.protocols.navtalk_json import parse_event, parse_request
from tests.fuzz.navtalk_messages import respelled_keys, respelled_type
from tests.golden.navtalk import LINES, Line, as_json

Fields = dict[str, Any]

PLACES: dict[str, Callable[[Fields], Fields]] = {
    "at the top level": lambda fields: fields,
    "in data": lambda fields: {"data": fields},
    "in data.data": lambda fields: {"data": {"data": fields}},
    "in raw_data": lambda fields: {"raw_data": fields},
    "in data.raw_data": lambda fields: {"data": {"raw_data": fields}},
    "in data as JSON text": lambda fields: {"data": json.dumps(fields)},
    "in raw_data as JSON text": lambda fields: {"data": {}, "raw_data": json.dumps(fields)},
}


def without_wrapping(message: Any) -> Fields:
    """A message's type and its fields, all at the top level."""
    fields = json.loads(message) if isinstance(message, str) else message or {}
    flat = {key: value for key, value in fields.items() if key.lower() != "data"}
    inner = next((value for key, value in fields.items() if key.lower() == "data"), None)
    return {("type" if key.lower() == "type" else key): value for key, value in flat.items()} | (
        without_wrapping(inner) if inner else {}
    )


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("line", LINES, ids=str)
def test_a_message_means_the_same_wherever_its_values_stand(line: Line, place: str) -> None:
    fields = without_wrapping(line.message)
    message = {"type": fields.pop("type")} | PLACES[place](fields)
    assert as_json(line.parse(message)) == line.means


def keeps_its_type(line: Line) -> bool:
    """The type is part of what it means: it is unknown, or all that is said of a failure."""
    return without_wrapping(line.message)["type"] in json.dumps(line.means)


@given(line=st.sampled_from([line for line in LINES if not keeps_its_type(line)]), random=st.randoms())
def test_a_message_means_the_same_in_any_case_with_any_underscores(line: Line, random: Random) -> None:
    fields = without_wrapping(line.message)
    name = respelled_type(fields.pop("type"), random)
    # The list of a tool's registration is the tools themselves.
    spelled = fields if "ToolList" in line.means else respelled_keys(fields, random)
    assert as_json(line.parse({"type": name, "data": spelled})) == line.means


@pytest.mark.parametrize(
    "name",
    [
        "realtime.response.function_call_arguments.done",
        "response.function_call_arguments.done",
        "realtime.response.functionCallArguments.done",
        "Realtime.Response.Function-Call-Arguments.Done",
        "REALTIME.RESPONSE.FUNCTION_CALL_ARGUMENTS.DONE",
    ],
)
def test_a_type_is_known_in_any_case_with_and_without_its_prefix(name: str) -> None:
    message = {"type": name, "data": {"call_id": "call_1", "name": "find"}}
    assert parse_event(json.dumps(message)) == navtalk.FunctionCall("call_1", "find", "{}")


# ---------------------------------------------------------------------------------------------- which place wins


def test_data_outranks_the_top_level_which_outranks_the_raw_event() -> None:
    message: Fields = {"type": "response.audio_transcript.delta", "content": "top", "raw_data": {"content": "raw"}}
    assert parse_event(json.dumps(message | {"data": {"content": "inner"}})) == navtalk.AvatarTranscriptDelta("inner")
    assert parse_event(json.dumps(message | {"data": {}})) == navtalk.AvatarTranscriptDelta("top")


@pytest.mark.parametrize("value", [None, 5, True, ["x"], {"x": "y"}])
def test_a_value_of_a_wrong_type_is_looked_for_elsewhere(value: Any) -> None:
    message = {"type": "response.audio_transcript.done", "data": {"content": value}, "transcript": "good day"}
    assert parse_event(json.dumps(message)) == navtalk.AvatarTranscript("good day")


@pytest.mark.parametrize(
    ("type_name", "name", "meaning"),
    [
        ("conversation.item.input_audio_transcription.completed", "transcript", navtalk.UserTranscript),
        ("response.audio_transcript.delta", "delta", navtalk.AvatarTranscriptDelta),
        ("response.audio_transcript.done", "transcript", navtalk.AvatarTranscript),
    ],
)
def test_an_empty_text_counts_only_where_there_is_no_other(
    type_name: str, name: str, meaning: Callable[[str], navtalk.Event]
) -> None:
    for text in ("good day", ""):
        message = {"type": type_name, "data": {"content": "", name: text}}
        assert parse_event(json.dumps(message)) == meaning(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"message": "no licence", "reason": "4"},
        {"reason": "no licence"},
        {"error": "no licence"},
        {"error": {"message": "no licence", "code": "x"}, "message": "failed"},
        {"data": "no licence"},
        {"data": {"reason": "no licence"}},
    ],
    ids=str,
)
def test_what_a_service_says_of_an_end_or_a_failure_is_read_wherever_it_stands(fields: Fields) -> None:
    assert parse_event(json.dumps({"type": "conversation.connected.fail"} | fields)) == navtalk.Ended(
        navtalk.End.FAIL, "no licence"
    )
    assert parse_event(json.dumps({"type": "error"} | fields)) == navtalk.Failed("no licence")


def test_an_end_whose_data_is_an_object_as_text_says_nothing_by_it() -> None:
    assert parse_event('{"type": "conversation.connected.close", "data": "{}"}') == navtalk.Ended(navtalk.End.CLOSE)


def test_an_empty_name_is_looked_for_elsewhere() -> None:
    message = {
        "type": "response.function_call_arguments.done",
        "data": {"call_id": "", "function_name": "", "arguments": ""},
        "raw_data": {"call_id": "call_1", "name": "find", "arguments": '{"a": 1}'},
    }
    assert parse_event(json.dumps(message)) == navtalk.FunctionCall("call_1", "find", '{"a": 1}')


def test_the_id_of_a_call_is_not_taken_from_the_item_beside_it() -> None:
    message = {
        "type": "response.function_call_arguments.done",
        "data": {"id": "item-1", "name": "find"},
        "raw_data": {"call_id": "call_1"},
    }
    assert parse_event(json.dumps(message)) == navtalk.FunctionCall("call_1", "find", "{}")


def test_of_two_spellings_side_by_side_the_one_with_a_value_counts() -> None:
    message = {"type": "conversation.connected.success", "data": {"sessionId": None, "session_id": "s-1"}}
    assert parse_event(json.dumps(message)) == navtalk.Connected("s-1")


# ---------------------------------------------------------------------------------------------- what stays as it is


def test_names_inside_a_call_s_arguments_are_the_tool_s_own() -> None:
    message = {
        "type": "response.function_call_arguments.done",
        "data": {"call_id": "call_1", "name": "find", "arguments": {"userName": 1, "user_name": 2}},
    }
    event = parse_event(json.dumps(message))
    assert isinstance(event, navtalk.FunctionCall)
    assert json.loads(event.arguments) == {"userName": 1, "user_name": 2}


def test_names_inside_a_tool_are_its_own() -> None:
    tool = {"type": "function", "name": "find", "parameters": {"properties": {"userName": {}, "user_name": {}}}}
    message = {"type": "realtime.input_config", "data": {"content": {"Tools": [tool, "no tool"]}}}
    assert parse_request(json.dumps(message)) == navtalk.InputConfig(tools=(tool,))


def test_arguments_nested_as_deep_as_json_goes_are_read_or_missing() -> None:
    # Reading and writing JSON give up at different depths, which depend on the caller's own.
    for depth in range(900, 1000):
        arguments = '{"a":' * depth + "0" + "}" * depth
        event = parse_event(
            '{"type": "response.function_call_arguments.done", "call_id": "call_1", "arguments": ' + arguments + "}"
        )
        assert isinstance(event, navtalk.FunctionCall | navtalk.Unknown)
