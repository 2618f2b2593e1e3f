"""NavTalk's video generation: orders, and what is said of them."""

import itertools
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import RemoteProtocolError
from bridge.protocols.navtalk_clips import (
    SOUNDS,
    VISUALS,
    Order,
    Sound,
    Status,
    Task,
    Visual,
    dump_task,
    parse_order,
    parse_task,
)

# Each with its source: what the service answers.
ANSWERS: dict[str, tuple[dict[str, Any], Task]] = {
    "FAQ": ({"status": "started", "task_id": "xxxxx"}, Task(Status.STARTED, "xxxxx")),
    "FAQ: done": ({"status": "done", "video_url": "https://v/1.mp4"}, Task(Status.DONE, "", "https://v/1.mp4")),
    "quick start: processing": ({"status": "processing"}, Task(Status.PROCESSING)),
    "quick start: failed": ({"status": "failed", "message": "no face"}, Task(Status.FAILED, message="no face")),
    "inferred: in data": (
        {"code": 200, "data": {"status": "Done", "videoUrl": "u"}},
        Task(Status.DONE, "", "u"),
    ),
    "inferred: a status to come": ({"status": "queued", "task_id": 7}, Task(Status.UNKNOWN, "7", message="queued")),
}


@pytest.mark.parametrize("origin", ANSWERS)
def test_every_answer_of_the_documents_is_read(origin: str) -> None:
    answer, task = ANSWERS[origin]
    assert parse_task(json.dumps(answer)) == task


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no status"),
        ("<html>Bad Gateway</html>", "no status"),
        ('{"code": 401, "message": "Invalid license key"}', "no status: Invalid license key"),
        ('{"status": "done"}', "no video_url"),
    ],
)
def test_what_is_no_answer_is_refused(text: str, words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=words):
        parse_task(text)


@pytest.mark.parametrize(("visual", "sound"), [*itertools.product(VISUALS, SOUNDS)])
def test_each_of_the_nine_combinations_is_an_order(visual: Visual, sound: Sound) -> None:
    order = Order(visual, "who", sound, "what", "alloy" if sound == "content" else None)
    body = order.body("sk_1")
    assert {visual: "who", sound: "what", "license": "sk_1"}.items() <= body.items()
    assert parse_order(json.dumps(body)) == (order, "sk_1")


@pytest.mark.parametrize("body", [{}, {"video_url": "a"}, {"video_url": "a", "image_url": "b", "content": "c"}])
def test_an_order_has_one_of_each(body: dict[str, str]) -> None:
    with pytest.raises(RemoteProtocolError, match="needs one of"):
        parse_order(json.dumps(body))


def test_the_same_order_has_the_same_name_and_another_one_another() -> None:
    order = Order("character_name", "girl2", "content", "Hello", "nova")
    assert order.digest == Order("character_name", "girl2", "content", "Hello", "nova").digest
    assert order.digest != Order("character_name", "girl2", "content", "Hello").digest


keys = st.sampled_from(["status", "task_id", "video_url", "message", "data"])
answers = st.dictionaries(keys, st.text() | st.integers() | st.none()).map(json.dumps)


@given(st.text() | answers)
def test_any_text_is_an_answer_or_refused(text: str) -> None:
    with suppress(RemoteProtocolError):
        task = parse_task(text)
        if task.status is not Status.UNKNOWN:
            assert parse_task(json.dumps(dump_task(task))) == task
    with suppress(RemoteProtocolError):
        parse_order(text)
