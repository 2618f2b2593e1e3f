from zlib import crc32

from benchmarks.tap import Connection, Picture, Publisher
from bridge.local_avatar.timecode import insert_stamp
from bridge.media.h264 import join_avcc
from bridge.protocols.flv import avc_picture, avc_sequence_header
from bridge.protocols.rtmp_chunks import ChunkWriter, Message, MessageType

HANDSHAKE = bytes(1 + 2 * 1536)


def stream(*messages: Message) -> bytes:
    writer = ChunkWriter()
    return HANDSHAKE + b"".join(writer.write(6, message) for message in messages)


def video(payload: bytes) -> Message:
    return Message(MessageType.VIDEO, 1, 0, payload)


def test_a_picture_is_noted_when_its_last_byte_has_come() -> None:
    connection = Connection(0)
    publisher = Publisher(connection)
    coded_slice = b"\x65" + bytes(500)
    payload = insert_stamp(join_avcc([coded_slice]), 7, 123_456_789)
    data = stream(video(avc_picture(payload, is_keyframe=True)))
    publisher.see(data[:-1], 1_000)
    assert connection.pictures == []
    publisher.see(data[-1:], 2_000)
    assert connection.pictures == [Picture(2_000, 123_456_789, 7, crc32(coded_slice), True)]


def test_headers_and_sound_are_no_pictures() -> None:
    connection = Connection(0)
    sound = Message(MessageType.AUDIO, 1, 0, b"\xaf\x01sound")
    Publisher(connection).see(stream(video(avc_sequence_header(b"config")), sound), 1_000)
    assert connection.pictures == []


def test_a_picture_without_a_stamp_counts_too() -> None:
    connection = Connection(0)
    Publisher(connection).see(stream(video(avc_picture(b"\0\0\0\x01\x41", is_keyframe=False))), 1_000)
    assert connection.pictures == [Picture(1_000, None, None, crc32(b"\x41"), False)]


def test_what_is_not_rtmp_is_left_alone() -> None:
    connection = Connection(0)
    publisher = Publisher(connection)
    for _ in range(3):
        publisher.see(b"\xff" * 4096, 1_000)
    assert connection.pictures == []
