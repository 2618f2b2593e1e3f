import os

from aiortc.codecs.vpx import VpxPayloadDescriptor
from hypothesis import given
from hypothesis import strategies as st

from bridge.net.packetize import MAX_PAYLOAD_BYTES, VP8_PICTURE_IDS, packetize_h264, packetize_vp8

SPS = bytes([0x67]) + b"s" * 20
PPS = bytes([0x68]) + b"p" * 5
SEI = bytes([0x06]) + b"i" * 30


def idr(size: int) -> bytes:
    return bytes([0x65]) + os.urandom(size - 1)


def join(payloads: list[bytes]) -> list[bytes]:
    """The NAL units that RFC 6184 says the payloads carry: written apart from the code under test."""
    nals: list[bytes] = []
    for payload in payloads:
        match payload[0] & 0x1F:
            case 24:
                rest = payload[1:]
                while rest:
                    size = int.from_bytes(rest[:2], "big")
                    nals.append(rest[2 : 2 + size])
                    rest = rest[2 + size :]
            case 28:
                if payload[1] & 0x80:
                    nals.append(bytes([payload[0] & 0xE0 | payload[1] & 0x1F]))
                nals[-1] += payload[2:]
            case _:
                nals.append(payload)
    return nals


def test_parameter_sets_share_one_packet() -> None:
    payloads = packetize_h264([SPS, PPS, SEI, idr(100)])
    assert len(payloads) == 2
    assert payloads[0][0] & 0x1F == 24
    assert join(payloads)[:3] == [SPS, PPS, SEI]


def test_an_aggregate_is_as_important_as_its_most_important_part() -> None:
    assert packetize_h264([SEI, SPS])[0][0] & 0x60 == 0x60


def test_a_slice_that_fits_travels_alone() -> None:
    slice_ = idr(MAX_PAYLOAD_BYTES)
    assert packetize_h264([slice_]) == [slice_]


def test_a_single_parameter_set_is_not_wrapped() -> None:
    assert packetize_h264([SPS]) == [SPS]


def test_a_long_slice_becomes_fragments_of_even_length_with_start_and_end_marked() -> None:
    payloads = packetize_h264([idr(5000)])
    assert len(payloads) == 5
    assert [payload[1] & 0xC0 for payload in payloads] == [0x80, 0, 0, 0, 0x40]
    assert max(map(len, payloads)) - min(map(len, payloads)) < 10


def test_aggregates_end_before_they_grow_too_long() -> None:
    units = [bytes([0x06]) + bytes(500)] * 5
    payloads = packetize_h264(units)
    assert max(map(len, payloads)) <= MAX_PAYLOAD_BYTES
    assert join(payloads) == units


@given(st.lists(st.tuples(st.sampled_from([0x65, 0x41, 0x67, 0x68, 0x06]), st.integers(0, 4000)), max_size=8))
def test_what_arrives_is_what_was_cut(shape: list[tuple[int, int]]) -> None:
    nals = [bytes([header]) + bytes(i % 251 for i in range(size)) for header, size in shape]
    payloads = packetize_h264(nals)
    assert join(payloads) == nals
    assert all(len(payload) <= MAX_PAYLOAD_BYTES for payload in payloads)


def test_a_vp8_frame_starts_once_and_every_packet_names_its_picture() -> None:
    payloads = packetize_vp8(bytes(3000), 0x1234)
    assert [payload[:4] for payload in payloads] == [b"\x90\x80\x92\x34", b"\x80\x80\x92\x34", b"\x80\x80\x92\x34"]


def test_a_vp8_frame_without_bytes_is_no_packet() -> None:
    assert packetize_vp8(b"", 0) == []


@given(st.binary(max_size=5000), st.integers(0, VP8_PICTURE_IDS - 1))
def test_a_vp8_frame_is_cut_into_packets_of_even_length(frame: bytes, picture_id: int) -> None:
    payloads = packetize_vp8(frame, picture_id)
    assert b"".join(payload[4:] for payload in payloads) == frame
    assert all(len(payload) <= MAX_PAYLOAD_BYTES for payload in payloads)
    sizes = [len(payload) for payload in payloads]
    assert not sizes or max(sizes) - min(sizes) < len(sizes) + 1


def test_what_aiortc_reads_of_a_vp8_packet_is_what_was_written() -> None:
    for index, payload in enumerate(packetize_vp8(bytes(range(250)) * 10, 32767)):
        descriptor, _ = VpxPayloadDescriptor.parse(payload)
        assert (descriptor.partition_start, descriptor.partition_id) == (index == 0, 0)
        assert descriptor.picture_id == 32767
