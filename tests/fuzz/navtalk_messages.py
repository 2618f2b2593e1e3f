"""NavTalk messages respelled and broken on purpose, and what must hold for any text at all."""

import json
from collections.abc import Iterator
from random import Random
from typing import Any

from bridge.errors import RemoteProtocolError
from bridge.protocols import navtalk
from bridge.protocols.navtalk_json import dump, parse_event, parse_request

KEYS = """
type data message raw_data sdp candidate sdpMid sdpMLineIndex iceServers urls url username credential sessionId content
transcript delta id response_id audio item role text error arguments name function_name call_id output avatarId voice
prompt tools streamId sequence reply image session expires_at
""".split()
TYPES = [value.TYPE for value in vars(navtalk).values() if isinstance(value, type) and hasattr(value, "TYPE")]
TYPES += [f"conversation.connected.{end}" for end in navtalk.End] + ["realtime_synthesis.tts.error", "unknow"]
LEAVES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    1.5,
    10**30,
    "",
    "0",
    1756324832,
    "{}",
    "[]",
    "null",
    "AAA=",
    "AAAA",
    "stun:a",
    "\ud800",
]

# What a provider's user wrote: its names are nobody's to respell.
OPAQUE = {"arguments", "tools", "output"}


def respelled(name: str, random: Random) -> str:
    """The same name in another case, with other underscores and hyphens."""
    letters = [letter for letter in name if letter not in "_-"]
    return "".join(random.choice(["", "", "_", "-"]) + random.choice([str.lower, str.upper])(c) for c in letters)


def respelled_type(name: str, random: Random) -> str:
    # The prefix is one of the type, and not of every dotted part: only the whole word before the first dot counts.
    return respelled(random.choice(["", "realtime."]) + name.removeprefix("realtime."), random)


def respelled_keys(value: Any, random: Random) -> Any:
    if isinstance(value, list):
        return [respelled_keys(inner, random) for inner in value]
    if not isinstance(value, dict):
        return value
    return {
        respelled(key, random): inner if key in OPAQUE else respelled_keys(inner, random)
        for key, inner in value.items()
    }


def broken_often(message: dict[str, Any], random: Random, times: int) -> dict[str, Any]:
    """The message broken so many times over, or begun anew where nothing was left of it."""
    whole = message
    for _ in range(times):
        message = broken(message, random) or whole
    return message


def broken(message: dict[str, Any], random: Random) -> dict[str, Any]:
    """The message with one value lost, null, of another type, in another place or under another name."""
    message = json.loads(json.dumps(message))
    container, key = random.choice(list(_spots(message)))
    match random.randrange(9):
        case 0:
            del container[key]
        case 1:
            container[key] = random.choice(LEAVES)
        case 2:
            container[key] = [container[key]]
        case 3:
            container[key] = {key if isinstance(key, str) else "data": container[key]}
        case 4:
            container[key] = {random.choice(KEYS): container[key]}
        case 5:
            container[key] = json.dumps(container[key])
        case 6:
            container[key] = random.choice(TYPES)
        case 7 if isinstance(container, dict):
            container[respelled(key, random)] = container.pop(key)
        case _:
            value = container.pop(key)
            places = [place for place, _ in _spots(message) if isinstance(place, dict)]
            random.choice([message, *places])[random.choice([str(key), *KEYS])] = value
    return message


def _spots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every value inside, as its container and its key there."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _spots(inner)


def read_both_ways(text: str) -> None:
    """Read a text at both ends: a message or a RemoteProtocolError; a message is written and read again as itself."""
    for parse in (parse_event, parse_request):
        try:
            message: Any = parse(text)
        except RemoteProtocolError as error:
            str(error).encode()
            continue
        str(message).encode()
        if _can_be_written(message):
            assert parse(dump(message)) == message


def _can_be_written(message: Any) -> bool:
    match message:
        case navtalk.AudioAppend(pcm16):
            return len(pcm16) <= 2 * navtalk.BUFFERED_SAMPLES
        case navtalk.Unknown():
            return False
        case navtalk.InputConfig(tools=tools) | navtalk.ToolList(tools):
            # Its objects are whatever JSON can hold, down to NaN, which is not even equal to itself.
            return not tools
        case _:
            return True
