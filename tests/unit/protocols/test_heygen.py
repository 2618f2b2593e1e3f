"""HeyGen's WebSocket: messages of the documents, pieces of speech; and the answers of its REST interface."""

import json
from types import UnionType

import pytest

from bridge.errors import RemoteProtocolError
from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.protocols import heygen, heygen_rest
from bridge.protocols.heygen import Pieces
from bridge.protocols.heygen_rest import Opened
from tests.golden.heygen import LINES, Line

TICK = bytes(2 * 480)  # 20 ms
TICK_NS = 20 * NS_PER_MS


@pytest.mark.parametrize("line", LINES, ids=str)
def test_every_documented_form_is_read(line: Line) -> None:
    assert line.meaning == line.means


@pytest.mark.parametrize("line", [line for line in LINES if line.is_ours], ids=str)
def test_every_form_that_is_ours_is_written(line: Line) -> None:
    if line.from_service:
        # Its own id is the service's to choose.
        written = heygen.dump_event(line.read, line.message.get("event_id", ""))
    else:
        written = heygen.dump_command(line.read)
    assert json.loads(written) == line.message


def test_every_message_has_a_form_that_is_ours() -> None:
    def names(union: UnionType) -> set[str]:
        return {message.__name__ for message in union.__args__}

    assert {next(iter(line.means)) for line in LINES if line.is_ours} == names(heygen.Command) | names(heygen.Event)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"type": 1}', b"\0", '{"type": ""}', "[" * 100_000])
def test_what_is_no_message_is_refused(text: str | bytes) -> None:
    for read in (heygen.parse_event, heygen.parse_command):
        with pytest.raises(RemoteProtocolError):
            read(text)


@pytest.mark.parametrize("text", ['{"type": "agent.dance"}', '{"type": "agent.speak", "audio": "*"}'])
def test_a_command_that_cannot_be_obeyed_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        heygen.parse_command(text)


# ---------------------------------------------------------------------------------------------- pieces


def test_of_a_live_source_the_first_piece_is_short_and_the_service_never_runs_out() -> None:
    pieces, sent = Pieces(), []
    for tick in range(500):
        now_ns = (tick + 1) * TICK_NS  # a tick's sound is there when it is over
        sent += [(now_ns, len(piece) / 48_000) for piece in pieces.push(TICK, now_ns)]
    assert sent[0] == (400 * NS_PER_MS, 0.4)
    said_until_s = sent[0][0] / NS_PER_S
    for now_ns, piece_s in sent:
        assert now_ns / NS_PER_S <= said_until_s - 0.15 or (now_ns, piece_s) == sent[0]
        said_until_s += piece_s
        assert said_until_s - now_ns / NS_PER_S <= 0.401  # and adds no more than the first one did


def test_of_a_source_that_is_ahead_pieces_are_a_second_long() -> None:
    pieces = Pieces()
    sent = [len(piece) / 48_000 for piece in pieces.push(bytes(48_000 * 3), 0)]
    assert sent == [0.4, 1.0, 1.0] and pieces.left_s(0) == pytest.approx(2.4)


def test_no_piece_is_longer_than_a_message_may_be() -> None:
    pieces = Pieces()
    longest = max(len(heygen.dump_command(heygen.Speak(piece))) for piece in pieces.push(bytes(48_000 * 60), 0))
    assert longest < 100_000


def test_the_rest_is_filled_up_to_what_the_service_can_use() -> None:
    pieces = Pieces()
    assert pieces.end(0) == []
    pieces.push(TICK, 0)
    assert [len(piece) for piece in pieces.end(0)] == [2 * heygen.LEAST_SAMPLES]


def test_what_is_dropped_is_not_sent_and_speech_begins_anew() -> None:
    pieces = Pieces()
    pieces.push(bytes(48_000), 0)
    pieces.drop()
    assert pieces.left_s(0) == 0 and pieces.end(0) == []
    assert [len(piece) for piece in pieces.push(bytes(48_000), 0)] == [2 * heygen.FIRST_SAMPLES]


# ---------------------------------------------------------------------------------------------- REST


def test_both_services_name_the_same_things_differently() -> None:
    theirs = {"session_id": "s", "url": "wss://r", "access_token": "t", "realtime_endpoint": "wss://s/1"}
    said = {"code": 100, "data": theirs | {"session_duration_limit": 600, "sdp": None}}
    assert heygen_rest.parse_opened(json.dumps(said)) == Opened("s", "wss://r", "t", "wss://s/1", limit_s=600.0)
    theirs = {"session_id": "s", "livekit_url": "wss://r", "livekit_client_token": "t", "ws_url": "wss://s/1"}
    said = {"code": 1000, "data": theirs | {"max_session_duration": 60, "session_token": "b"}}
    assert heygen_rest.parse_opened(json.dumps(said)) == Opened("s", "wss://r", "t", "wss://s/1", "b", 60.0)


def test_of_a_room_of_ours_the_service_says_nothing() -> None:
    said = {"data": {"session_id": "s", "livekit_url": None, "livekit_client_token": None, "ws_url": "wss://s"}}
    assert heygen_rest.parse_opened(json.dumps(said)) == Opened("s", socket_url="wss://s")


@pytest.mark.parametrize("text", ["", "<html>", "[]", '{"data": null}', '{"code": 400, "message": "no"}'])
def test_an_answer_without_a_session_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError, match="session_id"):
        heygen_rest.parse_opened(text)


@pytest.mark.parametrize("limit", ["600", -1, 0, True, None, float("inf"), 1e300])
def test_a_limit_that_is_none_is_none(limit: object) -> None:
    said = json.dumps({"session_id": "s", "session_duration_limit": limit})
    assert heygen_rest.parse_opened(said).limit_s == 0


def test_what_the_operator_adds_goes_over_what_we_say() -> None:
    assert heygen_rest.new_body("a", "low", {"quality": "high", "activity_idle_timeout": 60}) == {
        "avatar_id": "a",
        "quality": "high",
        "version": "v2",
        "video_encoding": "H264",
        "activity_idle_timeout": 60,
    }
