"""Who speaks over the avatar, and what becomes of what waits to be said."""

import pytest
from prometheus_client import CollectorRegistry

from bridge.config import AvatarConfig
from bridge.desk import Desk
from bridge.dialogue import Dialogue
from bridge.dsp.strip import StripSettings
from bridge.feed import Feed
from bridge.ops.metrics import Metrics
from bridge.ports import AvatarEvent
from bridge.redact import Secret
from bridge.uplink import Uplink
from tests.unit.upward import FakeSource, ramp

ANSWER = (AvatarEvent("speech_stopped", "x"), AvatarEvent("response_started", "x"))


@pytest.mark.parametrize(
    ("role", "events", "barges_in", "is_interrupted"),
    [
        ("conversation", ANSWER, True, True),
        ("conversation", ANSWER, False, False),
        ("conversation", (), True, False),
        ("speak", ANSWER, True, False),
    ],
    ids=["an answer", "by somebody who may not", "nobody", "a mirror"],
)
async def test_who_may_interrupts_an_answer(
    role: str, events: tuple[AvatarEvent, ...], barges_in: bool, is_interrupted: bool
) -> None:
    playlist = Feed(FakeSource(ramp(0.5)))
    host = Feed(FakeSource(name="host", is_live=True), StripSettings(priority=1), barges_in=barges_in)
    config = AvatarConfig(license=Secret("sk_test"), name="navtalk.Leo", role=role)  # type: ignore[arg-type]
    metrics = Metrics(CollectorRegistry()).session("leo", "navtalk")
    dialogue = Dialogue(config, Uplink(Desk([host, playlist])), metrics)
    for event in events:
        dialogue.on_event(event)
    await playlist.run()
    dialogue.on_speech(host)
    assert playlist.has_ended == is_interrupted, "what waited of less importance is dropped"
