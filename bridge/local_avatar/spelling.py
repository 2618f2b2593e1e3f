"""How the service writes its events: as the vendor's own page reads them, or in another way that documents allow."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge.local_avatar.faults import Faults
from bridge.protocols import navtalk
from bridge.protocols.navtalk_json import dump

_Fields = Mapping[str, Any]

# Where the values of an event stand: from those beside `data`, which is the message for people, and those in it.
_NESTINGS: Mapping[str, Callable[[_Fields, _Fields], dict[str, Any]]] = {
    "wrapped": lambda outer, data: {**outer, "data": data},
    "flat": lambda outer, data: {**outer, **data},
    "double": lambda outer, data: {"data": {"data": {**outer, **data}}},
    "raw": lambda outer, data: {"raw_data": {**outer, **data}},
}
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)


def _snake(name: str) -> str:
    return _HUMP.sub("_", name).lower()


def _upper(name: str) -> str:
    return _snake(name).upper()


# How names are spelled; a vendor's page alone has sessionId beside call_id and function_name.
_NAMES: Mapping[str, Callable[[str], str]] = {"camel": _camel, "snake": _snake, "upper": _upper}


@dataclass(frozen=True, slots=True)
class _Dialect:
    """Other names, which some document or application gives: of events, and of an event's values.

    has_deltas        of a tool call's arguments.
    raw               values that stand in `raw_data` alone.
    gives_objects     arguments are an object, not its text.
    """

    types: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    has_deltas: bool = True
    raw: frozenset[str] = frozenset()
    gives_objects: bool = False


_DIALECTS: Mapping[str, _Dialect] = {
    # The interface that the vendor's resembles.
    "openai": _Dialect(
        types={navtalk.AvatarAudioDone.TYPE: navtalk.ResponseDone.TYPE},
        names={
            navtalk.UserTranscript.TYPE: {"content": "transcript"},
            navtalk.AvatarTranscriptDelta.TYPE: {"content": "delta", "id": "response_id"},
            navtalk.AvatarTranscript.TYPE: {"content": "transcript", "id": "response_id"},
            navtalk.FunctionCall.TYPE: {"function_name": "name"},
        },
    ),
    # What the vendor's own applications still read.
    "apps": _Dialect(
        types={navtalk.AvatarAudioDone.TYPE: "realtime.response.completed"}
        | {
            navtalk.Ended.TYPE + end: f"session.{end}"
            for end in (
                navtalk.End.GPU_FULL,
                navtalk.End.INSUFFICIENT_BALANCE,
                navtalk.End.CONNECTION_LIMIT_EXCEEDED,
            )
        },
        names={
            navtalk.FunctionCallDelta.TYPE: {"call_id": "callId"},
            navtalk.FunctionCall.TYPE: {"call_id": "callId"},
        },
        gives_objects=True,
    ),
    # The page on function calls, which shows neither a name nor deltas.
    "terse": _Dialect(
        names={navtalk.FunctionCall.TYPE: {"call_id": "id"}},
        has_deltas=False,
        raw=frozenset({"function_name"}),
    ),
}


class Spelling:
    """Writes events as the faults `nesting`, `spelling`, `alias`, `sdp-string` and `ice-servers` ask, else as `dump`
    does.
    """

    def __init__(self, faults: Faults, write: Callable[[navtalk.Event], str | None] = dump) -> None:
        """`write`: the form that is respelled; None for an event that has none."""
        self._faults = faults
        self._write = write
        self._nest = _NESTINGS[faults.choice("nesting", "wrapped")]
        self._spelling = faults.choice("spelling")
        self._dialect = _DIALECTS.get(faults.choice("alias"), _Dialect())
        self._ice_servers = faults.choice("ice-servers")
        names = ("nesting", "spelling", "alias", "sdp-string", "ice-servers")
        self._is_plain = not any(name in faults for name in names)

    def write(self, event: navtalk.Event) -> str | None:
        """The text of one event; None for one that such a service does not send."""
        text = self._write(event)
        if text is None or self._is_plain:
            return text
        for fault in ("nesting", "spelling"):
            self._faults.strikes(fault)
        outer = json.loads(text)
        type_name, data = outer.pop("type"), outer.pop("data", {})
        if isinstance(event, navtalk.Offer | navtalk.Answer) and self._faults.strikes("sdp-string"):
            data["sdp"] = event.sdp
        if isinstance(event, navtalk.Connected):
            self._place_ice_servers(data)
        if isinstance(event, navtalk.FunctionCallDelta) and not self._dialect.has_deltas:
            return None
        type_name, data = self._translate(type_name, outer, data)
        if self._spelling == "bare":
            type_name = type_name.removeprefix("realtime.")
        message = {"type": type_name, **self._nest(outer, data)}
        name = _NAMES.get(self._spelling)
        return json.dumps(_rename(message | {"type": name(type_name)}, name) if name else message)

    def _translate(self, type_name: str, outer: dict[str, Any], data: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        dialect = self._dialect
        names = dialect.names.get(type_name, {})
        if names or type_name in dialect.types:
            self._faults.strikes("alias")
        if dialect.gives_objects and "arguments" in data:
            data["arguments"] = json.loads(data["arguments"])
        if raw := dialect.raw & data.keys():
            outer["raw_data"] = {name: data.pop(name) for name in raw}
        return dialect.types.get(type_name, type_name), {names.get(name, name): value for name, value in data.items()}

    def _place_ice_servers(self, data: dict[str, Any]) -> None:
        self._faults.strikes("ice-servers")
        servers = data.pop("iceServers")
        match self._ice_servers:
            case "none":
                return
            case "string":
                data["iceServers"] = [{**server, "urls": url} for server in servers for url in server["urls"]]
            case "snake":
                data["ice_servers"] = servers
            case _:
                data["iceServers"] = servers


def _rename(value: Any, name: Callable[[str], str]) -> Any:
    """The same JSON value with every key of its objects renamed, but for those of a tool's arguments."""
    match value:
        case dict():
            return {name(key): inner if key == "arguments" else _rename(inner, name) for key, inner in value.items()}
        case list():
            return [_rename(inner, name) for inner in value]
        case _:
            return value
