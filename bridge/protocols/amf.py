"""AMF0, the value notation of RTMP commands and FLV script tags (Adobe, "Action Message Format -- AMF 0", 2007).

Numbers are floats, objects are dicts. An ECMA array is an `EcmaArray`, a dict that keeps its marker: onMetaData wants
one. References, typed objects and the switch to AMF3 occur in no command of a publisher and are refused.
"""

import struct
from collections.abc import Callable
from enum import Enum
from typing import ClassVar, NamedTuple, TypeAlias, Union

from bridge.errors import LocalProtocolError, RemoteProtocolError

# No command that we know of nests deeper than 3; the bound keeps a hostile peer off the interpreter's stack.
MAX_DEPTH = 16
# §2.6: a string's length has 16 bits; longer ones are a type of their own (§2.14).
_MAX_SHORT_STRING_BYTES = 0xFFFF


class Undefined(Enum):
    """The value that is not even null; one member, so that it can be compared with `is`."""

    UNDEFINED = 0


UNDEFINED = Undefined.UNDEFINED


class Date(NamedTuple):
    """A moment. unix_ms may hold fractions; time_zone_min is reserved and 0 (§2.13)."""

    unix_ms: float
    time_zone_min: int = 0


Value: TypeAlias = Union[bool, float, str, Date, Undefined, list["Value"], dict[str, "Value"], None]  # noqa: UP007


class EcmaArray(dict[str, Value]):
    """An object that is written with a count in front (§2.10)."""


class _Marker:
    NUMBER = 0x00
    BOOLEAN = 0x01
    STRING = 0x02
    OBJECT = 0x03
    NULL = 0x05
    UNDEFINED = 0x06
    ECMA_ARRAY = 0x08
    OBJECT_END = 0x09
    STRICT_ARRAY = 0x0A
    DATE = 0x0B
    LONG_STRING = 0x0C


def encode(*values: Value) -> bytes:
    """Write values one after the other. Raises LocalProtocolError for what AMF0 cannot hold."""
    parts: list[bytes] = []
    for value in values:
        _encode(value, parts, 0)
    return b"".join(parts)


def decode(data: bytes) -> list[Value]:
    """Read all values of a message body. Raises RemoteProtocolError on anything that is not whole, known AMF0."""
    reader = _Reader(data)
    values: list[Value] = []
    try:
        while reader.position < len(data):
            values.append(reader.value(0))
    except (struct.error, IndexError):
        raise RemoteProtocolError(f"AMF0 body of {len(data)} bytes ends inside a value") from None
    return values


def _encode(value: Value, parts: list[bytes], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise LocalProtocolError(f"AMF0 value nests deeper than {MAX_DEPTH}")
    if value is None:
        parts.append(bytes([_Marker.NULL]))
    elif value is UNDEFINED:
        parts.append(bytes([_Marker.UNDEFINED]))
    elif isinstance(value, bool):
        parts.append(bytes([_Marker.BOOLEAN, value]))
    elif isinstance(value, int | float):
        parts.append(struct.pack("!Bd", _Marker.NUMBER, value))
    elif isinstance(value, str):
        text = _utf8(value)
        if len(text) <= _MAX_SHORT_STRING_BYTES:
            parts.append(struct.pack("!BH", _Marker.STRING, len(text)) + text)
        else:
            parts.append(struct.pack("!BI", _Marker.LONG_STRING, len(text)) + text)
    elif isinstance(value, Date):
        parts.append(struct.pack("!Bdh", _Marker.DATE, value.unix_ms, value.time_zone_min))
    elif isinstance(value, list):
        parts.append(struct.pack("!BI", _Marker.STRICT_ARRAY, len(value)))
        for item in value:
            _encode(item, parts, depth + 1)
    elif isinstance(value, dict):
        if isinstance(value, EcmaArray):
            parts.append(struct.pack("!BI", _Marker.ECMA_ARRAY, len(value)))
        else:
            parts.append(bytes([_Marker.OBJECT]))
        for key, item in value.items():
            name = _utf8(key)
            if len(name) > _MAX_SHORT_STRING_BYTES:
                raise LocalProtocolError(f"AMF0 property name of {len(name)} bytes")
            parts.append(struct.pack("!H", len(name)) + name)
            _encode(item, parts, depth + 1)
        parts.append(bytes([0, 0, _Marker.OBJECT_END]))
    else:
        raise LocalProtocolError(f"AMF0 has no type for {type(value).__name__}")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise LocalProtocolError("AMF0 string holds a lone surrogate") from None


class _Reader:
    """Reads values from a front position; struct.error or IndexError past the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def value(self, depth: int) -> Value:
        if depth > MAX_DEPTH:
            raise RemoteProtocolError(f"AMF0 value nests deeper than {MAX_DEPTH}")
        marker = self._data[self.position]
        self.position += 1
        if (read := self._SCALARS.get(marker)) is not None:
            return read(self)
        if marker == _Marker.OBJECT:
            return self._properties({}, depth)
        if marker == _Marker.ECMA_ARRAY:
            self._unpack("!I")  # the count is a hint that servers get wrong; the end marker decides
            return self._properties(EcmaArray(), depth)
        if marker == _Marker.STRICT_ARRAY:
            (count,) = self._unpack("!I")
            return [self.value(depth + 1) for _ in range(int(count))]
        raise RemoteProtocolError(f"AMF0 type 0x{marker:02x} is unknown")

    def _unpack(self, layout: str) -> tuple[float | int, ...]:
        fields = struct.unpack_from(layout, self._data, self.position)
        self.position += struct.calcsize(layout)
        return fields

    def _number(self) -> float:
        return self._unpack("!d")[0]

    def _boolean(self) -> bool:
        return bool(self._unpack("!B")[0])

    def _string(self) -> str:
        return self._text(int(self._unpack("!H")[0]))

    def _long_string(self) -> str:
        return self._text(int(self._unpack("!I")[0]))

    def _date(self) -> Date:
        unix_ms, time_zone_min = self._unpack("!dh")
        return Date(unix_ms, int(time_zone_min))

    def _text(self, length: int) -> str:
        end = self.position + length
        if end > len(self._data):
            raise IndexError
        # Words of servers are only shown and compared: a stray byte is no reason to end a broadcast.
        text = self._data[self.position : end].decode("utf-8", "replace")
        self.position = end
        return text

    def _properties(self, into: dict[str, Value], depth: int) -> dict[str, Value]:
        while True:
            name = self._string()
            if not name and self._data[self.position] == _Marker.OBJECT_END:
                self.position += 1
                return into
            into[name] = self.value(depth + 1)

    _SCALARS: ClassVar[dict[int, Callable[["_Reader"], Value]]] = {
        _Marker.NUMBER: _number,
        _Marker.BOOLEAN: _boolean,
        _Marker.STRING: _string,
        _Marker.NULL: lambda self: None,
        _Marker.UNDEFINED: lambda self: UNDEFINED,
        _Marker.DATE: _date,
        _Marker.LONG_STRING: _long_string,
    }
