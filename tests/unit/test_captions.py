"""What viewers are to read of what an avatar says."""

import pytest
from prometheus_client import CollectorRegistry

from bridge.captions import Captions
from bridge.config import NavTalkConfig
from bridge.desk import Desk
from bridge.dialogue import Dialogue
from bridge.events import EventLog
from bridge.ops.metrics import Metrics
from bridge.ports import AvatarEvent
from bridge.redact import Secret
from bridge.uplink import Uplink


def delta(text: str) -> AvatarEvent:
    return AvatarEvent("avatar_transcript_delta", "x", text)


def whole(text: str) -> AvatarEvent:
    return AvatarEvent("avatar_transcript", "x", text)


STARTED = AvatarEvent("response_started", "x")
ANSWERS: dict[str, tuple[list[AvatarEvent], list[str]]] = {
    "bit by bit": ([STARTED, delta("Hel"), delta("lo you"), whole("Hello you.")], ["Hel", "Hello you", "Hello you "]),
    "at once": ([STARTED, whole("Hello")], ["Hello "]),
    "in two texts": ([STARTED, whole("One."), delta("Two"), delta(".")], ["One. ", "One. Two", "One. Two."]),
    "one after another": ([STARTED, delta("One"), STARTED, delta("Two")], ["One", "Two"]),
}


@pytest.mark.parametrize(("events", "heard"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_is_told_as_far_as_it_is_known(events: list[AvatarEvent], heard: list[str]) -> None:
    told: list[str] = []
    captions = Captions(told.append)
    for event in events:
        captions.on_event(event)
    assert told == heard


@pytest.mark.parametrize("how", ["speech", "interrupt", "left"])
async def test_what_is_cut_off_is_not_read_and_the_next_answer_is(how: str) -> None:
    told: list[str] = []
    metrics = Metrics(CollectorRegistry()).session("leo", "navtalk")
    config = NavTalkConfig(license=Secret("sk_test"), name="navtalk.Leo")
    dialogue = Dialogue(config, Uplink(Desk(())), metrics, EventLog())
    dialogue.captions.listener = told.append
    for event in (STARTED, delta("I was about to")):
        dialogue.on_event(event)
    match how:
        case "speech":
            dialogue.on_event(AvatarEvent("speech_started", "x"))
        case "interrupt":
            dialogue.interrupt()
        case "left":
            await dialogue.avatar_left()
    dialogue.on_event(delta(" say more"))
    assert told == ["I was about to", ""]
    for event in (STARTED, delta("Yes?")):
        dialogue.on_event(event)
    assert told[-1] == "Yes?"
