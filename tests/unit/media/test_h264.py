import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import RemoteProtocolError
from bridge.media import h264
from tests.unit.receive.streams import idr_with_pps, with_ids

# From x264: width, height, profile, level and how it was asked for.
SPS = {
    (1280, 720, 100, 31): "6764001facd9405005ba1000000300100000030320f1831960",
    (720, 1280, 66, 31): "6742c01fda02d0286840000003004000000c83c60ca8",
    (322, 182, 77, 13): "674d400deca0a8cf113420000003002000000641e28532c0",  # cropped on both axes
    (1920, 1080, 100, 40): "67640028acd94078044fdc20000003002000000643e2c5b2c0",  # interlaced
    (64, 64, 244, 10): "67f4000a919b2884d0800000030080000019078912cb",  # 4:4:4
}
HIGH = bytes.fromhex(SPS[1280, 720, 100, 31])
BASELINE = bytes.fromhex(SPS[720, 1280, 66, 31])
PPS = bytes.fromhex("68ef8fcb")
# A NAL unit holds no start code and does not end in a zero byte (H.264 §7.4.1).
NALS = st.lists(
    st.binary(min_size=1, max_size=40).map(lambda b: b.replace(b"\0\0", b"\0\1") + b"\x80"), min_size=1, max_size=6
)


@pytest.mark.parametrize("expected", SPS)
def test_profile_level_and_cropped_size_are_read(expected: tuple[int, int, int, int]) -> None:
    width_px, height_px, profile_idc, level_idc = expected

    assert h264.parse_sps(bytes.fromhex(SPS[expected])) == h264.SequenceParameters(
        profile_idc, level_idc, width_px, height_px
    )


def test_scaling_lists_are_skipped() -> None:
    # High, level 1.0, 4:2:0, a scaling matrix whose first list is present and falls back, then 16x16 pixels.
    bits = "01100100000000000000101010101101"
    bits += "1" + "000010001" + "0" * 7  # delta -8: the list ends, the default is used
    bits += "11101001111001"
    sps = b"\x67" + int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")

    assert h264.parse_sps(sps) == h264.SequenceParameters(100, 10, 16, 16)


@pytest.mark.parametrize("length", range(10))
def test_a_truncated_parameter_set_is_the_senders_mistake(length: int) -> None:
    with pytest.raises(RemoteProtocolError, match="truncated"):
        h264.parse_sps(HIGH[:length])


@given(st.binary(max_size=80))
def test_any_parameter_set_is_read_or_refused(sps: bytes) -> None:
    try:
        parsed = h264.parse_sps(b"\x67" + sps)
    except RemoteProtocolError:
        return
    assert parsed.width_px > 0 and parsed.height_px > 0


@given(NALS)
def test_both_byte_formats_carry_the_same_units(nals: list[bytes]) -> None:
    assert list(h264.split_avcc(h264.join_avcc(nals))) == nals
    assert list(h264.split_annexb(h264.join_annexb(nals))) == nals
    assert h264.avcc_to_annexb(h264.join_avcc(nals)) == h264.join_annexb(nals)


def test_start_codes_of_three_and_four_bytes_and_trailing_zeros_are_no_part_of_a_unit() -> None:
    assert list(h264.split_annexb(b"\0\0\1ab\0\0\0\1cd\0\0\0")) == [b"ab", b"cd"]
    assert list(h264.split_annexb(b"no start code")) == []


@pytest.mark.parametrize("payload", [b"\0", b"\0\0\0", b"\0\0\0\2a", h264.join_avcc([b"a"]) + b"\0"])
def test_a_length_past_the_end_is_the_senders_mistake(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        list(h264.split_avcc(payload))


@pytest.mark.parametrize("sps", [HIGH, BASELINE])
def test_a_decoder_configuration_gives_its_parameter_sets_back(sps: bytes) -> None:
    record = h264.decoder_configuration(sps, PPS)

    assert record[:6] == bytes([1]) + sps[1:4] + b"\xff\xe1"
    assert h264.parameter_sets(record) == ([sps], [PPS])


def test_a_decoder_configuration_may_hold_several_picture_parameter_sets() -> None:
    others = [with_ids(PPS, 1, number) for number in range(1, 4)]

    assert h264.parameter_sets(h264.decoder_configuration(HIGH, PPS, *others)) == ([HIGH], [PPS, *others])


@pytest.mark.parametrize("count", [0, 256])
def test_a_configuration_has_1_to_255_picture_parameter_sets(count: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"^{count} "):
        h264.decoder_configuration(HIGH, *[PPS] * count)


@pytest.mark.parametrize("number", [0, 1, 6, 31])
def test_the_ids_of_parameter_sets_and_slices_are_read(number: int) -> None:
    assert h264.sequence_set_id(with_ids(HIGH, 4, number)) == number
    assert h264.picture_set_ids(with_ids(PPS, 1, number + 200, number)) == (number + 200, number)
    assert h264.slice_picture_set_id(idr_with_pps(number + 200, first_mb=139_263)) == number + 200


def test_an_id_behind_emulation_prevention_is_read() -> None:
    # first_mb_in_slice 65535 is 16 zero bits, a one and 16 more: its first two bytes need a third one, 3.
    plain = idr_with_pps(5, first_mb=65_535)
    assert plain[1:3] == b"\0\0"

    assert h264.slice_picture_set_id(plain[:3] + b"\3" + plain[3:]) == 5


def test_ids_beyond_their_range_are_the_senders_mistake() -> None:
    for broken in (with_ids(PPS, 1, 256, 0), with_ids(PPS, 1, 0, 32), PPS[:1], b""):
        with pytest.raises(RemoteProtocolError):
            h264.picture_set_ids(broken)
    with pytest.raises(RemoteProtocolError):
        h264.sequence_set_id(with_ids(BASELINE, 4, 32))
    with pytest.raises(RemoteProtocolError):
        h264.slice_picture_set_id(idr_with_pps(256))


def test_only_the_high_profiles_carry_chroma_format_and_depth() -> None:
    assert h264.decoder_configuration(HIGH, PPS).endswith(PPS + bytes.fromhex("fdf8f800"))
    assert h264.decoder_configuration(BASELINE, PPS).endswith(PPS)


def test_a_parameter_set_that_is_too_short_makes_no_configuration() -> None:
    with pytest.raises(RemoteProtocolError):
        h264.decoder_configuration(b"\x67\x42", PPS)
    with pytest.raises(RemoteProtocolError):
        h264.decoder_configuration(HIGH, b"")


def test_every_truncation_of_a_configuration_is_the_senders_mistake() -> None:
    record = h264.decoder_configuration(BASELINE, PPS)

    for length in range(len(record)):
        with pytest.raises(RemoteProtocolError):
            h264.parameter_sets(record[:length])


def test_parameter_sets_that_are_numbered_anew_are_the_same_format() -> None:
    sps, pps = with_ids(BASELINE, 4, 1), with_ids(PPS, 1, 1, 1)
    before, after = h264.decoder_configuration(BASELINE, PPS), h264.decoder_configuration(sps, pps)

    assert before != after
    assert h264.is_same_format(before, after)


@pytest.mark.parametrize("changed", [HIGH, bytes.fromhex("6742c01fda014016e840000003004000000ca3c60ca8")])
def test_another_profile_or_size_is_another_format(changed: bytes) -> None:
    before = h264.decoder_configuration(BASELINE, PPS)

    assert not h264.is_same_format(before, h264.decoder_configuration(changed, PPS))


def test_another_level_is_another_format() -> None:
    higher = BASELINE[:3] + b"\x20" + BASELINE[4:]

    assert not h264.is_same_format(h264.decoder_configuration(BASELINE, PPS), h264.decoder_configuration(higher, PPS))


@pytest.mark.parametrize("broken", [b"", b"avcC", bytes.fromhex("0142c01fffe000"), bytes.fromhex("0142c01fffe1000167")])
def test_a_configuration_that_cannot_be_read_is_the_same_format_only_as_itself(broken: bytes) -> None:
    assert h264.is_same_format(broken, broken)
    assert not h264.is_same_format(broken, h264.decoder_configuration(BASELINE, PPS))
    assert not h264.is_same_format(b"\0" + broken, broken)


def test_parameter_sets_come_before_the_picture_in_annex_b() -> None:
    payload = h264.join_avcc([b"\x65slice"])

    annexb = h264.avcc_to_annexb(payload, h264.decoder_configuration(BASELINE, PPS))

    assert list(h264.split_annexb(annexb)) == [BASELINE, PPS, b"\x65slice"]


# From x264: NAL header and the first byte of a slice header, and whether it is a B slice (H.264 table 7-6).
SLICES = {
    "P of many kinds": (0x41, 0b1_1_000000, False),
    "P of one kind": (0x41, 0b1_00110_00, False),
    "B of many kinds": (0x01, 0b1_010_0000, True),
    "B of one kind": (0x01, 0b1_00111_00, True),
    "I": (0x41, 0b1_011_0000, False),
    "IDR": (0x65, 0b1_010_0000, False),
}


@pytest.mark.parametrize(("header", "first", "is_b"), SLICES.values(), ids=SLICES)
def test_a_b_picture_is_known_by_its_first_slice(header: int, first: int, is_b: bool) -> None:
    before = h264.join_avcc([b"\x09\xf0", b"\x06\x05\x01\x00\x80"])
    assert h264.is_b_picture(before + h264.join_avcc([bytes([header, first, 0x80])])) == is_b


@given(st.binary(max_size=60))
def test_any_bytes_are_a_b_picture_or_none(payload: bytes) -> None:
    assert h264.is_b_picture(payload) in (True, False)


def test_a_payload_of_empty_units_costs_no_more_than_another() -> None:
    assert not h264.is_b_picture(bytes(1_000_000))
