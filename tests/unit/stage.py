"""A session among fakes: its avatar service, its input and its outputs do what a test says."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from bridge import avatar as avatar_module
from bridge import distribution as distribution_module
from bridge import programme as programme_module
from bridge import session as session_module
from bridge.config import AvatarConfig, InputConfig, NavTalkConfig, OutputConfig, SessionConfig, StorageConfig
from bridge.events import EventLog
from bridge.media.access_unit import Codec
from bridge.media.audio import AudioBlock
from bridge.media.clock import NS_PER_MS
from bridge.media.live_queue import LiveQueue
from bridge.media.slate_pictures import SlatePictures
from bridge.net.ice import IceSettings
from bridge.net.url_policy import UrlPolicy
from bridge.ops.metrics import Metrics
from bridge.ports import AvatarEvent, AvatarListener, OutputListener, RemoteTrack, UplinkPacing
from bridge.redact import Secret
from bridge.session import Session
from bridge.trend import Trend
from tests.unit.outputs.fakes import Behaviour, FakeOutput
from tests.unit.receive.streams import H264_TYPE, Sender

PATIENCE_S = 5.0


class FakeSource:
    """A tone of so many tenths of a second, or an error at once."""

    name = "speech"
    is_live = False

    def __init__(self, error: Exception | None = None, n_blocks: int = 3) -> None:
        self._error = error
        self._n_blocks = n_blocks

    async def run(self, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        if self._error is not None:
            raise self._error
        for index in range(self._n_blocks):
            await emit(AudioBlock(np.full((2_400, 1), 8_000, np.int16), 24_000, index * 100 * NS_PER_MS))


class FakeLink:
    pacing = UplinkPacing(live_samples=480, buffered_samples=1_536, idle_audio="silence", tail_s=0.1)
    datagrams_rejected: Mapping[str, int] = {}

    def __init__(self) -> None:
        self.n_sent = self.n_interrupts = self.n_turns_ended = 0
        self.tool_answers: list[tuple[str, str]] = []
        self.listens: list[bool] = []
        self.remembered: list[str] = []

    async def send_audio(self, pcm16: bytes) -> None:
        self.n_sent += 1

    async def end_turn(self) -> None:
        self.n_turns_ended += 1

    async def interrupt(self) -> None:
        self.n_interrupts += 1

    async def listen(self, on: bool) -> None:
        self.listens.append(on)

    async def remember(self, text: str) -> None:
        self.remembered.append(text)

    async def answer_tool(self, call_id: str, output: str) -> None:
        self.tool_answers.append((call_id, output))


class NoFeedback:
    def send_nack(self, sequence_numbers: object) -> None:
        pass

    def send_pli(self) -> None:
        pass


Service = Callable[["FakeProvider", AvatarListener], Awaitable[None]]


class FakeProvider:
    """Each connection does what the next service says, the last one again and again."""

    capabilities = frozenset({"history", "tools"})

    def __init__(self, story: list[str], *services: Service) -> None:
        self.history: list[str] = []
        self.listener: AvatarListener | None = None
        self.n_connections = 0
        self.link = FakeLink()
        self._story = story
        self._services = list(services)

    async def run(self, listener: AvatarListener) -> None:
        self.n_connections += 1
        self.listener = listener
        service = self._services.pop(0) if len(self._services) > 1 else self._services[0]
        try:
            await service(self, listener)
        finally:
            self._story.append("avatar closed")


async def show(provider: FakeProvider, listener: AvatarListener) -> None:
    """A keyframe every 5 ms."""
    track = RemoteTrack("video", {H264_TYPE: Codec.H264}, NoFeedback())
    sink = listener.on_track(track)
    listener.on_ready(provider.link)
    video = Sender(unit_ms=5, ssrc=provider.n_connections, at_ms=time.monotonic() * 1000)
    while True:
        for packet in video.keyframe():
            sink.on_packet(packet)
        await asyncio.sleep(0.005)


async def stay_mute(provider: FakeProvider, listener: AvatarListener) -> None:
    listener.on_track(RemoteTrack("video", {H264_TYPE: Codec.H264}, NoFeedback()))
    listener.on_ready(provider.link)
    await asyncio.Event().wait()


def refusing(error: Exception) -> Service:
    async def service(provider: FakeProvider, listener: AvatarListener) -> None:
        raise error

    return service


class FakeSlateMaker:
    def __init__(self, *_: object, is_coming: bool) -> None:
        pass

    def check(self) -> None:
        pass

    def make(self, like: object, last_group: object) -> SlatePictures:
        return SlatePictures(b"slate", (b"slate idr", b"slate p"), 40 * NS_PER_MS)


class Stage:
    """A session among fakes. `story`: what was closed, in that order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        self._monkeypatch = monkeypatch
        self._directory = directory
        self.story: list[str] = []
        self.outputs: list[FakeOutput] = []
        self.registry = CollectorRegistry()

    def session(
        self,
        *services: Service,
        source: FakeSource | None = None,
        output: Behaviour | None = None,
        role: str = "speak",
        first_retry_s: float = 0.001,
        video: Literal["auto", "copy", "encode"] = "auto",
        **avatar: Any,
    ) -> tuple[Session, FakeProvider]:
        provider = FakeProvider(self.story, *services)

        def open_provider(config: AvatarConfig, ice: IceSettings, history: list[str], policy: None) -> FakeProvider:
            provider.history = history
            return provider

        patch = self._monkeypatch.setattr
        patch(session_module, "open_provider", open_provider)
        patch(session_module, "open_source", lambda *_, **__: source or FakeSource())
        patch(distribution_module, "open_output", lambda *_, **__: lambda: self._output(output or self.publish))
        patch(session_module, "SlateMaker", FakeSlateMaker)
        patch(programme_module, "SETTLE_S", 0.0)
        patch(avatar_module, "FIRST_RETRY_S", first_retry_s)
        patch(avatar_module, "LONGEST_RETRY_S", max(first_retry_s, avatar_module.LONGEST_RETRY_S))
        patch(session_module, "IN_FLIGHT_S", 0.0)
        config = SessionConfig(
            avatar=NavTalkConfig(license=Secret("sk_test"), name="navtalk.Leo", role=role, **avatar),  # type: ignore[arg-type]
            inputs={"speech": InputConfig(url=Secret.url("file:speech.wav"))},
            outputs={"archive": OutputConfig(url=Secret.url("file:leo.mkv"), video=video)},
        )
        storage = StorageConfig(dir=self._directory)
        metrics = Metrics(self.registry).session("leo", "navtalk")
        policy, events = UrlPolicy(), EventLog()
        session = Session(
            "leo",
            config,
            ice=IceSettings(),
            storage=storage,
            policy=policy,
            metrics=metrics,
            events=events,
            trend=Trend(),
        )
        return session, provider

    def _output(self, behaviour: Behaviour) -> FakeOutput:
        self.outputs.append(FakeOutput(behaviour))
        return self.outputs[-1]

    async def publish(self, output: FakeOutput, units: LiveQueue, listener: OutputListener) -> None:
        listener.on_published()
        try:
            while (unit := await units.get()) is not None:
                output.written.append(unit)
                listener.on_written(unit)
        finally:
            self.story.append("output closed")


async def until(claim: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not claim():  # noqa: ASYNC110  fakes announce nothing
            await asyncio.sleep(0.001)


async def ended(running: "asyncio.Task[None]") -> None:
    async with asyncio.timeout(PATIENCE_S):
        await running


def saying(*events: AvatarEvent) -> Service:
    """Shows itself, and says these once it is live."""

    async def service(provider: FakeProvider, listener: AvatarListener) -> None:
        showing = asyncio.create_task(show(provider, listener))
        try:
            await asyncio.sleep(0.03)
            for event in events:
                listener.on_event(event)
            await showing
        finally:
            showing.cancel()

    return service


def limited(*limits_s: float) -> Service:
    """Shows itself, and says once it is live that it will end: in so many seconds, and anew."""

    async def service(provider: FakeProvider, listener: AvatarListener) -> None:
        showing = asyncio.create_task(show(provider, listener))
        try:
            for limit_s in limits_s:
                await asyncio.sleep(0.03)
                listener.on_limit(limit_s)
            await showing
        finally:
            showing.cancel()

    return service
