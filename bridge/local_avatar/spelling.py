"""How the service writes its events: as the vendor's own page reads them, or in another way that documents allow."""

import json
import re
from collections.abc import Callable, Mapping
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


class Spelling:
    """Writes events as the faults `nesting`, `spelling`, `sdp-string` and `ice-servers` ask, else as `dump` does."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._nest = _NESTINGS[faults.choice("nesting", "wrapped")]
        self._spelling = faults.choice("spelling")
        self._ice_servers = faults.choice("ice-servers")
        self._is_plain = not any(name in faults for name in ("nesting", "spelling", "sdp-string", "ice-servers"))

    def write(self, event: navtalk.Event) -> str:
        """The text of one event."""
        text = dump(event)
        if self._is_plain:
            return text
        for fault in ("nesting", "spelling"):
            self._faults.strikes(fault)
        outer = json.loads(text)
        type_name, data = outer.pop("type"), outer.pop("data", {})
        if isinstance(event, navtalk.Offer | navtalk.Answer) and self._faults.strikes("sdp-string"):
            data["sdp"] = event.sdp
        if isinstance(event, navtalk.Connected):
            self._place_ice_servers(data)
        if self._spelling == "bare":
            type_name = type_name.removeprefix("realtime.")
        message = {"type": type_name, **self._nest(outer, data)}
        name = _NAMES.get(self._spelling)
        return json.dumps(_rename(message | {"type": name(type_name)}, name) if name else message)

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
    """The same JSON value with every key of its objects renamed."""
    match value:
        case dict():
            return {name(key): _rename(inner, name) for key, inner in value.items()}
        case list():
            return [_rename(inner, name) for inner in value]
        case _:
            return value
