"""The golden transcript of LiveKit, read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from livekit.protocol import models, rtc

FRAMES: Mapping[str, type[Message]] = {
    "SignalRequest": rtc.SignalRequest,
    "SignalResponse": rtc.SignalResponse,
    "DataPacket": models.DataPacket,
}


@dataclass(frozen=True, slots=True)
class Line:
    """One message of the documents.

    frame    one of FRAMES; url, token: the address that a client calls, and the claims of what it shows there.
    field    the number that the documents give to what the frame holds.
    message  in protobuf's JSON.  means, is_ours: as `tests.golden.navtalk.Line` has it.
    """

    origin: str
    from_service: bool
    is_ours: bool
    frame: str
    field: int
    message: dict[str, Any]
    means: dict[str, Any]

    def __str__(self) -> str:
        return f"{next(iter(self.means))}: {self.origin}"

    @property
    def read(self) -> Any:
        """The frame. Raises json_format.ParseError for names that LiveKit's own package does not know."""
        return json_format.ParseDict(self.message, FRAMES[self.frame]())


def _lines() -> tuple[Line, ...]:
    texts = map(json.loads, Path(__file__).with_name("livekit.jsonl").read_text().splitlines())
    return tuple(
        Line(
            line["origin"],
            line["from"] == "service",
            line.get("is_ours", False),
            line["frame"],
            line.get("field", 0),
            line["message"],
            line["means"],
        )
        for line in texts
    )


LINES = _lines()
