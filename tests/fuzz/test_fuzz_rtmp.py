"""Whatever a server sends, the publisher gives events or a documented error, and keeps its memory bounded."""

from hypothesis import example, given
from hypothesis import strategies as st

from bridge.errors import ConfigError, RemoteProtocolError
from bridge.protocols import amf
from bridge.protocols.rtmp import Ended, Published, ReconnectAsked, Refused, RtmpPublisher, State
from bridge.protocols.rtmp_address import parse_url, resolve
from bridge.protocols.rtmp_chunks import ChunkReader, ChunkWriter, Message

LIMIT = 65_536
HANDSHAKE = b"\3" + bytes(3072)
WORDS = "_result _error onStatus close code level error status description tcUrl".split()
REFERENCES = [
    "rtmp://edge:1935/app",
    "//edge/app?a=b",
    "/app",
    "app",
    "?",
    "rtmp://[::1",
    "rtmps://h:0/a",
    "http://h/a",
]
CODES = "NetStream.Publish.Start NetStream.Publish.BadName NetStream.Unpublish.Success".split()
CODES.append("NetConnection.Connect.ReconnectRequest")
TEXT = st.sampled_from([*WORDS, *CODES, *REFERENCES, "Already publishing", ""])
SCALARS = st.none() | st.booleans() | st.integers(0, 8).map(float) | st.floats() | TEXT
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXT, v, max_size=4), max_leaves=8)
BODIES = st.lists(VALUES, max_size=5) | st.tuples(TEXT, VALUES, VALUES, VALUES)
COMMANDS = BODIES.map(lambda values: (20, amf.encode(*values)))
# Any message of a type that means something, with a body that may not; and well-formed commands in any order.
MESSAGES = COMMANDS | st.tuples(st.sampled_from([1, 2, 3, 4, 5, 6, 17, 18, 20, 99]), st.binary(max_size=40))


@given(st.binary(max_size=400))
def test_amf_is_read_or_refused(data: bytes) -> None:
    try:
        values = amf.decode(data)
    except RemoteProtocolError:
        return
    assert isinstance(values, list)


@given(st.lists(st.binary(max_size=200), max_size=8))
def test_chunks_are_joined_or_refused(pieces: list[bytes]) -> None:
    reader = ChunkReader(LIMIT)
    try:
        for piece in pieces:
            for message in reader.receive(piece):
                assert len(message.payload) <= LIMIT
                assert 0 <= message.timestamp_ms < 2**32
    except RemoteProtocolError:
        return


@given(st.lists(st.binary(max_size=300), max_size=6), st.booleans())
def test_a_publisher_survives_any_bytes(pieces: list[bytes], is_shaken: bool) -> None:
    publisher = RtmpPublisher(parse_url("rtmp://host/app/key"))
    try:
        if is_shaken:
            publisher.receive_data(HANDSHAKE)
        for piece in pieces:
            publisher.receive_data(piece)
    except RemoteProtocolError:
        return
    assert isinstance(publisher.data_to_send(), bytes)


@given(st.lists(MESSAGES, max_size=12))
@example([(20, amf.encode("_error", [], None, None))])
def test_a_publisher_takes_any_messages_in_any_order_and_is_live_only_after_a_start(
    messages: list[tuple[int, bytes]],
) -> None:
    publisher, writer = RtmpPublisher(parse_url("rtmp://host/app/key")), ChunkWriter()
    publisher.receive_data(HANDSHAKE)
    events = []
    try:
        for type_id, payload in messages:
            # Chunk sizes are taken from the messages by both ends, which is as it should be.
            if type_id == 1 and not (len(payload) == 4 and 0 < int.from_bytes(payload, "big") < 2**31):
                continue
            events += publisher.receive_data(writer.write(3, Message(type_id, 0, 0, payload)))
    except RemoteProtocolError:
        return
    assert all(isinstance(event, Published | Refused | Ended | ReconnectAsked) for event in events)
    if publisher.state is State.LIVE:
        assert [event for event in events if not isinstance(event, ReconnectAsked)] == [Published()]


# What stands in URLs, and what does not.
REFERENCE_TEXT = st.lists(st.sampled_from(["rtmp:", "rtmps:", "//", "/", "?", "#", "@", ":", "[", "]", "h", "1"])).map(
    "".join
)


@given(st.sampled_from(REFERENCES) | REFERENCE_TEXT | st.text(max_size=60))
@example("rtmp://h/" + "x" * 3000)
def test_a_reference_leads_somewhere_with_the_same_key_or_is_refused(reference: str) -> None:
    address = parse_url("rtmps://host/app", "key")
    try:
        found = resolve(address, reference)
    except ConfigError as error:
        assert reference not in str(error) or len(reference) < 20
        return
    assert found.stream_name == "key"
    assert found.host and found.app and 0 < found.port < 65_536
    assert parse_url(found.tc_url, "key") == found


@given(st.binary(max_size=200), st.integers(0, 2**32 - 1), st.integers(1, 500))
def test_chunks_of_a_garbage_size_are_joined_or_refused(data: bytes, chunk_size: int, n_at_once: int) -> None:
    reader, writer = ChunkReader(LIMIT), ChunkWriter()
    stream = b"\2" + bytes(3) + b"\0\0\4\1" + bytes(4) + chunk_size.to_bytes(4, "big")
    stream += writer.write(3, Message(20, 0, 0, data))
    messages = []
    try:
        for start in range(0, len(stream), n_at_once):
            messages += reader.receive(stream[start : start + n_at_once])
    except RemoteProtocolError:
        return
    assert chunk_size in range(1, 2**31)
    if chunk_size == 128 or (len(data) <= 128 and chunk_size >= len(data)):
        assert messages[1].payload == data


@given(
    st.integers(0, 60_000),
    st.sampled_from([b"\x03\x00\x01a", b"\x08\0\0\0\0\x00\x01a", b"\x0a\0\0\0\x01", b"\x0a\xff\xff\xff\xff"]),
)
def test_amf_bombs_are_refused(n_levels: int, level: bytes) -> None:
    body = amf.encode("onStatus", 0.0) + level * (min(n_levels, LIMIT // len(level)))
    try:
        values = amf.decode(body)
    except RemoteProtocolError:
        return
    assert n_levels == 0 and values == ["onStatus", 0.0]
