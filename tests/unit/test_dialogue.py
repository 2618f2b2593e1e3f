"""Who speaks over the avatar, and what becomes of what waits to be said."""

import asyncio
from collections.abc import Mapping

import pytest
from prometheus_client import CollectorRegistry

from bridge.config import NavTalkConfig, ToolConfig, WebhookConfig
from bridge.desk import Desk
from bridge.dialogue import Dialogue
from bridge.dsp.strip import StripSettings
from bridge.events import EventLog
from bridge.feed import Feed
from bridge.ops.metrics import Metrics
from bridge.ports import AvatarEvent, ToolCall, UplinkPacing
from bridge.redact import Secret, remember
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
    config = NavTalkConfig(license=Secret("sk_test"), name="navtalk.Leo", role=role)  # type: ignore[arg-type]
    metrics = Metrics(CollectorRegistry()).session("leo", "navtalk")
    dialogue = Dialogue(config, Uplink(Desk([host, playlist])), metrics, EventLog())
    for event in events:
        dialogue.on_event(event)
    await playlist.run()
    dialogue.on_speech(host)
    assert playlist.has_ended == is_interrupted, "what waited of less importance is dropped"


async def test_what_is_said_and_who_speaks_is_told_to_followers_without_secrets() -> None:
    host, events = Feed(FakeSource(name="host", is_live=True), StripSettings(priority=1)), EventLog()
    config = NavTalkConfig(license=Secret("sk_test_canary"), name="navtalk.Leo")
    metrics = Metrics(CollectorRegistry()).session("leo", "navtalk")
    dialogue = Dialogue(config, Uplink(Desk([host])), metrics, events)
    dialogue.on_speech(host)
    dialogue.on_event(AvatarEvent("user_transcript", "x", "What time is it?"))
    dialogue.on_event(AvatarEvent("other", "x"))
    dialogue.on_event(AvatarEvent("warning", "x", "bad key sk_test_canary"))
    dialogue.interrupt()
    events.close()
    told = [(event.type, dict(event.data)) async for event in events.follow("another-1")]
    assert told[:2] == [("input_speech", {"input": "host"}), ("user_transcript", {"text": "What time is it?"})]
    assert told[2][0] == "warning"
    assert "canary" not in str(told[2][1])
    assert told[3] == ("interrupted", {"input": None})


class Asked:
    """The avatar that asked. answered: with what its tool has given."""

    pacing = UplinkPacing(live_samples=480, buffered_samples=480, idle_audio="silence", tail_s=0.0)
    datagrams_rejected: Mapping[str, int] = {}

    def __init__(self) -> None:
        self.answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def send_audio(self, pcm16: bytes) -> None: ...

    async def end_turn(self) -> None: ...

    async def interrupt(self) -> None: ...

    async def answer_tool(self, call_id: str, output: str) -> None:
        self.answered.set_result(output)


async def test_a_secret_that_a_service_repeats_in_a_call_is_hidden_and_urls_stay_of_use() -> None:
    remember("sk_canary/call")
    events = EventLog()
    config = NavTalkConfig(license=Secret("sk_test"), name="navtalk.Leo")
    metrics = Metrics(CollectorRegistry()).session("leo", "navtalk")
    dialogue = Dialogue(config, Uplink(Desk([])), metrics, events)
    arguments = '{"url": "https://example.com/?q=rain", "key": "sk_canary/call"}'
    dialogue.on_tool_call(ToolCall("call_1", "sk_canary/call", arguments), Asked())
    events.close()
    await dialogue.close()
    (told, *_) = [event async for event in events.follow("another-1")]
    assert told.data == {
        "call_id": "call_1",
        "name": "***",
        "arguments": '{"url": "https://example.com/?q=rain", "key": "***"}',
    }


async def test_its_end_closes_the_connections_to_webhooks_of_tools() -> None:
    was_closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nrain")
        await reader.read()
        was_closed.set()
        writer.close()

    async with asyncio.timeout(5), await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        webhook = WebhookConfig(url=Secret.url(f"http://127.0.0.1:{port}/weather"))
        config = NavTalkConfig(
            license=Secret("sk_test"), name="navtalk.Leo", tools=(ToolConfig(name="weather", webhook=webhook),)
        )
        metrics = Metrics(CollectorRegistry()).session("leo", "navtalk")
        dialogue, link = Dialogue(config, Uplink(Desk([])), metrics, EventLog()), Asked()
        dialogue.on_tool_call(ToolCall("call_1", "weather", "{}"), link)
        assert await link.answered == "rain"
        await asyncio.sleep(0)
        assert not was_closed.is_set(), "it is kept for the next call"
        await dialogue.close()
        await was_closed.wait()
