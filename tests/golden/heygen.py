"""The golden transcripts of HeyGen and LiveAvatar, read."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from bridge.protocols import heygen
from tests.golden.navtalk import as_json


@dataclasses.dataclass(frozen=True)
class Line:
    """One message of the documents, as `tests.golden.navtalk.Line` has it."""

    origin: str
    from_service: bool
    is_ours: bool
    message: dict[str, Any]
    means: dict[str, Any]

    def __str__(self) -> str:
        return f"{next(iter(self.means))}: {self.origin}"

    @property
    def read(self) -> Any:
        text = json.dumps(self.message)
        return heygen.parse_event(text) if self.from_service else heygen.parse_command(text)

    @property
    def meaning(self) -> Any:
        return as_json(self.read)


def _lines() -> tuple[Line, ...]:
    texts = map(json.loads, Path(__file__).with_name("heygen.jsonl").read_text().splitlines())
    return tuple(
        Line(line["origin"], line["from"] == "service", line.get("is_ours", False), line["message"], line["means"])
        for line in texts
    )


LINES = _lines()
