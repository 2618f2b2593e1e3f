from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from bridge.protocols import amf
from bridge.protocols.rtmp import Ended, Event, Published, ReconnectAsked, Refused, RtmpPublisher, State
from bridge.protocols.rtmp_address import parse_url
from bridge.protocols.rtmp_chunks import ChunkReader, ChunkWriter, Message, MessageType

KEY = "canary-4711?auth=canary-0815&a=1"


class Server:
    """The other end of a publisher: sends what a test says, and reads what comes."""

    def __init__(self, **options: int) -> None:
        self.publisher = RtmpPublisher(parse_url("rtmp://host/app", KEY), nonce=b"n" * 1528, **options)
        self._writer = ChunkWriter()
        self._reader = ChunkReader(1 << 24)
        self._unread: list[Message] = []

    def receive(self) -> list[Message]:
        messages = self._unread + self._reader.receive(self.publisher.data_to_send())
        self._unread = []
        return messages

    def receive_commands(self) -> list[Sequence[amf.Value]]:
        return [amf.decode(m.payload) for m in self.receive() if m.type_id == MessageType.COMMAND_AMF0]

    def send(self, type_id: int, payload: bytes) -> list[Event]:
        return self.publisher.receive_data(self._writer.write(3, Message(type_id, 0, 0, payload)))

    def say(self, *values: amf.Value) -> list[Event]:
        return self.send(MessageType.COMMAND_AMF0, amf.encode(*values))

    def status(self, level: str, code: str, description: str = "") -> list[Event]:
        return self.say("onStatus", 0.0, None, {"level": level, "code": code, "description": description})

    def shake_hands(self) -> None:
        self.publisher.data_to_send()
        self.publisher.receive_data(b"\3" + b"s" * 1536 + b"c" * 1536)
        reply = self.publisher.data_to_send()
        assert reply[:1536] == b"s" * 1536, "C2 echoes S1"
        self._unread = self._reader.receive(reply[1536:])

    def accept_connect(self) -> None:
        self.shake_hands()
        self.say("_result", 1.0, {"fmsVer": "x"}, {"level": "status", "code": "NetConnection.Connect.Success"})

    def accept_stream(self) -> None:
        self.accept_connect()
        self.say("_result", 4.0, None, 5.0)

    def go_live(self) -> None:
        self.accept_stream()
        assert self.status("status", "NetStream.Publish.Start") == [Published()]
        self.receive()


def up_to(state: State) -> Server:
    server = Server()
    steps = {
        State.CONNECTING: server.shake_hands,
        State.CREATING_STREAM: server.accept_connect,
        State.PUBLISHING: server.accept_stream,
        State.LIVE: server.go_live,
    }
    if state in steps:
        steps[state]()
    assert server.publisher.state is state
    return server


# ---------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("url", "stream_key", "host", "port", "app", "stream_name", "tc_url"),
    [
        ("rtmp://h/app", "k", "h", 1935, "app", "k", "rtmp://h/app"),
        ("rtmp://h/app/", "k?a=b", "h", 1935, "app", "k?a=b", "rtmp://h/app"),
        ("rtmps://h/app/k", None, "h", 443, "app", "k", "rtmps://h/app"),
        ("rtmp://h:1936/app/inst/k?a=b", None, "h", 1936, "app/inst", "k?a=b", "rtmp://h:1936/app/inst"),
        ("rtmp://h/live2?backup=1", "k", "h", 1935, "live2?backup=1", "k", "rtmp://h/live2?backup=1"),
        ("rtmp://[::1]:5/app/k", None, "::1", 5, "app", "k", "rtmp://[::1]:5/app"),
    ],
)
def test_an_address_splits_into_host_application_and_stream_name(
    url: str, stream_key: str | None, host: str, port: int, app: str, stream_name: str, tc_url: str
) -> None:
    address = parse_url(url, stream_key)

    assert (address.host, address.port, address.app) == (host, port, app)
    assert (address.stream_name, address.tc_url) == (stream_name, tc_url)
    assert address.is_tls == url.startswith("rtmps")


@pytest.mark.parametrize(
    "url",
    [
        "http://h/a/canary",
        "rtmp:///a/canary",
        "rtmp://h/canary",
        "rtmp://h",
        "rtmp://canary:x@h/a/canary",
        "rtmp://h:port/a/canary",
        "rtmp://[h/a/canary",
        "rtmp://h:99999/a/canary",
        "rtmp://h/a/?canary",
    ],
)
def test_a_url_that_cannot_be_published_to_is_the_operators_mistake_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_url(url)
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_stream_key_must_not_be_empty() -> None:
    with pytest.raises(ConfigError):
        parse_url("rtmp://h/app", "")


def test_an_address_does_not_show_its_stream_name() -> None:
    assert "canary" not in repr(parse_url("rtmp://h/app", KEY))


# ---------------------------------------------------------------------------------------------- handshake


def test_the_first_bytes_ask_for_the_plain_handshake() -> None:
    first = Server().publisher.data_to_send()

    assert first == b"\3" + bytes(8) + b"n" * 1528


def test_nothing_is_said_before_the_server_finished_its_handshake() -> None:
    server = Server()
    server.publisher.data_to_send()

    server.publisher.receive_data(b"\3" + bytes(3071))

    assert server.publisher.data_to_send() == b""
    assert server.publisher.state is State.HANDSHAKING


def test_an_echo_that_differs_is_taken_as_ffmpeg_and_nginx_take_it() -> None:
    assert up_to(State.CONNECTING).publisher.state is State.CONNECTING


def test_an_answer_in_text_is_no_rtmp() -> None:
    with pytest.raises(RemoteProtocolError, match="does not speak RTMP"):
        Server().publisher.receive_data(b"HTTP/1.1 400 Bad Request")


def test_what_follows_the_handshake_in_the_same_bytes_is_read() -> None:
    server = Server()
    ping = ChunkWriter().write(2, Message(MessageType.USER_CONTROL, 0, 0, bytes.fromhex("0006 01020304")))
    server.publisher.data_to_send()

    server.publisher.receive_data(b"\3" + bytes(3072) + ping)

    assert bytes.fromhex("0007 01020304") in server.publisher.data_to_send()


# ---------------------------------------------------------------------------------------------- the publish sequence


def test_the_commands_of_a_publisher_come_in_the_order_of_the_answers() -> None:
    server = up_to(State.CONNECTING)
    server.receive()

    server.say("_result", 1.0, {}, {"level": "status", "code": "NetConnection.Connect.Success"})
    assert server.receive_commands() == [
        ["releaseStream", 2.0, None, KEY],
        ["FCPublish", 3.0, None, KEY],
        ["createStream", 4.0, None],
    ]
    server.say("_result", 4.0, None, 5.0)
    (publish,) = server.receive()
    assert amf.decode(publish.payload) == ["publish", 5.0, None, KEY, "live"]
    assert publish.stream_id == 5


def test_connect_names_application_and_url_behind_chunk_size_and_window() -> None:
    server = Server(chunk_bytes=4096)
    server.shake_hands()

    chunk_size, window, connect = server.receive()

    assert (chunk_size.type_id, int.from_bytes(chunk_size.payload, "big")) == (1, 4096)
    assert window.type_id == MessageType.WINDOW_ACK_SIZE
    name, transaction, fields = amf.decode(connect.payload)
    assert (name, transaction) == ("connect", 1.0)
    assert isinstance(fields, dict)
    assert (fields["app"], fields["tcUrl"]) == ("app", "rtmp://host/app")
    assert (fields["fourCcList"], fields["capsEx"]) == (["avc1", "mp4a"], 1.0)


def test_commands_in_the_envelope_of_amf3_are_understood() -> None:
    server = up_to(State.PUBLISHING)
    body = b"\0" + amf.encode("onStatus", 0.0, None, {"level": "status", "code": "NetStream.Publish.Start"})

    assert server.send(MessageType.COMMAND_AMF3, body) == [Published()]


def test_a_start_that_is_said_twice_is_one_event() -> None:
    assert up_to(State.LIVE).status("status", "NetStream.Publish.Start") == []


@pytest.mark.parametrize("transaction", [2.0, 3.0])
def test_an_error_about_a_courtesy_is_ignored(transaction: float) -> None:
    server = up_to(State.CREATING_STREAM)

    assert server.say("_error", transaction, None, {"level": "error", "code": "NetConnection.Call.Failed"}) == []
    assert server.publisher.state is State.CREATING_STREAM


@pytest.mark.parametrize("name", ["onBWDone", "onFCPublish", "_result"])
def test_other_commands_and_answers_mean_nothing(name: str) -> None:
    assert up_to(State.PUBLISHING).say(name, 0.0, None) == []


@pytest.mark.parametrize("state", [State.CONNECTING, State.CREATING_STREAM])
def test_a_publish_start_out_of_order_is_the_servers_mistake(state: State) -> None:
    with pytest.raises(RemoteProtocolError, match=f"publish start while {state.value} is awaited"):
        up_to(state).status("status", "NetStream.Publish.Start")


def test_a_second_result_of_connect_is_the_servers_mistake() -> None:
    with pytest.raises(RemoteProtocolError, match="result of connect"):
        up_to(State.LIVE).say("_result", 1.0, None, None)


@pytest.mark.parametrize("stream_id", [None, "5", 0.0, -1.0, 2.0**32, float("nan"), True])
def test_a_created_stream_needs_an_id(stream_id: amf.Value) -> None:
    with pytest.raises(RemoteProtocolError, match="without a stream id"):
        up_to(State.CREATING_STREAM).say("_result", 4.0, None, stream_id)


@pytest.mark.parametrize(
    ("fields", "tc_url"),
    [({}, ""), ({"tcUrl": "rtmp://edge/app?t=1"}, "rtmp://edge/app?t=1"), ({"tcUrl": 5.0}, ""), ({"tcUrl": None}, "")],
)
def test_a_request_to_reconnect_is_an_event_of_a_broadcast_that_runs(fields: dict[str, amf.Value], tc_url: str) -> None:
    request = {"level": "status", "code": "NetConnection.Connect.ReconnectRequest", **fields}

    assert up_to(State.LIVE).say("onStatus", 0.0, None, request) == [ReconnectAsked(tc_url)]
    assert up_to(State.PUBLISHING).say("onStatus", 0.0, None, request) == []
    assert "edge" not in repr(ReconnectAsked(tc_url))


def test_a_publisher_tells_whether_the_server_knows_its_key() -> None:
    assert not up_to(State.CREATING_STREAM).publisher.has_asked_to_publish
    server = up_to(State.PUBLISHING)
    server.status("error", "NetStream.Publish.Denied")
    assert server.publisher.has_asked_to_publish


# ---------------------------------------------------------------------------------------------- refusals


def test_a_refused_connect_comes_in_the_servers_words() -> None:
    events = up_to(State.CONNECTING).say(
        "_error", 1.0, None, {"level": "error", "code": "NetConnection.Connect.Rejected", "description": "no such app"}
    )

    assert events == [Refused("the answer to connect", "NetConnection.Connect.Rejected: no such app", False)]


def test_an_error_level_in_a_result_is_a_refusal_too() -> None:
    server = up_to(State.CONNECTING)

    (event,) = server.say("_result", 1.0, None, {"level": "error", "code": "NetConnection.Connect.InvalidApp"})

    assert event == Refused("the answer to connect", "NetConnection.Connect.InvalidApp", False)


@pytest.mark.parametrize(
    ("code", "description", "is_transient"),
    [
        ("NetStream.Publish.BadName", "bad key", False),
        ("NetStream.Publish.BadName", "Already publishing", True),
        ("NetStream.Publish.BadName", "Stream name is in use", True),
        ("NetStream.Publish.Denied", "", False),
        ("NetConnection.Connect.AppShutdown", "", True),
        ("NetConnection.Connect.Closed", "", True),
    ],
)
def test_only_what_passes_by_itself_is_transient(code: str, description: str, is_transient: bool) -> None:
    (event,) = up_to(State.PUBLISHING).status("error", code, description)

    assert isinstance(event, Refused)
    assert event.is_transient == is_transient


def test_a_refusal_without_words_says_so() -> None:
    (event,) = up_to(State.CREATING_STREAM).say("_error", 4.0, None, None)

    assert event == Refused("the answer to createStream", "no reason given", False)


def test_the_stream_key_is_cut_out_of_the_servers_words() -> None:
    (event,) = up_to(State.PUBLISHING).status("error", "Bad.canary-4711", f"{KEY} and canary-0815: not known")

    assert isinstance(event, Refused)
    assert "canary" not in event.words
    assert event.words.endswith("not known")


def test_words_are_whole_so_that_no_secret_in_them_is_cut_before_it_is_masked() -> None:
    (event,) = up_to(State.PUBLISHING).status("error", "Bad", "x" * 10_000)

    assert isinstance(event, Refused)
    assert event.words == f"Bad: {'x' * 10_000}"


@pytest.mark.parametrize(
    ("level", "code"), [("error", "NetStream.Publish.Denied"), ("status", "NetStream.Unpublish.Success")]
)
def test_a_server_may_end_a_running_broadcast(level: str, code: str) -> None:
    server = up_to(State.LIVE)

    assert server.status(level, code, "maintenance") == [Ended(f"{code}: maintenance")]
    assert server.publisher.state is State.CLOSED


# ---------------------------------------------------------------------------------------------- control messages


def test_a_ping_is_answered_with_its_own_stamp() -> None:
    server = up_to(State.LIVE)

    server.send(MessageType.USER_CONTROL, bytes.fromhex("0006 0a0b0c0d"))

    assert [(m.type_id, m.payload) for m in server.receive()] == [(4, bytes.fromhex("0007 0a0b0c0d"))]


def test_bytes_are_acknowledged_once_half_the_window_came() -> None:
    server = up_to(State.LIVE)
    before = server.publisher._received_bytes
    window = 2 * (before + 1000)
    server.send(MessageType.WINDOW_ACK_SIZE, window.to_bytes(4, "big"))
    assert server.receive() == []

    server.send(99, bytes(1000))

    (acknowledgement,) = server.receive()
    assert acknowledgement.type_id == MessageType.ACKNOWLEDGEMENT
    assert int.from_bytes(acknowledgement.payload, "big") == server.publisher._received_bytes


def test_a_new_peer_bandwidth_is_answered_with_a_window_once() -> None:
    server = up_to(State.LIVE)

    server.send(MessageType.SET_PEER_BANDWIDTH, (4_000_000).to_bytes(4, "big") + b"\2")
    server.send(MessageType.SET_PEER_BANDWIDTH, (4_000_000).to_bytes(4, "big") + b"\2")

    assert [(m.type_id, int.from_bytes(m.payload, "big")) for m in server.receive()] == [(5, 4_000_000)]


@pytest.mark.parametrize("type_id", [MessageType.WINDOW_ACK_SIZE, MessageType.SET_PEER_BANDWIDTH, 1])
def test_a_truncated_control_message_is_the_servers_mistake(type_id: int) -> None:
    with pytest.raises(RemoteProtocolError):
        up_to(State.LIVE).send(type_id, b"\0\0")


# ---------------------------------------------------------------------------------------------- media and the end


def test_media_travels_on_the_stream_with_its_timestamp_on_the_circle() -> None:
    server = up_to(State.LIVE)

    server.publisher.send_media("video", 2**32 + 7, b"v" * 100_000)
    server.publisher.send_media("audio", 2**32 + 8, b"a")

    assert server.receive() == [Message(9, 5, 7, b"v" * 100_000), Message(8, 5, 8, b"a")]


def test_metadata_is_set_as_the_streams_data_frame() -> None:
    server = up_to(State.LIVE)

    server.publisher.send_metadata(9, amf.encode("onMetaData", amf.EcmaArray(width=1.0)))

    (message,) = server.receive()
    assert (message.type_id, message.stream_id, message.timestamp_ms) == (18, 5, 9)
    assert amf.decode(message.payload) == ["@setDataFrame", "onMetaData", {"width": 1.0}]


@pytest.mark.parametrize("state", [s for s in State if s not in (State.LIVE, State.CLOSED)])
def test_media_before_the_broadcast_is_our_mistake(state: State) -> None:
    with pytest.raises(LocalProtocolError, match=state.value):
        up_to(state).publisher.send_media("video", 0, b"")


def test_the_end_is_said_once_and_what_the_server_answers_is_ignored() -> None:
    server = up_to(State.LIVE)

    server.publisher.unpublish()
    server.publisher.unpublish()

    assert server.receive_commands() == [["FCUnpublish", 6.0, None, KEY], ["deleteStream", 7.0, None, 5.0]]
    assert server.status("status", "NetStream.Unpublish.Success") == []


def test_a_broadcast_that_never_began_is_not_ended() -> None:
    server = up_to(State.CONNECTING)
    server.publisher.data_to_send()

    server.publisher.unpublish()

    assert server.publisher.data_to_send() == b""


@given(st.integers(1, 50))
def test_events_do_not_depend_on_how_the_bytes_are_cut(piece_bytes: int) -> None:
    writer = ChunkWriter()
    start: amf.Value = {"level": "status", "code": "NetStream.Publish.Start"}
    commands = [("_result", 1.0, None, None), ("_result", 4.0, None, 1.0), ("onStatus", 0.0, None, start)]
    wire = b"\3" + bytes(3072)
    for command in commands:
        wire += writer.write(3, Message(MessageType.COMMAND_AMF0, 0, 0, amf.encode(*command)))
    publisher = RtmpPublisher(parse_url("rtmp://host/app/key"))

    events = [
        event
        for at in range(0, len(wire), piece_bytes)
        for event in publisher.receive_data(wire[at : at + piece_bytes])
    ]

    assert events == [Published()]
