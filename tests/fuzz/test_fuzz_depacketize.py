"""Whatever a sender sends: units that keep what they promise, or nothing; never an exception."""

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.media.access_unit import Codec, Kind, ReceivedUnit
from bridge.media.h264 import NAL_PPS, NAL_SPS, nal_type, parameter_sets, parse_sps, split_avcc
from bridge.media.rtp import RtpPacket
from bridge.receive.track import TrackReceiver
from tests.unit.receive.streams import (
    H264_TYPE,
    IDR,
    OPUS_TYPE,
    PPS,
    SLICE,
    SPS,
    fu_a,
    idr_with_pps,
    pps_with_ids,
    sps_with_id,
    stap_a,
)

OTHER_SETS = (sps_with_id(1), pps_with_ids(1, 1), pps_with_ids(2, 0))
PIECES = [SPS, PPS, IDR, SLICE, stap_a(SPS, PPS), stap_a(SPS, PPS, IDR), *fu_a(IDR, 4), *fu_a(SLICE, 2), b""]
PIECES += [stap_a(*OTHER_SETS), idr_with_pps(1), idr_with_pps(2, first_mb=9)]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A well-formed payload, cut short or with a byte changed."""
    payload = bytearray(draw(st.sampled_from(PIECES)))
    if payload and draw(st.booleans()):
        payload[draw(st.integers(0, min(len(payload), 40) - 1))] = draw(st.integers(0, 255))
    return bytes(payload[: draw(st.integers(0, len(payload)))] if draw(st.booleans()) else payload)


PAYLOADS = st.one_of(st.sampled_from(PIECES), damaged(), st.binary(max_size=40))
# A descriptor, whole or not, before a keyframe's or another frame's beginning.
VP8_PAYLOADS = st.one_of(
    st.binary(max_size=12),
    st.builds(
        bytes.__add__,
        st.one_of(st.sampled_from([b"\x10", b"\x00", b"\x90\x80\x91\x22"]), st.binary(max_size=6)),
        st.sampled_from([b"\x10\x02\x00\x9d\x01\x2a\xa0\x00\x78\x00" + bytes(9), b"\x11\x02\x00" + bytes(9)]),
    ),
)
Step = tuple[bytes, int, int, bool, int, int, int]


# Steps of a sequence number, a timestamp and the arrival that a packet makes from the one before.
def packets(payloads: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[Step]]:
    return st.lists(
        st.tuples(
            payloads,
            st.sampled_from([1] * 8 + [0, 2, 3, -1, -2, 300, 40_000]),
            st.sampled_from([0, 0, 0, 3600, 3600, -3600, 2**31, 2**20]),
            st.booleans(),
            st.sampled_from([1] * 12 + [2]),
            st.sampled_from([H264_TYPE] * 8 + [OPUS_TYPE, 0]),
            st.integers(0, 200_000_000),
        ),
        max_size=60,
    )


def receive(kind: Kind, codec: Codec, payload_type: int, steps: list[Step]) -> None:
    receiver = TrackReceiver({payload_type: codec}, kind, now_ns=0)
    sequence_number, timestamp, now_ns = 65_530, 2**32 - 7200, 0
    for payload, sequence_step, timestamp_step, marker, ssrc, packet_type, pause_ns in steps:
        sequence_number = (sequence_number + sequence_step) % 2**16
        timestamp = (timestamp + timestamp_step) % 2**32
        now_ns += pause_ns
        packet = RtpPacket(ssrc, packet_type, sequence_number, timestamp, marker, payload, now_ns)
        for unit in receiver.push(packet):
            check(unit, codec)
        deadline_ns = receiver.next_deadline_ns()
        if deadline_ns is not None and deadline_ns <= now_ns:
            feedback = receiver.poll(now_ns)
            assert all(0 <= number < 2**16 for number in feedback.nacks)
            for unit in feedback.units:
                check(unit, codec)
    receiver.poll(now_ns + 10**9)
    assert receiver.stats.received + receiver.stats.late <= len(steps)


def check(unit: ReceivedUnit, codec: Codec) -> None:
    assert unit.codec is codec
    assert unit.first_arrival_ns <= unit.arrival_ns
    if codec is Codec.OPUS:
        assert unit.payload and unit.duration_ns > 0
        return
    if codec is Codec.VP8:
        assert unit.payload and unit.is_keyframe == (not unit.payload[0] & 1)
        assert not unit.is_keyframe or unit.payload[3:6] == b"\x9d\x01\x2a"
        return
    types = [nal_type(nal) for nal in split_avcc(unit.payload)]
    assert any(1 <= each <= 5 for each in types)
    assert not {NAL_SPS, NAL_PPS} & set(types)
    assert unit.is_keyframe == (5 in types) == bool(unit.codec_config)
    if unit.is_keyframe:
        (sps,), picture_sets = parameter_sets(unit.codec_config)
        parse_sps(sps)
        assert picture_sets and all(picture_sets)


@settings(max_examples=300, deadline=None)
@given(packets(PAYLOADS))
def test_no_h264_packet_breaks_the_receiver(steps: list[Step]) -> None:
    receive("video", Codec.H264, H264_TYPE, steps)


@settings(max_examples=100, deadline=None)
@given(packets(PAYLOADS))
def test_no_opus_packet_breaks_the_receiver(steps: list[Step]) -> None:
    receive("audio", Codec.OPUS, H264_TYPE, steps)


@settings(max_examples=150, deadline=None)
@given(packets(VP8_PAYLOADS))
def test_no_vp8_packet_breaks_the_receiver(steps: list[Step]) -> None:
    receive("video", Codec.VP8, H264_TYPE, steps)
