"""NavTalk's video generation: a clip is ordered over HTTP, asked about until it is rendered, and downloaded.

Source: docs.navtalk.ai, "Video Synthesis API", its quick start, and "FAQ". They name two hosts, and show no error.
"""

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from bridge.errors import RemoteProtocolError
from bridge.protocols.navtalk_fields import Body, filled, fold, identifier, object_fields

SUBMIT_PATH, STATUS_PATH = "/generate", "/query_status"

Visual = Literal["video_url", "image_url", "character_name"]
Sound = Literal["audio_url", "audio_base64", "content"]
# Each of the first with each of the second: the nine combinations of the page.
VISUALS: tuple[Visual, ...] = ("video_url", "image_url", "character_name")
SOUNDS: tuple[Sound, ...] = ("audio_url", "audio_base64", "content")


@dataclass(frozen=True, slots=True)
class Order:
    """Who is to be seen, and what is to be said. `voice`: of `content`, a text."""

    visual: Visual
    seen: str
    sound: Sound
    said: str
    voice: str | None = None

    def body(self, license: str) -> dict[str, str]:
        """What is posted."""
        voice = {"voice": self.voice} if self.voice is not None else {}
        return {"license": license, self.visual: self.seen, self.sound: self.said, **voice}

    @property
    def digest(self) -> str:
        """A name for the clip: the same for the same order."""
        return hashlib.sha256(json.dumps(self.body(""), sort_keys=True).encode()).hexdigest()[:20]


class Status(StrEnum):
    STARTED = "started"
    PROCESSING = "processing"
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Task:
    """How an order is doing. `video_url`: of what is done. `message`: what the service says besides, or an unknown
    status.
    """

    status: Status
    task_id: str = ""
    video_url: str = ""
    message: str = ""


def parse_task(text: str) -> Task:
    """Read an answer of either kind. Raises RemoteProtocolError for what is none."""
    body = Body("the answer", object_fields(text) or {})
    task_id, message = body.find(identifier, "task_id") or "", body.text("message", "error", "detail")
    name = body.text("status")
    if not name:
        raise RemoteProtocolError(f"the answer holds no status{f': {message}' if message else ''}")
    status = next((status for status in Status if status == fold(name)), Status.UNKNOWN)
    if status is Status.UNKNOWN:
        return Task(status, task_id, message=message or name)
    video_url = body.text("video_url", "url")
    if status is Status.DONE and not video_url:
        raise RemoteProtocolError("the clip is done, and the answer holds no video_url")
    return Task(status, task_id, video_url, message)


def dump_task(task: Task) -> dict[str, str]:
    values = {
        "status": task.status.value,
        "task_id": task.task_id,
        "video_url": task.video_url,
        "message": task.message,
    }
    return {name: value for name, value in values.items() if value}


def parse_order(text: str) -> tuple[Order, str]:
    """Read what a client posts: the order, and the licence. Raises RemoteProtocolError."""
    body = Body("the order", object_fields(text) or {})
    visual, seen = _only(body, VISUALS)
    sound, said = _only(body, SOUNDS)
    return Order(visual, seen, sound, said, body.find(filled, "voice")), body.text("license")


def _only(body: Body, names: tuple[Any, ...]) -> tuple[Any, str]:
    given = [(name, text) for name in names if (text := body.text(name))]
    if len(given) != 1:
        raise RemoteProtocolError(f"the order needs one of {', '.join(names)}, and has {len(given)}")
    return given[0]
