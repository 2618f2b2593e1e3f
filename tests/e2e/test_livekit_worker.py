"""The provider and the local room in one process: what a worker is told, and what it tells."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from livekit.protocol import models, rtc
from websockets.asyncio.client import connect

from bridge.errors import ProviderRejected
from bridge.local_avatar.livekit import API_KEY, DEV_SECRET, ROOM
from bridge.local_avatar.livekit_stage import AVATAR, Stage
from bridge.local_avatar.options import LocalAvatarOptions
from bridge.local_avatar.server import LocalAvatar
from bridge.media.clock import AVATAR_RATE_HZ
from bridge.net.ice import IceSettings
from bridge.protocols.livekit import join_url, parse
from bridge.protocols.livekit_data import PLAYBACK_FINISHED, PLAYBACK_STARTED
from bridge.protocols.livekit_room import Choice
from bridge.protocols.livekit_token import Grant, mint
from bridge.providers.livekit import LiveKitOptions, LiveKitProvider
from bridge.providers.livekit_entry import Entry, MintedToken
from bridge.redact import Secret
from tests.e2e.processes import PATIENCE_S, Show
from tests.unit.providers.livekit_server import EventfulListener, Stay

MESSAGE_SAMPLES = 480
DISCONNECTED = models.ParticipantInfo.State.DISCONNECTED


def speech(n_messages: int) -> list[bytes]:
    noise = np.random.default_rng(1).integers(-8000, 8000, n_messages * MESSAGE_SAMPLES).astype("<i2").tobytes()
    return [noise[start : start + 2 * MESSAGE_SAMPLES] for start in range(0, len(noise), 2 * MESSAGE_SAMPLES)]


@asynccontextmanager
async def served() -> AsyncIterator[str]:
    """The local room's URL."""
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    options = LocalAvatarOptions(services=["livekit"], size_px=(64, 64), fps=5)
    serving = asyncio.create_task(LocalAvatar(options, listening.set_result).run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            url = await listening
        yield url
    finally:
        serving.cancel()
        await asyncio.wait({serving})


def begin(url: str, identity: str, rate_hz: int = AVATAR_RATE_HZ) -> Stay:
    source = MintedToken(API_KEY, Secret(DEV_SECRET), Grant(identity, ROOM, "agent"))
    options = LiveKitOptions(entry=Entry(Secret.url(url), source), choice=Choice(), rate_hz=rate_hz)
    return Stay(LiveKitProvider(options, IceSettings(("lo",))), EventfulListener())


@asynccontextmanager
async def stay(rate_hz: int = AVATAR_RATE_HZ) -> AsyncIterator[EventfulListener]:
    """In a room with the avatar, once it can be spoken to."""
    async with served() as url:
        us = begin(url, "us", rate_hz)
        try:
            await us.listener.until(lambda: us.listener.links)
            yield us.listener
        finally:
            await us.leave()


async def test_stays_that_are_called_off_at_any_moment_leave_nobody_behind() -> None:
    async with served() as url:

        async def stay_for(seconds: float) -> None:
            us = begin(url, f"us for {seconds}")
            await asyncio.sleep(seconds)
            await us.leave()

        await asyncio.gather(*(stay_for(number * 0.06) for number in range(12)))
        token = mint(Grant("auditor", ROOM, expires_s=int(time.time()) + 60), API_KEY, DEV_SECRET, time.time())
        headers = {"Authorization": f"Bearer {token}"}
        async with asyncio.timeout(PATIENCE_S), connect(join_url(url), additional_headers=headers) as socket:
            join = parse(rtc.SignalResponse, await socket.recv()).join
            there = {participant.identity for participant in join.other_participants}
            # The service may not have read all farewells yet; who still held a connection would be there for ever.
            while there != {AVATAR}:
                update = parse(rtc.SignalResponse, await socket.recv()).update
                left = (person for person in update.participants if person.state == DISCONNECTED)
                there -= {person.identity for person in left}


async def test_a_worker_says_what_it_is_sent_tells_when_and_stops_when_it_is_interrupted(
    show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    came_ns: list[int] = []
    said = bytearray()
    speak = Stage.speak

    def note(stage: Stage, pcm16: bytes) -> None:
        came_ns.append(time.monotonic_ns())
        said.extend(pcm16)
        speak(stage, pcm16)

    monkeypatch.setattr(Stage, "speak", note)
    async with stay() as listener:
        (link,) = listener.links
        messages, sent_ns = speech(20), list[int]()
        for message in messages:
            sent_ns.append(time.monotonic_ns())
            await link.send_audio(message)
            await asyncio.sleep(0.02)
        await link.end_turn()
        await listener.until(lambda: listener.told("response_done"))
        assert bytes(said) == b"".join(messages)
        assert [event.type for event in listener.told("response_started")] == [PLAYBACK_STARTED]
        (done,) = listener.told("response_done")
        assert done.type == PLAYBACK_FINISHED and 0.35 <= done.sound_s <= 0.4
        taken_ms = sorted((came - sent) / 1e6 for came, sent in zip(came_ns, sent_ns, strict=True))
        show(f"LiveKit: from the bridge to its avatar worker in {taken_ms[len(taken_ms) // 2]:.1f} ms (median)")

        for message in speech(100):
            await link.send_audio(message)
        await link.interrupt()
        await listener.until(lambda: len(listener.told("response_done")) == 2)
        assert listener.told("response_done")[1].sound_s < 1.9
        await link.send_audio(messages[0])
        await link.end_turn()
        await listener.until(lambda: len(listener.told("response_done")) == 3)
        assert not listener.told("warning") and not listener.told("malformed")
        with pytest.raises(ProviderRejected):
            await link.say("what a mirror has no ear for")


async def test_speech_at_another_rate_is_declared_as_that_and_heard_as_long_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = bytearray()
    monkeypatch.setattr(Stage, "speak", lambda stage, pcm16: said.extend(pcm16))
    async with stay(16_000) as listener:
        (link,) = listener.links
        assert link.pacing.rate_hz == 16_000
        for message in speech(20):  # 0.6 s of it, at that rate
            await link.send_audio(message)
        await link.end_turn()
        await listener.until(lambda: listener.told("response_done"))
        assert len(said) / 2 / AVATAR_RATE_HZ == pytest.approx(0.6, abs=0.01)
