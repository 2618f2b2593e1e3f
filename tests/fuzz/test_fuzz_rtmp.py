"""Whatever a server sends, the publisher gives events or a documented error, and keeps its memory bounded."""

from hypothesis import example, given
from hypothesis import strategies as st

from bridge.errors import RemoteProtocolError
from bridge.protocols import amf
from bridge.protocols.rtmp import Ended, Published, Refused, RtmpPublisher, State
from bridge.protocols.rtmp_address import parse_url
from bridge.protocols.rtmp_chunks import ChunkReader, ChunkWriter, Message

LIMIT = 65_536
HANDSHAKE = b"\3" + bytes(3072)
WORDS = "_result _error onStatus close code level error status description".split()
CODES = "NetStream.Publish.Start NetStream.Publish.BadName NetStream.Unpublish.Success".split()
TEXT = st.sampled_from([*WORDS, *CODES, "Already publishing", ""])
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
    assert all(isinstance(event, Published | Refused | Ended) for event in events)
    if publisher.state is State.LIVE:
        assert events[-1] == Published()
