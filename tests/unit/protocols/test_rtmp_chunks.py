import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import LocalProtocolError, RemoteProtocolError
from bridge.protocols.rtmp_chunks import (
    MAX_CHUNK_STREAMS,
    MAX_MESSAGE_BYTES,
    ChunkReader,
    ChunkWriter,
    Message,
    MessageType,
)

LIMIT = 1 << 20
TIMESTAMPS = st.integers(0, 2**32 - 1) | st.sampled_from([0xFFFFFE, 0xFFFFFF, 0x1000000, 2**31 - 1, 2**31, 2**32 - 1])


def set_chunk_size(size: int) -> Message:
    return Message(MessageType.SET_CHUNK_SIZE, 0, 0, size.to_bytes(4, "big"))


def media(timestamp_ms: int, payload: bytes = b"x", stream_id: int = 1) -> Message:
    return Message(MessageType.VIDEO, stream_id, timestamp_ms, payload)


def read(*wire: bytes) -> list[Message]:
    reader = ChunkReader(LIMIT)
    return [message for piece in wire for message in reader.receive(piece)]


# ---------------------------------------------------------------------------------------------- out


def test_the_first_message_of_a_chunk_stream_has_a_full_header() -> None:
    assert ChunkWriter().write(6, media(0x010203, b"ab")) == bytes.fromhex("06 010203 000002 09 01000000") + b"ab"


def test_later_messages_of_a_stream_carry_the_time_since_the_one_before() -> None:
    writer = ChunkWriter()
    writer.write(6, media(1000))

    assert writer.write(6, media(1040, b"ab")) == bytes.fromhex("46 000028 000002 09") + b"ab"


def test_a_message_of_another_stream_has_a_full_header_again() -> None:
    writer = ChunkWriter()
    writer.write(3, media(0, stream_id=0))

    assert writer.write(3, media(0, stream_id=1))[0] >> 6 == 0


def test_a_long_message_is_continued_behind_headers_of_one_byte() -> None:
    wire = ChunkWriter().write(6, media(0, b"a" * 128 + b"b" * 128 + b"c"))

    assert wire[12:] == b"a" * 128 + b"\xc6" + b"b" * 128 + b"\xc6" + b"c"


@pytest.mark.parametrize("timestamp_ms", [0xFFFFFF, 0x1000000, 2**32 - 1])
def test_an_extended_timestamp_is_repeated_on_every_continued_chunk(timestamp_ms: int) -> None:
    extended = timestamp_ms.to_bytes(4, "big")

    wire = ChunkWriter().write(6, media(timestamp_ms, b"a" * 129))

    assert wire[:16] == bytes.fromhex("06 ffffff 000081 09 01000000") + extended
    assert wire[16:] == b"a" * 128 + b"\xc6" + extended + b"a"


def test_the_last_timestamp_of_24_bits_is_not_extended() -> None:
    assert ChunkWriter().write(6, media(0xFFFFFE))[1:4] == bytes.fromhex("fffffe")


def test_a_step_over_the_end_of_the_circle_is_a_short_delta() -> None:
    writer = ChunkWriter()
    writer.write(6, media(2**32 - 10))

    assert writer.write(6, media(30)) == bytes.fromhex("46 000028 000001 09") + b"x"


def test_a_step_back_is_written_with_a_full_header() -> None:
    writer = ChunkWriter()
    writer.write(6, media(1000))

    assert writer.write(6, media(990))[:4] == bytes.fromhex("06 0003de")


def test_a_new_chunk_size_holds_from_the_next_message_on() -> None:
    writer = ChunkWriter()
    writer.write(2, set_chunk_size(1000))

    assert writer.write(6, media(0, b"x" * 1000)).count(b"\xc6") == 0


def test_a_message_beyond_24_bits_of_length_is_our_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        ChunkWriter().write(6, media(0, bytes(MAX_MESSAGE_BYTES + 1)))


# ---------------------------------------------------------------------------------------------- in


def test_all_four_header_types_are_read() -> None:
    wire = bytes.fromhex(
        "03 000064 000001 09 01000000 61"  # at 100
        "43 00000a 000002 08 6262"  # 10 later, other length and type
        "83 000005 6363"  # 5 later
        "c3 6464"  # the same 5 later again
    )

    assert read(wire) == [
        Message(9, 1, 100, b"a"),
        Message(8, 1, 110, b"bb"),
        Message(8, 1, 115, b"cc"),
        Message(8, 1, 120, b"dd"),
    ]


def test_messages_of_two_chunk_streams_may_be_interleaved() -> None:
    wire = b"".join(
        (
            bytes.fromhex("04 000000 000081 08 01000000") + b"a" * 128,
            bytes.fromhex("06 000000 000081 09 01000000") + b"v" * 128,
            b"\xc4a",
            b"\xc6v",
        )
    )

    assert read(wire) == [Message(8, 1, 0, b"a" * 129), Message(9, 1, 0, b"v" * 129)]


@pytest.mark.parametrize(("first_bytes", "n_ignored"), [("00 00", 0), ("01 0001", 0), ("00 ff", 0)])
def test_chunk_stream_ids_of_two_and_three_bytes_are_read(first_bytes: str, n_ignored: int) -> None:
    assert read(bytes.fromhex(first_bytes + "000000 000001 09 01000000 61")) == [Message(9, 1, 0, b"a")]


def test_an_extended_delta_is_read() -> None:
    wire = bytes.fromhex("03 000001 000001 09 01000000 6143 ffffff 000001 09 01000000 62")

    assert read(wire)[1].timestamp_ms == 0x01000001


def test_an_abort_forgets_the_message_under_way() -> None:
    wire = bytes.fromhex("04 000000 000081 08 01000000") + b"a" * 128
    abort = bytes.fromhex("02 000000 000004 02 00000000 00000004")
    following = bytes.fromhex("04 000000 000001 08 01000000 62")

    assert [m.payload for m in read(wire, abort, following)] == [b"\0\0\0\4", b"b"]


@pytest.mark.parametrize("size", [0, 2**31, 2**32 - 1])
def test_a_chunk_size_out_of_range_is_the_peers_mistake(size: int) -> None:
    with pytest.raises(RemoteProtocolError, match="chunk size"):
        read(ChunkWriter().write(2, Message(1, 0, 0, size.to_bytes(4, "big"))))


@pytest.mark.parametrize("first", ["43", "83", "c3"])
def test_a_chunk_stream_must_begin_with_a_full_header(first: str) -> None:
    with pytest.raises(RemoteProtocolError, match="starts with a header of type"):
        read(bytes.fromhex(first) + bytes(20))


def test_a_message_may_not_begin_inside_another() -> None:
    begun = bytes.fromhex("04 000000 000081 08 01000000") + b"a" * 128

    with pytest.raises(RemoteProtocolError, match="inside another"):
        read(begun, begun)


def test_a_message_beyond_the_limit_is_refused_before_it_is_collected() -> None:
    with pytest.raises(RemoteProtocolError, match="at most 100 are taken"):
        ChunkReader(100).receive(bytes.fromhex("04 000000 000065 08 01000000"))


def test_more_chunk_streams_than_any_server_uses_are_refused() -> None:
    reader = ChunkReader(LIMIT)
    header = bytes.fromhex("000000 000001 08 01000000 61")
    for number in range(MAX_CHUNK_STREAMS):
        reader.receive(bytes([0, number]) + header)

    with pytest.raises(RemoteProtocolError, match="more than"):
        reader.receive(bytes([0, MAX_CHUNK_STREAMS]) + header)


# ---------------------------------------------------------------------------------------------- both


@given(
    st.lists(st.tuples(st.integers(2, 63), TIMESTAMPS, st.integers(0, 1), st.binary(max_size=400)), max_size=12),
    st.integers(1, 300),
    st.integers(1, 64),
)
def test_what_was_written_is_read_whatever_the_chunk_size_and_the_pieces(
    sent: list[tuple[int, int, int, bytes]], chunk_bytes: int, piece_bytes: int
) -> None:
    writer, reader = ChunkWriter(), ChunkReader(LIMIT)
    messages = [(6, set_chunk_size(chunk_bytes))]
    messages += [(chunk_stream_id, media(t, payload, stream)) for chunk_stream_id, t, stream, payload in sent]
    wire = b"".join(writer.write(chunk_stream_id, message) for chunk_stream_id, message in messages)

    received = [
        message
        for start in range(0, len(wire), piece_bytes)
        for message in reader.receive(wire[start : start + piece_bytes])
    ]

    assert received == [message for _, message in messages]
