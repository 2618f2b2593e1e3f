"""Messages of HeyGen's that nobody documented: each is a message or a RemoteProtocolError."""

import json
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.errors import RemoteProtocolError
from bridge.protocols import heygen, heygen_rest
from tests.fuzz.navtalk_messages import broken_often
from tests.fuzz.test_fuzz_navtalk import values
from tests.golden.heygen import LINES, Line

MONTH_S = 31 * 24 * 3600
TYPES = sorted({line.message["type"] for line in LINES})
KEYS = "event_id source_event_id eventId state new_state status audio error warning message type task id".split()
messages = st.builds(
    lambda type_name, fields: fields | {"type": type_name},
    st.sampled_from(TYPES),
    st.dictionaries(st.sampled_from(KEYS), values, max_size=5),
)
# HeyGen's to streaming.new; LiveAvatar's to a request for a token, and to the start of its session.
ANSWERS: dict[str, dict[str, Any]] = {
    "new": {
        "code": 100,
        "data": {
            "session_id": "s",
            "url": "wss://heygen.example/",
            "access_token": "a.b.c",
            "realtime_endpoint": "wss://socket.example/s",
            "session_duration_limit": 600,
            "is_paid": True,
        },
        "message": "success",
    },
    "token": {"code": 1000, "data": {"session_id": "s", "session_token": "t"}, "message": "Session token created"},
    "start": {
        "code": 1000,
        "data": {
            "session_id": "s",
            "livekit_url": "wss://room.example/",
            "livekit_client_token": "a.b.c",
            "livekit_agent_token": None,
            "max_session_duration": 600,
            "ws_url": "wss://socket.example/s",
        },
        "message": "Session started",
    },
}


def read_everywhere(text: str) -> None:
    """Read a text at every end; what is read is written and read again as itself."""
    with suppress(RemoteProtocolError):
        event = heygen.parse_event(text)
        if not isinstance(event, heygen.Unknown) and len(getattr(event, "ids", ())) < 2:
            assert heygen.parse_event(heygen.dump_event(event)) == event
    with suppress(RemoteProtocolError):
        command = heygen.parse_command(text)
        assert heygen.parse_command(heygen.dump_command(command)) == command
    with suppress(RemoteProtocolError):
        opened = heygen_rest.parse_opened(text)
        assert opened.session_id and 0 <= opened.limit_s <= MONTH_S
        texts = (opened.room_url, opened.room_token, opened.socket_url, opened.token)
        assert all(isinstance(text, str) for text in texts)


@pytest.mark.parametrize("line", LINES, ids=str)
@settings(max_examples=20)
@given(random=st.randoms(use_true_random=False), times=st.integers(1, 4))
def test_a_documented_message_that_is_broken_is_read_or_refused(line: Line, random: Random, times: int) -> None:
    read_everywhere(json.dumps(broken_often(line.message, random, times)))


@given(messages)
def test_a_message_of_a_known_type_with_any_content_is_read_or_refused(message: dict[str, Any]) -> None:
    read_everywhere(json.dumps(message))


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@given(random=st.randoms(use_true_random=False), times=st.integers(1, 4))
def test_a_documented_answer_that_is_broken_is_a_session_or_refused(
    answer: dict[str, Any], random: Random, times: int
) -> None:
    read_everywhere(json.dumps(broken_often(answer, random, times)))


@given(st.dictionaries(st.sampled_from(["session_id", "data", "url", "ws_url", "session_duration_limit"]), values))
def test_any_answer_is_a_session_or_refused(answer: dict[str, object]) -> None:
    read_everywhere(json.dumps(answer))


@given(st.text() | values.map(json.dumps))
def test_any_text_is_read_or_refused(text: str) -> None:
    read_everywhere(text)


@given(st.binary(max_size=64))
def test_binary_frames_are_refused(frame: bytes) -> None:
    for parse in (heygen.parse_event, heygen.parse_command):
        with pytest.raises(RemoteProtocolError):
            parse(frame)


# ---------------------------------------------------------------------------------------------- pieces of speech

MS = 1_000_000
# Sound that comes, in samples, and the time that goes by before the next.
blocks = st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 3_000)), min_size=1, max_size=12)


@example([(19_201, 400)])  # more than a first piece waits when the service has said everything
@given(blocks)
def test_speech_is_cut_into_pieces_that_the_service_takes_and_none_of_it_is_lost(blocks: list[tuple[int, int]]) -> None:
    pieces, sent, now_ns, pushed = heygen.Pieces(), [], 0, b""
    for n_samples, pause_ms in blocks:
        sound = Random(len(pushed)).randbytes(2 * n_samples)
        pushed += sound
        sent += pieces.push(sound, now_ns)
        assert 0 <= pieces.left_s(now_ns) <= sum(map(len, sent)) / 48_000
        now_ns += pause_ms * MS
    rest = pieces.end(now_ns)
    said = b"".join((*sent, *rest))
    # Only silence is added, and only to a rest that would be too short to be said.
    assert said[: len(pushed)] == pushed and not any(said[len(pushed) :])
    assert len(said) - len(pushed) < 2 * heygen.LEAST_SAMPLES
    for piece in (*sent, *rest):
        n_samples, odd = divmod(len(piece), 2)
        assert not odd and heygen.LEAST_SAMPLES <= n_samples <= heygen.MOST_SAMPLES
        assert len(heygen.dump_command(heygen.Speak(piece, "u" * 16))) < 1_000_000
    if sent:
        assert len(sent[0]) == 2 * heygen.FIRST_SAMPLES
    assert pieces.end(now_ns) == []


@given(blocks)
def test_what_is_dropped_is_never_said(blocks: list[tuple[int, int]]) -> None:
    pieces, now_ns = heygen.Pieces(), 0
    for n_samples, pause_ms in blocks:
        pieces.push(bytes(2 * n_samples), now_ns)
        now_ns += pause_ms * MS
    pieces.drop()
    assert pieces.left_s(now_ns) == 0.0 and pieces.end(now_ns) == []
