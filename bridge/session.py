"""One avatar on its outputs: this page wires the stages, in the order in which media flows through them."""

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import structlog

from bridge.answer import Answer
from bridge.config import OutputConfig, SessionConfig, StorageConfig
from bridge.dsp.chain import SpeechChain
from bridge.errors import BridgeError, ConfigError, OutputRejected, ProviderUnavailable, RemoteProtocolError
from bridge.history import History
from bridge.inputs import open_source
from bridge.media.access_unit import AccessUnit
from bridge.media.clock import NS_PER_S
from bridge.media.live_queue import LiveQueue
from bridge.net.backoff import Backoff
from bridge.ops.metrics import SessionMetrics
from bridge.outputs import open_output
from bridge.outputs.hub import Hub
from bridge.outputs.runner import OutputRunner, OutputStatus
from bridge.ports import AvatarEvent, AvatarLink, Capability, RemoteTrack, ToolCall, TrackSink
from bridge.providers import open_provider
from bridge.reception import Reception
from bridge.telemetry import MediaStatus, Telemetry
from bridge.tool_calls import ToolCalls
from bridge.uplink import Uplink

if TYPE_CHECKING:
    from bridge.net.ice import IceSettings

# An avatar that hiccups is back at once; one that is away for long is asked four times a minute.
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 15.0
# A connection that gave pictures for this long was a good one: the next loss starts the backoff anew.
PROVEN_S = 10.0
# Of the time to drain, what closing outputs (a file's trailer, RTMP's unpublish) and the avatar's session may take.
CLOSE_S = 4.0
# What has been said is still on its way: the service renders ahead by a few pictures, the network adds its part.
# Nothing announces the last one.
IN_FLIGHT_S = 0.5
# ICE notices a dead peer after 30 s (six consent checks, RFC 7675), a mute one never. Every avatar sends sound all the
# time, so this much silence is an end. RTMP servers throw out publishers that are idle for 10 s: be back before.
MEDIA_LOST_S = 5.0
# A service may load an avatar after it has connected its media; what shows nothing for longer than this is broken.
FIRST_PICTURE_S = 30.0
PUBLISH_EVERY_S = 1.0
# One distance of keyframes: a queue that forgets then always has a keyframe to go on from.
OUTPUT_QUEUE_S = 2.0


class SessionState(StrEnum):
    CONNECTING = "connecting"
    LIVE = "live"
    RECONNECTING = "reconnecting"
    DRAINING = "draining"
    FAILED = "failed"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStatus:
    """How a session is doing.

    error         the last one, empty when there was none.
    capabilities  what its avatar service can do.
    """

    name: str
    state: SessionState
    error: str
    capabilities: frozenset[Capability]
    media: MediaStatus
    spoken_s: float
    input_is_finished: bool
    outputs: tuple[OutputStatus, ...]


class Session:
    """Runs until drained: speech up to the avatar, its picture and sound down to every output.

    The avatar is reconnected as often as it goes away; outputs stay up meanwhile. What ends a session early is what
    only an operator can change: the error is raised once the outputs are closed.
    """

    def __init__(
        self, name: str, config: SessionConfig, *, ice: "IceSettings", storage: StorageConfig, metrics: SessionMetrics
    ) -> None:
        self.name = name
        self.state = SessionState.CONNECTING
        self.has_been_live = False
        self._error = ""
        self._role = config.avatar.role
        self._log = structlog.get_logger().bind(session=name)
        self._metrics = metrics
        self._telemetry = Telemetry(metrics)

        ((input_name, input_config),) = config.inputs.items()
        source = open_source(input_name, input_config, storage.dir)
        self._uplink = Uplink(source, SpeechChain(input_config.gain_db))
        self._history = History(config.avatar.history_file)
        self._provider = open_provider(config.avatar, ice, self._history.users)
        self._hub = Hub([self._runner(name, output, storage) for name, output in config.outputs.items()])
        keyframe_s = self._hub.keyframe_s
        interval_ns = None if keyframe_s is None else round(keyframe_s * NS_PER_S)
        self._reception = Reception(time.monotonic_ns(), self._on_unit, interval_ns)

        self._backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S, random.Random())
        self._is_connected = False
        self._link: AvatarLink | None = None
        self._ready_ns: int | None = None
        self._live_ns: int | None = None
        self._answer = Answer()
        self._tool_calls = ToolCalls(
            {tool.name: tool.default for tool in config.avatar.tools if tool.default is not None},
            config.avatar.tool_default,
            config.avatar.tool_deadline_s,
            on_result=lambda result: metrics.tool_calls_total(result=result).inc(),
        )
        self._drained = asyncio.Event()
        self._is_finishing = False

    async def run(self) -> None:
        """Raises ConfigError for a bad history file, SourceRejected, ProviderRejected, OutputRejected once no output is
        left, and whatever is a bug.
        """
        structlog.contextvars.bind_contextvars(session=self.name)
        self._enter(SessionState.CONNECTING)
        last_state = SessionState.FAILED
        try:
            await asyncio.to_thread(self._history.load)
            async with asyncio.TaskGroup() as tasks:
                # 6 publish: outlives whatever happens to the avatar
                publishing = tasks.create_task(self._publish(), name="outputs")
                # 1 inputs -> 2 dsp: real time goes on whether or not an avatar listens
                speaking = tasks.create_task(self._uplink.run(), name="uplink")
                telling = tasks.create_task(self._publish_metrics(), name="metrics")
                remembering = tasks.create_task(self._history.run(), name="history")
                # 3 providers, 4 receive, 5 timeline
                await self._converse()
                speaking.cancel()
                await asyncio.wait((publishing,), timeout=CLOSE_S)
                for task in (publishing, telling, remembering):
                    task.cancel()
            last_state = SessionState.CLOSED
        except asyncio.CancelledError:
            last_state = SessionState.CLOSED
            raise
        except ConfigError as error:
            self._error = str(error)
            raise
        except BaseExceptionGroup as failures:
            # One failure ends the group; whatever its end did to the others tells nobody anything.
            self._error = str(failures.exceptions[0])
            raise failures.exceptions[0] from None
        finally:
            self._enter(last_state)

    async def drain(self, within_s: float) -> None:
        """Finish the utterance and its answer, then let `run` end; outputs and the avatar are closed properly."""
        if self.state in (SessionState.DRAINING, SessionState.FAILED, SessionState.CLOSED):
            return
        self._enter(SessionState.DRAINING)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, within_s - CLOSE_S - IN_FLIGHT_S)) as deadline:
                left_s = (deadline.when() or 0.0) - asyncio.get_running_loop().time()
                await self._uplink.finish_utterance(left_s)
                await self._answer.played()
        if self._link is not None:
            await asyncio.sleep(min(IN_FLIGHT_S, within_s))
        # Outputs and the avatar are closed side by side: each has its own deadlines.
        self._drained.set()
        self._is_finishing = True
        self._hub.finish()

    @property
    def has_been_on_air(self) -> bool:
        """A picture has come, and an output was accepted by its far end."""
        return self.has_been_live and any(runner.status().accepted for runner in self._hub.runners)

    def status(self) -> SessionStatus:
        return SessionStatus(
            name=self.name,
            state=self.state,
            error=self._error,
            capabilities=self._provider.capabilities,
            media=self._telemetry.status(self._reception),
            spoken_s=self._uplink.spoken_s,
            input_is_finished=self._uplink.finished.is_set(),
            outputs=tuple(runner.status() for runner in self._hub.runners),
        )

    # ------------------------------------------------------------------------------------------ the avatar

    async def _converse(self) -> None:
        """Keep one avatar connection after another until drained. Raises ProviderRejected."""
        while not self._drained.is_set():
            try:
                await self._connect()
            except (ProviderUnavailable, RemoteProtocolError) as error:
                await self._wait_to_reconnect(error)

    async def _connect(self) -> None:
        """Serve one avatar session; returns when drained, raises what else ends it."""
        self._is_connected = True
        tasks = [
            asyncio.create_task(self._provider.run(self), name="avatar"),
            asyncio.create_task(self._watch_media(), name="media watch"),
            asyncio.create_task(self._drained.wait(), name="drained"),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    await task
        finally:
            self._is_connected = False
            self._uplink.detach()
            self._answer.cut()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._tool_calls.cancel()
            self._reception.close()
            self._link = None
            self._metrics.provider_session_seconds().set(0)

    async def _watch_media(self) -> None:
        """Raises ProviderUnavailable when nothing has come for `MEDIA_LOST_S`, or no picture at all. Never returns.

        Until there is a track, the deadlines of the provider's hand-shake hold.
        """
        tracks_ns: int | None = None
        while True:
            await asyncio.sleep(MEDIA_LOST_S / 4)
            now_ns, heard_ns = time.monotonic_ns(), self._reception.heard_ns
            if heard_ns is None:
                continue
            tracks_ns = tracks_ns or now_ns
            if self._live_ns is None and now_ns - tracks_ns > FIRST_PICTURE_S * NS_PER_S:
                raise ProviderUnavailable(
                    f"the avatar service has shown no picture for {FIRST_PICTURE_S:g} s", reason="media"
                )
            if now_ns - heard_ns > MEDIA_LOST_S * NS_PER_S:
                raise ProviderUnavailable(
                    f"the avatar service has sent no media for {MEDIA_LOST_S:g} s", reason="media"
                )

    async def _wait_to_reconnect(self, error: BridgeError) -> None:
        if self._live_ns is not None and time.monotonic_ns() - self._live_ns > PROVEN_S * NS_PER_S:
            self._backoff.reset()
        self._ready_ns = self._live_ns = None
        delay_s = self._backoff.next_delay_s()
        self._error = str(error)
        self._log.warning("avatar_lost", error=self._error, retry_in_s=round(delay_s, 1))
        if self.state is not SessionState.DRAINING:
            self._enter(SessionState.RECONNECTING)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._drained.wait()
                return
        reason = "protocol" if isinstance(error, RemoteProtocolError) else "unavailable"
        self._metrics.provider_reconnects_total(reason=error.reason or reason).inc()

    def on_track(self, track: RemoteTrack) -> TrackSink:
        return self._reception.on_track(track)

    def on_ready(self, link: AvatarLink) -> None:
        self._link, self._ready_ns = link, time.monotonic_ns()
        self._uplink.attach(link)

    def on_event(self, event: AvatarEvent) -> None:
        self._metrics.provider_events_total(type=event.kind).inc()
        match event.kind:
            case "speech_started" if self._role == "conversation":
                # What waits to be sent is the speech that was heard; what it interrupts is the answer.
                self._answer.cut()
            case "speech_started":
                self._uplink.interrupt()
            case "speech_stopped" if self._role == "conversation":
                self._answer.expect()
            case "user_transcript":
                self._history.add("user", event.text)
            case "response_started":
                self._answer.start(time.monotonic_ns())
            case "avatar_transcript":
                self._answer.reads(event.text)
                self._history.add("assistant", event.text)
            case "response_done":
                self._answer.lasts(event.sound_s)
                self._answer.done()

    def on_tool_call(self, call: ToolCall) -> None:
        if self._link is not None:
            self._tool_calls.ask(call, self._link)

    def _on_unit(self, unit: AccessUnit) -> None:
        self._telemetry.on_unit(unit)
        self._hub.put(unit)
        if unit.codec.kind == "video" and self._is_connected and not self._uplink.media_ready.is_set():
            self._uplink.media_ready.set()
            self._live_ns = time.monotonic_ns()
            self.has_been_live = True
            if self.state is not SessionState.DRAINING:
                self._enter(SessionState.LIVE)

    # ------------------------------------------------------------------------------------------ around it

    def _runner(self, name: str, config: OutputConfig, storage: StorageConfig) -> OutputRunner:
        telemetry = self._telemetry.output(name, config.scheme)
        runner = OutputRunner(
            name,
            open_output(name, config, storage),
            LiveQueue(OUTPUT_QUEUE_S),
            protocol=config.scheme,
            audio_bitrate=config.audio_bitrate,
            request_keyframe=lambda: self._reception.request_keyframe(),
            on_change=telemetry.on_change,
            on_written=telemetry.on_written,
        )
        telemetry.on_change(runner.status())
        return runner

    async def _publish(self) -> None:
        await self._hub.run()
        if not self._is_finishing:
            errors = "; ".join(runner.status().last_error for runner in self._hub.runners)
            raise OutputRejected(f"no output is left: {errors}")

    async def _publish_metrics(self) -> None:
        while True:
            await asyncio.sleep(PUBLISH_EVERY_S)
            self._telemetry.publish(self._uplink, self._reception, self._hub, self._link)
            if self._link is not None and self._ready_ns is not None:
                age_ns = time.monotonic_ns() - self._ready_ns
                self._metrics.provider_session_seconds().set(age_ns / NS_PER_S)

    def _enter(self, state: SessionState) -> None:
        self.state = state
        self._metrics.session_state.switch(state=state.value)
        self._log.info(f"session_{state.value}")
