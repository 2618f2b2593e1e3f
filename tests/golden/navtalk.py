"""The golden transcripts of NavTalk, read; as a program it writes the seeds of the fuzzer.

python -m tests.golden.navtalk tests/fuzz/seeds/navtalk
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bridge.protocols import navtalk_legacy
from bridge.protocols.navtalk_json import parse_event, parse_request

# By interface and WebSocket: how each end reads what the other one sends, the client first.
READERS: Mapping[str, tuple[Callable[[str], Any], Callable[[str], Any]]] = {
    "v2": (parse_event, parse_request),
    "legacy": (navtalk_legacy.parse_event, navtalk_legacy.parse_request),
    "signalling": (navtalk_legacy.parse_signal, navtalk_legacy.parse_signal),
}


@dataclasses.dataclass(frozen=True)
class Line:
    """One message of the documents.

    means    the message's name and those of its fields that are not at their default.
    is_ours  it is also the form that we write.
    readers  one of READERS.
    """

    origin: str
    from_service: bool
    is_ours: bool
    message: dict[str, Any]
    means: dict[str, Any]
    readers: str = "v2"

    def __str__(self) -> str:
        return f"{next(iter(self.means))}: {self.origin}"

    def parse(self, message: dict[str, Any]) -> Any:
        """Read `message` as the end that this line is sent to."""
        client, service = READERS[self.readers]
        return (client if self.from_service else service)(json.dumps(message))


def as_json(value: Any) -> Any:
    """A message as the golden file writes its meaning."""
    match value:
        case bytes():
            return value.hex()
        case tuple():
            return [as_json(inner) for inner in value]
        case _ if not dataclasses.is_dataclass(value):
            return value
    fields = {
        field.name: as_json(getattr(value, field.name))
        for field in dataclasses.fields(value)
        if getattr(value, field.name) != field.default
    }
    return {type(value).__name__: fields} if hasattr(value, "TYPE") else fields


def _lines(file: str, readers: str) -> Iterator[Line]:
    for text in Path(__file__).with_name(file).read_text().splitlines():
        line = json.loads(text)
        yield Line(
            line["origin"],
            line["from"] == "service",
            line.get("is_ours", False),
            line["message"],
            line["means"],
            line.get("socket", readers),
        )


LINES = tuple(_lines("navtalk_v2.jsonl", "v2"))
LEGACY_LINES = tuple(_lines("navtalk_legacy.jsonl", "legacy"))


def seeds() -> dict[str, str]:
    """Every message as JSON text, by a name made of its content."""
    texts = {json.dumps(line.message, ensure_ascii=False) for line in LINES}
    return {hashlib.sha256(text.encode()).hexdigest()[:16]: text for text in texts}


if __name__ == "__main__":
    for name, text in seeds().items():
        (Path(sys.argv[1]) / name).write_text(text)
