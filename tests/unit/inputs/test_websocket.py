"""How a `ws:` source paces what is sent to it, and when it passes words on."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bridge.errors import SourceLost
from bridge.inputs.websocket import LEAD_S, PcmSender, WebSocketSource
from bridge.media.audio import AudioBlock
from bridge.protocols.pcm_messages import Refused
from bridge.protocols.pcm_url import PcmFormat

FORMAT = PcmFormat(8_000, 1, "s16le")
SECOND = bytes(2 * 8_000)


class Story:
    """The session's side: what was heard and told, in its order."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.sound_s = 0.0

    async def take(self, block: AudioBlock) -> None:
        self.sound_s += block.duration_s

    def on_speech_started(self) -> None:
        self.told.append(f"start {self.sound_s:g}")

    def on_speech_ended(self) -> None:
        self.told.append(f"end {self.sound_s:g}")

    def on_interrupt(self) -> None:
        self.told.append("interrupt")

    def on_listening(self, on: bool) -> None:
        self.told.append(f"listening {on}")


@asynccontextmanager
async def running() -> AsyncIterator[tuple[WebSocketSource, PcmSender, Story]]:
    source, story = WebSocketSource("pipe", FORMAT), Story()
    source.listener = story
    task = asyncio.create_task(source.run(story.take))
    await asyncio.sleep(0)
    yield source, source.connect(), story
    task.cancel()
    await asyncio.wait({task})


def word(kind: str, **rest: object) -> str:
    return json.dumps({"type": kind, **rest})


async def pass_on() -> None:
    for _ in range(60):
        await asyncio.sleep(0)


async def test_speech_that_is_made_at_once_goes_on_at_its_own_pace() -> None:
    async with running() as (_, sender, story):
        began_s = asyncio.get_running_loop().time()
        sender.take(SECOND)
        await pass_on()
        assert story.sound_s <= LEAD_S + 0.05
        await asyncio.sleep(0.1)
        elapsed_s = asyncio.get_running_loop().time() - began_s
        assert LEAD_S < story.sound_s <= elapsed_s + LEAD_S + 0.04


async def test_words_keep_their_place_in_the_sound() -> None:
    async with running() as (_, sender, story):
        for message in (word("start"), SECOND[:640], word("end"), word("listening", on=False)):
            sender.take(message)
        await pass_on()
        # The last of them is no part of the speech.
        assert story.told == ["listening False", "start 0", "end 0.04"]


async def test_an_interruption_overtakes_what_waits_and_drops_it() -> None:
    async with running() as (source, sender, story):
        sender.take(SECOND)
        await pass_on()
        sender.take(word("interrupt"))
        assert story.told == ["interrupt"]
        assert source.dropped_s == pytest.approx(1 - story.sound_s)
        heard_s = story.sound_s
        sender.take(SECOND[:320])
        await asyncio.sleep(0.05)
        assert story.sound_s == pytest.approx(heard_s + 0.02)


async def test_a_sender_that_goes_in_the_middle_of_its_speech_has_ended_it() -> None:
    async with running() as (source, sender, story):
        sender.take(SECOND[:320])
        sender.close()
        await pass_on()
        assert story.told == ["end 0.02"]
        again = source.connect()
        again.close()
        await pass_on()
        assert story.told == ["end 0.02"]


async def test_what_waits_has_a_bound() -> None:
    async with running() as (_, sender, _):
        with pytest.raises(Refused, match="more than 60 s"):
            for _ in range(70):
                sender.take(SECOND)


async def test_a_source_that_has_ended_takes_nobody() -> None:
    async with running() as (source, sender, _):
        pass
    with pytest.raises(SourceLost):
        sender.take(SECOND)
    with pytest.raises(SourceLost):
        source.connect()
