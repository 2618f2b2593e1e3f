import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.media.clock import NS_PER_S
from bridge.protocols.header_extension import capture_time, element, is_usable_id, one_byte_block, read_capture_time

VALUES = st.binary(min_size=1, max_size=16)


@given(st.dictionaries(st.integers(1, 14), VALUES))
def test_what_is_written_is_found_by_its_number(elements: dict[int, bytes]) -> None:
    block = one_byte_block(elements.items())
    assert len(block) % 4 == 0
    for identifier in range(1, 256):
        assert element(block, identifier) == elements.get(identifier, b"")


@given(
    st.sampled_from([b"\xbe\xde", b"\x10\x00", b"\x10\x0f", b"\xab\xcd", b"\xbe", b""]),
    st.binary(),
    st.integers(1, 255),
)
def test_no_block_is_too_strange(profile: bytes, rest: bytes, identifier: int) -> None:
    assert element(profile + rest, identifier) in rest


def test_what_does_not_fit_the_form_is_left_out() -> None:
    assert one_byte_block([(0, b"1"), (15, b"1"), (3, b""), (4, bytes(17))]) == b""
    assert one_byte_block([(15, b"1"), (2, b"ab")]) == b"\xbe\xde\x00\x01\x21ab\x00"


@pytest.mark.parametrize("identifier", [-1, 0, 15, 256])
def test_no_element_has_such_a_number(identifier: int) -> None:
    assert not is_usable_id(identifier)


@given(st.integers(1, 2**32 * NS_PER_S - 1))
def test_a_capture_time_keeps_its_nanoseconds(ntp_ns: int) -> None:
    assert read_capture_time(capture_time(ntp_ns), is_mixed=False) == ntp_ns


@given(st.binary(max_size=20), st.booleans())
def test_every_value_is_a_time_or_none(value: bytes, is_mixed: bool) -> None:
    ntp_ns = read_capture_time(value, is_mixed=is_mixed)
    assert ntp_ns >= 0
    if len(value) not in ((16,) if is_mixed else (8, 16)):
        assert ntp_ns == 0


def test_the_offset_leads_from_the_capturing_clock_to_the_senders() -> None:
    captured = capture_time(1000 * NS_PER_S)
    assert read_capture_time(captured + struct.pack("!q", 2 << 32), is_mixed=True) == 998 * NS_PER_S
    assert read_capture_time(captured + struct.pack("!q", -(2 << 32)), is_mixed=False) == 1002 * NS_PER_S
