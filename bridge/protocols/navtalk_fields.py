"""Values of a NavTalk v2 message by their names, in whatever case and place they stand."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from bridge.errors import RemoteProtocolError

# The documents nest twice (data.data), and show raw_data beside and inside.
_MAX_NESTING = 3

_T = TypeVar("_T")

# ---------------------------------------------------------------------------------------------- names and places


def fold(name: str) -> str:
    """Make one of sessionId, session_id, SessionID and session-id."""
    return name.replace("_", "").replace("-", "").lower()


def fold_type(name: str) -> str:
    # The documents use the prefix and leave it out at will, for one and the same event.
    return fold(name).removeprefix("realtime.")


class Body:
    """Finds a value in every place where the documents show one: data.data, data, the top level, raw_data.

    A value of another type than the one wanted counts as missing.
    """

    def __init__(self, type_name: str, fields: Mapping[str, Any]) -> None:
        self.type = type_name
        self._places = _places(fields, _MAX_NESTING)

    def find(self, read: Callable[[Any], _T | None], *names: str) -> _T | None:
        """The first value that `read` accepts; all names are tried in one place before the next."""
        folded = [fold(name) for name in names]
        values = (read(place.get(name)) for place in self._places for name in folded)
        return next((value for value in values if value is not None), None)

    def require(self, read: Callable[[Any], _T | None], *names: str) -> _T:
        value = self.find(read, *names)
        if value is None:
            raise self.lacking(names[0])
        return value

    def lacking(self, what: str) -> RemoteProtocolError:
        return RemoteProtocolError(f"{self.type} holds no {what}")

    def text(self, *names: str) -> str:
        """The first text that is not empty, or none."""
        return self.find(filled, *names) or ""

    def within(self, name: str) -> "Body":
        """The fields of the object of this name, which may itself hold one of the same name; else these fields."""
        body = self
        while (inner := body.find(object_fields, name)) is not None:
            body = Body(self.type, inner)
        return body

    def has_blank(self, name: str) -> bool:
        """Whether a field is there on purpose, and null or empty."""
        return any(name in place and place[name] in (None, "") for place in self._places)


def _places(fields: Mapping[str, Any], levels: int) -> list[Mapping[str, Any]]:
    """These fields and those of the objects they wrap, best first: `data` outranks its wrapper, `raw_data` does not."""
    inner, raw = (object_fields(fields.get(name)) if levels else None for name in ("data", "rawdata"))
    outranking = _places(inner, levels - 1) if inner is not None else []
    return [*outranking, fields, *(_places(raw, levels - 1) if raw is not None else [])]


# ---------------------------------------------------------------------------------------------- values


def load(value: Any) -> Any:
    """What JSON text stands for; anything else stands for itself."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def object_fields(value: Any) -> dict[str, Any] | None:
    """Read an object, or its JSON text, and fold the names of its own fields; of two alike the first non-null stays."""
    loaded = load(value)
    if not isinstance(loaded, dict):
        return None
    fields: dict[str, Any] = {}
    for name, field in loaded.items():
        if fields.get(fold(name)) is None:
            fields[fold(name)] = field
    return fields


def string(value: Any) -> str | None:
    # JSON can spell half a surrogate pair, which no log and no socket could take.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def filled(value: Any) -> str | None:
    return string(value) or None


def identifier(value: Any) -> str | None:
    """Read an id: services that count write a number."""
    return str(value) if type(value) is int else filled(value)


def count(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value):
        return int(value)
    return int(value) if isinstance(value, int) and value >= 0 else None


def unix_time_s(value: Any) -> float | None:
    """Read a time since 1970; what counts milliseconds, as JavaScript does, would lie after the year 5000."""
    if isinstance(value, str) and re.fullmatch("[0-9]{10,13}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    seconds = value / 1000 if 1e11 <= value < 1e14 else value
    return float(seconds) if 1e9 <= seconds < 1e11 else None


def json_text(value: Any) -> str | None:
    """Read JSON text, which the documents also show as the object it stands for."""
    try:
        return json.dumps(value) if isinstance(value, dict) else filled(value)
    except RecursionError:
        return None
