import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import LocalProtocolError, RemoteProtocolError
from bridge.protocols import amf

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
DATES = st.builds(amf.Date, st.floats(allow_nan=False), st.integers(-(2**15), 2**15 - 1))
SCALARS = st.none() | st.just(amf.UNDEFINED) | st.booleans() | st.floats(allow_nan=False) | TEXT | DATES
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(TEXT, inner, max_size=4)
        | st.dictionaries(TEXT, inner, max_size=4).map(amf.EcmaArray)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (1.5, "00 3ff8000000000000"),
        (True, "01 01"),
        (False, "01 00"),
        ("ab", "02 0002 6162"),
        ({"a": None}, "03 0001 61 05 0000 09"),
        (None, "05"),
        (amf.UNDEFINED, "06"),
        (amf.EcmaArray(a=True), "08 00000001 0001 61 01 01 0000 09"),
        ([None, "x"], "0a 00000002 05 02 0001 78"),
        (amf.Date(0.0, 0), "0b 0000000000000000 0000"),
    ],
)
def test_every_type_has_the_bytes_of_the_specification(value: amf.Value, wire: str) -> None:
    assert amf.encode(value) == bytes.fromhex(wire)
    assert amf.decode(bytes.fromhex(wire)) == [value]


def test_a_string_beyond_16_bits_of_length_becomes_a_long_string() -> None:
    wire = amf.encode("x" * 65_536)

    assert wire[:5] == bytes.fromhex("0c 00010000")
    assert amf.decode(wire) == ["x" * 65_536]


@given(st.lists(VALUES, max_size=4))
def test_what_was_encoded_decodes_to_the_same(values: list[amf.Value]) -> None:
    assert amf.decode(amf.encode(*values)) == values


def test_an_integer_is_written_as_a_number() -> None:
    assert amf.decode(amf.encode(7)) == [7.0]


def test_not_a_number_survives() -> None:
    (value,) = amf.decode(amf.encode(math.nan))
    assert isinstance(value, float) and math.isnan(value)


def test_an_ecma_array_ends_at_its_marker_whatever_it_counted() -> None:
    assert amf.decode(bytes.fromhex("08 000000ff 0001 61 05 0000 09 05")) == [{"a": None}, None]


def test_a_stray_byte_in_a_string_is_replaced() -> None:
    assert amf.decode(bytes.fromhex("02 0002 61ff")) == ["a\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize(
    "wire", ["00 3ff8", "01", "02 0005 6162", "03 0001 61 05", "08 0000", "0a 00000002 05", "0b 00"]
)
def test_a_truncated_value_is_the_peers_mistake(wire: str) -> None:
    with pytest.raises(RemoteProtocolError, match="ends inside a value"):
        amf.decode(bytes.fromhex(wire))


@pytest.mark.parametrize("marker", [0x04, 0x07, 0x09, 0x0D, 0x0F, 0x10, 0x11, 0xFF])
def test_an_unknown_type_is_the_peers_mistake(marker: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"0x{marker:02x} is unknown"):
        amf.decode(bytes([marker, 0, 0]))


def test_a_count_of_four_thousand_million_ends_with_the_bytes() -> None:
    with pytest.raises(RemoteProtocolError):
        amf.decode(bytes.fromhex("0a ffffffff") + b"\5" * 100)


def test_nesting_is_bounded_both_ways() -> None:
    nested: amf.Value = None
    for _ in range(amf.MAX_DEPTH):
        nested = [nested]
    assert amf.decode(amf.encode(nested)) == [nested]
    with pytest.raises(LocalProtocolError, match="deeper"):
        amf.encode([nested])
    with pytest.raises(RemoteProtocolError, match="deeper"):
        amf.decode(bytes.fromhex("0a 00000001") * 1000 + b"\5")


@pytest.mark.parametrize("value", ["\ud800", {"x" * 65_536: None}, {1, 2}])
def test_what_amf_cannot_hold_is_our_mistake(value: object) -> None:
    with pytest.raises(LocalProtocolError):
        amf.encode(value)  # type: ignore[arg-type]
