import asyncio
import time
import wave
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from bridge import session as session_module
from bridge.config import AvatarConfig, InputConfig, OutputConfig, SessionConfig, StorageConfig, ToolConfig
from bridge.errors import (
    ConfigError,
    OutputRejected,
    ProviderRejected,
    ProviderUnavailable,
    RemoteProtocolError,
    SourceRejected,
)
from bridge.inputs.file import FileSource
from bridge.media.access_unit import Codec
from bridge.media.audio import AudioBlock
from bridge.media.clock import NS_PER_MS
from bridge.media.live_queue import LiveQueue
from bridge.net.ice import IceSettings
from bridge.ops.metrics import Metrics
from bridge.ports import AvatarEvent, AvatarListener, OutputListener, RemoteTrack, ToolCall, UplinkPacing
from bridge.redact import Secret
from bridge.session import Session, SessionState
from tests.unit.outputs.fakes import Behaviour, FakeOutput
from tests.unit.receive.streams import H264_TYPE, Sender

PATIENCE_S = 5.0


class FakeSource:
    """A tone that lasts, or an error at once."""

    name = "speech"
    is_live = False

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    async def run(self, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        if self._error is not None:
            raise self._error
        for index in range(3):
            await emit(AudioBlock(np.full((2_400, 1), 8_000, np.int16), 24_000, index * 100 * NS_PER_MS))


class FakeLink:
    pacing = UplinkPacing(live_samples=480, buffered_samples=1_536, idle_audio="silence", tail_s=0.1)
    datagrams_rejected: Mapping[str, int] = {}

    def __init__(self) -> None:
        self.n_sent = self.n_interrupts = 0
        self.tool_answers: list[tuple[str, str]] = []

    async def send_audio(self, pcm16: bytes) -> None:
        self.n_sent += 1

    async def interrupt(self) -> None:
        self.n_interrupts += 1

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
        self.n_connections = 0
        self.link = FakeLink()
        self._story = story
        self._services = list(services)

    async def run(self, listener: AvatarListener) -> None:
        self.n_connections += 1
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
        **avatar: Any,
    ) -> tuple[Session, FakeProvider]:
        provider = FakeProvider(self.story, *services)

        def open_provider(config: AvatarConfig, ice: IceSettings, history: list[str]) -> FakeProvider:
            provider.history = history
            return provider

        patch = self._monkeypatch.setattr
        patch(session_module, "open_provider", open_provider)
        patch(session_module, "open_source", lambda *_: source or FakeSource())
        patch(session_module, "open_output", lambda *_: lambda: self._output(output or self.publish))
        patch(session_module, "FIRST_RETRY_S", first_retry_s)
        patch(session_module, "IN_FLIGHT_S", 0.0)
        config = SessionConfig(
            avatar=AvatarConfig(license=Secret("sk_test"), name="navtalk.Leo", role=role, **avatar),  # type: ignore[arg-type]
            inputs={"speech": InputConfig(url=Secret.url("file:speech.wav"))},
            outputs={"archive": OutputConfig(url=Secret.url("file:leo.mkv"))},
        )
        storage = StorageConfig(dir=self._directory)
        metrics = Metrics(self.registry).session("leo", "navtalk")
        return Session("leo", config, ice=IceSettings(), storage=storage, metrics=metrics), provider

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


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stage:
    return Stage(monkeypatch, tmp_path)


async def until(claim: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not claim():  # noqa: ASYNC110  fakes announce nothing
            await asyncio.sleep(0.001)


async def ended(running: "asyncio.Task[None]") -> None:
    async with asyncio.timeout(PATIENCE_S):
        await running


async def test_media_flows_from_the_avatar_to_the_output(stage: Stage) -> None:
    session, provider = stage.session(show)
    running = asyncio.create_task(session.run())
    await until(lambda: len(stage.outputs[0].written) >= 4)
    await until(lambda: provider.link.n_sent)
    assert session.state is SessionState.LIVE
    assert session.has_been_live
    status = session.status()
    assert status.media.n_pictures >= 4
    assert [output.state for output in status.outputs] == ["publishing"]
    await session.drain(within_s=5.0)
    await ended(running)


async def test_a_drain_ends_the_utterance_then_the_avatar_and_the_outputs(stage: Stage) -> None:
    session, provider = stage.session(show)
    running = asyncio.create_task(session.run())
    await until(lambda: provider.link.n_sent)
    await session.drain(within_s=10.0)
    # 0.3 s of speech and 0.1 s of silence in messages of 64 ms.
    assert provider.link.n_sent >= 6
    assert session.status().spoken_s >= 0.3
    await ended(running)
    assert sorted(stage.story) == ["avatar closed", "output closed"]
    assert session.state is SessionState.CLOSED
    assert not stage.outputs[0].was_cancelled


async def test_a_drain_waits_for_the_answer_in_a_conversation(stage: Stage) -> None:
    session, provider = stage.session(show, role="conversation")
    running = asyncio.create_task(session.run())
    await until(lambda: provider.link.n_sent)
    session.on_event(AvatarEvent("speech_stopped", "realtime.input_audio_buffer.speech_stopped"))
    draining = asyncio.create_task(session.drain(within_s=60.0))
    await until(lambda: session.status().input_is_finished)
    session.on_event(AvatarEvent("response_started", "realtime.response.audio.delta"))
    await asyncio.sleep(0.02)
    assert not draining.done()
    session.on_event(AvatarEvent("response_done", "realtime.response.audio.done", sound_s=0.1))
    await asyncio.sleep(0.02)
    assert not draining.done()  # it is generated, and still being said
    await ended(draining)
    await ended(running)


async def test_a_drain_does_not_wait_for_the_answer_of_an_avatar_that_goes_away(stage: Stage) -> None:
    gone = asyncio.Event()

    async def leave(provider: FakeProvider, listener: AvatarListener) -> None:
        showing = asyncio.create_task(show(provider, listener))
        await gone.wait()
        showing.cancel()
        raise ProviderUnavailable("away")

    session, provider = stage.session(leave, role="conversation", first_retry_s=15.0)
    running = asyncio.create_task(session.run())
    await until(lambda: provider.link.n_sent)
    session.on_event(AvatarEvent("speech_stopped", "realtime.input_audio_buffer.speech_stopped"))
    draining = asyncio.create_task(session.drain(within_s=60.0))
    await until(lambda: session.status().input_is_finished)
    gone.set()
    await ended(draining)
    await ended(running)


async def test_until_there_is_a_track_silence_is_the_provider_s_to_judge(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def shake_hands_slowly(provider: FakeProvider, listener: AvatarListener) -> None:
        await asyncio.sleep(0.1)
        await show(provider, listener)

    monkeypatch.setattr(session_module, "MEDIA_LOST_S", 0.02)
    session, provider = stage.session(shake_hands_slowly)
    running = asyncio.create_task(session.run())
    await until(lambda: session.has_been_live)
    assert provider.n_connections == 1
    await session.drain(within_s=0.0)
    await ended(running)


async def test_a_drain_without_time_ends_at_once(stage: Stage) -> None:
    session, _ = stage.session(show)
    running = asyncio.create_task(session.run())
    await until(lambda: session.has_been_live)
    await session.drain(within_s=0.0)
    await ended(running)
    assert sorted(stage.story) == ["avatar closed", "output closed"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ProviderUnavailable("away"), "unavailable"),
        (ProviderUnavailable("full", reason="gpu_full"), "gpu_full"),
        (RemoteProtocolError("nonsense"), "protocol"),
    ],
)
async def test_an_avatar_that_goes_away_is_reconnected_and_outputs_stay(
    error: Exception, reason: str, stage: Stage
) -> None:
    async def leave(provider: FakeProvider, listener: AvatarListener) -> None:
        showing = asyncio.create_task(show(provider, listener))
        await asyncio.sleep(0.03)
        showing.cancel()
        raise error

    session, provider = stage.session(leave, show)
    running = asyncio.create_task(session.run())
    with capture_logs() as logged:
        await until(lambda: session.has_been_live and provider.n_connections == 2)
        n_written = len(stage.outputs[0].written)
        await until(lambda: len(stage.outputs[0].written) > n_written)
    lost = [entry for entry in logged if entry["event"] == "avatar_lost"]
    assert [entry["error"] for entry in lost] == [str(error)]
    assert len(stage.outputs) == 1
    times_ns = [unit.pts_ns for unit in stage.outputs[0].written]
    assert times_ns == sorted(set(times_ns))
    labels = {"session": "leo", "service": "navtalk", "reason": reason}
    assert stage.registry.get_sample_value("avatar_bridge_provider_reconnects_total", labels) == 1
    await session.drain(within_s=0.0)
    await ended(running)


async def test_an_avatar_that_sends_nothing_is_given_up(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "MEDIA_LOST_S", 0.02)
    session, provider = stage.session(stay_mute)
    running = asyncio.create_task(session.run())
    await until(lambda: provider.n_connections == 2)
    assert "no media" in session.status().error
    await session.drain(within_s=0.0)
    await ended(running)


async def test_a_drain_does_not_wait_for_an_avatar_that_is_away(stage: Stage) -> None:
    session, provider = stage.session(refusing(ProviderUnavailable("away")), first_retry_s=15.0)
    running = asyncio.create_task(session.run())
    await until(lambda: session.state is SessionState.RECONNECTING)
    await session.drain(within_s=10.0)
    await ended(running)
    assert provider.n_connections == 1
    assert session.state is SessionState.CLOSED


@pytest.mark.parametrize(
    ("source", "service", "error"),
    [
        (None, refusing(ProviderRejected("a wrong licence")), ProviderRejected),
        (FakeSource(SourceRejected("no such file")), show, SourceRejected),
    ],
)
async def test_what_only_an_operator_can_change_ends_the_session_with_its_outputs_closed(
    source: FakeSource | None, service: Service, error: type[Exception], stage: Stage
) -> None:
    session, _ = stage.session(service, source=source)
    running = asyncio.create_task(session.run())
    with pytest.raises(error):
        await ended(running)
    assert session.state is SessionState.FAILED
    assert session.status().error
    assert "output closed" in stage.story
    assert stage.outputs[0].was_cancelled or not stage.outputs[0].written


async def test_a_session_without_an_output_left_fails(stage: Stage) -> None:
    async def refuse(output: FakeOutput, units: LiveQueue, listener: OutputListener) -> None:
        raise OutputRejected("a wrong stream key")

    session, _ = stage.session(show, output=refuse)
    with pytest.raises(OutputRejected, match="no output is left: a wrong stream key"):
        await ended(asyncio.create_task(session.run()))
    assert session.status().outputs[0].state == "rejected"
    assert session.state is SessionState.FAILED
    assert not session.has_been_on_air


async def test_a_bug_in_an_output_is_raised_for_the_daemon_to_see(stage: Stage) -> None:
    async def crash(output: FakeOutput, units: LiveQueue, listener: OutputListener) -> None:
        raise ZeroDivisionError

    session, _ = stage.session(show, output=crash)
    with pytest.raises(ExceptionGroup) as caught:
        await ended(asyncio.create_task(session.run()))
    assert caught.group_contains(ZeroDivisionError)
    assert session.state is SessionState.FAILED


async def test_a_cancelled_session_closes_everything(stage: Stage) -> None:
    session, _ = stage.session(show)
    running = asyncio.create_task(session.run())
    await until(lambda: session.has_been_live)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ended(running)
    assert sorted(stage.story) == ["avatar closed", "output closed"]
    assert session.state is SessionState.CLOSED


async def test_a_warning_about_an_input_names_its_session(stage: Stage, tmp_path: Path) -> None:
    silent = tmp_path / "silent.wav"
    with wave.open(str(silent), "wb") as file:
        file.setparams((1, 2, 24_000, 0, "NONE", ""))
        file.writeframes(bytes(48_000))
    session, _ = stage.session(show, source=FileSource("speech", silent))  # type: ignore[arg-type]
    running = asyncio.create_task(session.run())
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logged:
        await until(lambda: any(entry["event"] == "input_silent" for entry in logged))
    await session.drain(within_s=0.0)
    await ended(running)
    (warning,) = [entry for entry in logged if entry["event"] == "input_silent"]
    assert warning["session"] == "leo"


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


async def test_what_was_said_is_kept_in_the_file_and_for_the_next_connection(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"role": "user", "content": "yesterday"}\n')
    turn = (AvatarEvent("user_transcript", "t", "hello"), AvatarEvent("avatar_transcript", "t", "good day"))
    session, provider = stage.session(saying(*turn), role="conversation", history_file=path)
    running = asyncio.create_task(session.run())
    await until(lambda: provider.history == ["yesterday", "hello"])
    await until(lambda: "good day" in path.read_text())
    await session.drain(within_s=0.0)
    await ended(running)


async def test_a_file_that_holds_no_history_ends_the_session_before_anything_is_opened(
    stage: Stage, tmp_path: Path
) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text("Dear diary\n")
    session, provider = stage.session(show, role="conversation", history_file=path)
    with pytest.raises(ConfigError, match="line 1"):
        await ended(asyncio.create_task(session.run()))
    assert provider.n_connections == 0 and session.state is SessionState.FAILED
    assert "line 1" in session.status().error


async def test_a_tool_call_that_nobody_answers_gets_its_default(stage: Stage) -> None:
    async def ask(provider: FakeProvider, listener: AvatarListener) -> None:
        listener.on_ready(provider.link)
        listener.on_tool_call(ToolCall("call_1", "opening_hours", "{}"))
        await asyncio.Event().wait()

    tools = (ToolConfig(name="opening_hours", default="from nine to five"),)
    session, provider = stage.session(ask, role="conversation", tools=tools, tool_deadline_s=0.01)
    running = asyncio.create_task(session.run())
    await until(lambda: provider.link.tool_answers)
    assert provider.link.tool_answers == [("call_1", "from nine to five")]
    labels = {"session": "leo", "result": "default"}
    await until(lambda: stage.registry.get_sample_value("avatar_bridge_tool_calls_total", labels) == 1)
    await session.drain(within_s=0.0)
    await ended(running)


async def test_a_mirror_that_hears_somebody_else_is_interrupted(stage: Stage) -> None:
    session, provider = stage.session(saying(AvatarEvent("speech_started", "t")), role="speak")
    running = asyncio.create_task(session.run())
    await until(lambda: provider.link.n_interrupts)
    await session.drain(within_s=0.0)
    await ended(running)


async def test_the_speech_that_a_service_has_heard_goes_on(stage: Stage) -> None:
    session, provider = stage.session(saying(AvatarEvent("speech_started", "t")), role="conversation")
    running = asyncio.create_task(session.run())
    await until(lambda: session.status().input_is_finished)
    assert session.status().spoken_s == pytest.approx(0.3, abs=0.1)
    assert not provider.link.n_interrupts
    await session.drain(within_s=0.0)
    await ended(running)


async def test_the_status_lists_what_the_service_can_do(stage: Stage) -> None:
    session, _ = stage.session(show)
    assert session.status().capabilities == {"history", "tools"}
