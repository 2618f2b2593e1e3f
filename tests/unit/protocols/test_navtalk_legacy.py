"""NavTalk's older interface: messages of the documents, binary sound, what goes into `session.update`."""

import json
from random import Random
from types import UnionType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import RemoteProtocolError
from bridge.protocols import navtalk, navtalk_legacy
from bridge.protocols.navtalk_legacy import FORMS, Signal, dump_event, dump_request, dump_signal, parse_event
from tests.fuzz.navtalk_messages import respelled_keys, respelled_type
from tests.golden.navtalk import LEGACY_LINES, Line, as_json

# Of the unified interface alone.
NOT_HERE = {"Warned", "Status", "Offer", "Answer", "Candidate", "Unknown", "InputConfig", "ToolList", "TextInput"}
NOT_HERE |= {"ImageInput"}


def written(line: Line) -> Any:
    message = line.parse(line.message)
    if line.readers == "signalling":
        return json.loads(dump_signal(message))
    text = dump_event(message) if line.from_service else dump_request(message)
    assert text is not None
    return json.loads(text)


@pytest.mark.parametrize("line", LEGACY_LINES, ids=str)
def test_every_documented_form_is_read(line: Line) -> None:
    assert as_json(line.parse(line.message)) == line.means


@pytest.mark.parametrize("line", [line for line in LEGACY_LINES if line.is_ours], ids=str)
def test_every_form_that_is_ours_is_written(line: Line) -> None:
    assert written(line) == line.message


@given(line=st.sampled_from(LEGACY_LINES), random=st.randoms())
def test_a_message_means_the_same_in_any_case_with_any_underscores(line: Line, random: Random) -> None:
    fields = dict(line.message)
    name = respelled_type(fields.pop("type"), random)
    # What the operator passes on in a session is nobody's to respell.
    spelled = fields if "SessionUpdate" in line.means else respelled_keys(fields, random)
    assert as_json(line.parse({"type": name, **spelled})) == line.means


@pytest.mark.parametrize("line", LEGACY_LINES, ids=str)
def test_a_message_means_the_same_where_the_newer_interface_puts_its_values(line: Line) -> None:
    fields = dict(line.message)
    assert as_json(line.parse({"type": fields.pop("type"), "data": fields})) == line.means


def test_every_message_has_a_form_that_is_ours() -> None:
    def names(union: UnionType) -> set[str]:
        return {message.__name__ for message in union.__args__} - NOT_HERE

    lines = [line for line in LEGACY_LINES if line.is_ours and line.readers == "legacy"]
    for from_service, union in ((True, navtalk.Event), (False, navtalk_legacy.Request)):
        assert names(union) == {name for line in lines if line.from_service is from_service for name in line.means}


def test_a_binary_frame_is_the_answers_sound() -> None:
    assert parse_event(b"\0\1\2\3") == navtalk.AvatarAudio(b"\0\1\2\3")
    with pytest.raises(RemoteProtocolError, match="within a sample"):
        parse_event(b"\0")


@pytest.mark.parametrize("event", [navtalk.Warned("x"), navtalk.Ended(navtalk.End.FAIL, "no"), navtalk.Status()])
def test_what_this_interface_has_no_event_for_is_not_written(event: navtalk.Event) -> None:
    assert dump_event(event) is None


def test_a_session_has_what_is_set_and_its_forms() -> None:
    tool = {"type": "function", "name": "weather"}
    settings = navtalk_legacy.session_settings("alloy", "Be kind.", (tool,), {})
    assert settings == {"voice": "alloy", "instructions": "Be kind.", "tools": (tool,), **FORMS}
    assert navtalk_legacy.session_settings(None, None, None, {}) == FORMS


def test_what_the_operator_passes_on_wins_in_a_session() -> None:
    further = {"temperature": 0.7, "modalities": ["text"], "voice": "echo"}
    settings = navtalk_legacy.session_settings("alloy", None, None, further)
    assert settings == {**FORMS, **further}


@pytest.mark.parametrize("text", ["", "[object Object]", "[]", "null", '{"type": 5}', "{}", "[" * 100_000])
def test_a_frame_that_is_no_typed_json_object_is_unknown(text: str) -> None:
    assert parse_event(text) == navtalk.Unknown()
    assert navtalk_legacy.parse_signal(text).message == navtalk.Unknown()


@pytest.mark.parametrize("message", [{"type": "offer"}, {"type": "answer", "sdp": 7}, {"type": "iceCandidate"}])
def test_signalling_without_what_it_is_for_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        navtalk_legacy.parse_signal(json.dumps(message))


def test_a_candidate_that_ends_the_list_is_read_as_one() -> None:
    text = dump_signal(Signal(navtalk.Candidate(""), "t-1"))
    assert navtalk_legacy.parse_signal(text) == Signal(navtalk.Candidate(""), "t-1")
