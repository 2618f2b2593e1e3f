"""One avatar on its outputs: this page wires the stages, in the order in which media flows through them."""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import structlog

from bridge.avatar import Avatar
from bridge.config import OutputConfig, SessionConfig, StorageConfig
from bridge.desk import Desk, open_feed
from bridge.dialogue import Dialogue
from bridge.errors import ConfigError, OutputRejected, ProviderRejected
from bridge.feed import InputStatus
from bridge.inputs import open_source
from bridge.media.access_unit import AccessUnit
from bridge.media.clock import NS_PER_S
from bridge.media.live_queue import LiveQueue
from bridge.net.url_policy import UrlPolicy
from bridge.ops.metrics import SessionMetrics
from bridge.outputs import open_output
from bridge.outputs.hub import Hub
from bridge.outputs.runner import OutputRunner
from bridge.outputs.slate import SlateMaker
from bridge.outputs.status import OutputStatus
from bridge.ports import AudioSource, AvatarLink, Capability
from bridge.programme import Programme
from bridge.providers import open_provider
from bridge.telemetry import MediaStatus, Telemetry
from bridge.timeline.splice import OnAir
from bridge.track_reception import TrackReception
from bridge.uplink import Uplink

if TYPE_CHECKING:
    from bridge.net.ice import IceSettings

# Of the time to drain, what closing outputs (a file's trailer, RTMP's unpublish) and the avatar's session may take.
CLOSE_S = 4.0
# What has been said is still on its way: the service renders ahead by a few pictures, the network adds its part.
# Nothing announces the last one.
IN_FLIGHT_S = 0.5
PUBLISH_EVERY_S = 1.0
# One distance of keyframes: a queue that forgets then always has a keyframe to go on from.
OUTPUT_QUEUE_S = 2.0
# Where no output wants keyframes at any distance, a slate has one this often.
SLATE_KEYFRAME_S = 2.0


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
    on_air        what viewers see.  slate_reason: why the operator wants the slate; empty: no slate is wanted.
    slate_cause   why they see the slate: starting, avatar, operator, codec (of the avatar's pictures, which no output
                  carries) or no_video (it has none); empty: they do not.
    capabilities  what its avatar service can do.
    """

    name: str
    state: SessionState
    error: str
    on_air: OnAir
    capabilities: frozenset[Capability]
    media: MediaStatus
    spoken_s: float
    input_is_finished: bool
    inputs: tuple[InputStatus, ...] = ()
    outputs: tuple[OutputStatus, ...]
    slate_reason: str = ""
    slate_cause: str = ""
    is_muted: bool = False


class Session:
    """Runs until drained: speech up to the avatar, its picture and sound down to every output.

    The avatar is reconnected as often as it goes away; outputs stay up meanwhile, on a slate. What ends a session early
    is what only an operator can change before anything was on air: the error is raised once the outputs are closed.
    """

    def __init__(
        self,
        name: str,
        config: SessionConfig,
        *,
        ice: "IceSettings",
        storage: StorageConfig,
        policy: UrlPolicy,
        metrics: SessionMetrics,
    ) -> None:
        """`policy` says where far ends of outputs may lead us."""
        self.name = name
        self.state = SessionState.CONNECTING
        self._error = ""
        self._storage = storage
        self._ice = ice
        self._policy = policy
        self._log = structlog.get_logger().bind(session=name)
        self._metrics = metrics
        self._telemetry = Telemetry(metrics)
        origin_ns = time.monotonic_ns()

        # 6 publish
        self._hub = Hub([self._runner(name, output) for name, output in config.outputs.items()])
        keyframe_s = self._hub.keyframe_s
        # 5 what goes on air
        slate = config.slate
        self._slate_maker = SlateMaker(slate.picture, slate.image, slate.clip, keyframe_s or SLATE_KEYFRAME_S)
        self._programme = Programme(
            self._slate_maker.make,
            slate_after_s=slate.after_s,
            wants_last=slate.picture == "last",
            origin_ns=origin_ns,
            emit=self._on_unit,
            request_keyframe=lambda: self._avatar.request_keyframe(),
            on_change=self._on_air_change,
            log=self._log,
        )
        # 1 inputs -> 2 dsp: real time goes on whether or not an avatar listens
        self._sources = {
            name: open_source(name, input, storage.dir, policy, ice, TrackReception)
            for name, input in config.inputs.items()
        }
        feeds = [
            open_feed(self._sources[name], input, lambda feed: self._dialogue.interrupt(feed))
            for name, input in config.inputs.items()
        ]
        self._desk = Desk(feeds, lambda feed: self._dialogue.on_speech(feed))
        self._uplink = Uplink(self._desk)
        self._dialogue = Dialogue(config.avatar, self._uplink, metrics)
        # 3 providers, 4 receive
        self._provider = open_provider(config.avatar, ice, self._dialogue.history.users)
        self._avatar = Avatar(
            config.avatar,
            self._provider,
            origin_ns=origin_ns,
            keyframe_interval_ns=self._keyframe_interval_ns,
            uplink=self._uplink,
            dialogue=self._dialogue,
            programme=self._programme,
            metrics=metrics,
            on_change=self._on_avatar_change,
        )
        self._is_finishing = False
        self._changing_outputs = asyncio.Lock()

    async def run(self) -> None:
        """Raises ConfigError for a bad history or slate file, SourceRejected, ProviderRejected, OutputRejected once no
        output is left, and whatever is a bug.
        """
        structlog.contextvars.bind_contextvars(session=self.name)
        self._enter(SessionState.CONNECTING)
        last_state = SessionState.FAILED
        try:
            # What an operator has to mend is said before anything goes on air.
            await asyncio.to_thread(self._dialogue.history.load)
            await asyncio.to_thread(self._slate_maker.check)
            async with asyncio.TaskGroup() as tasks:
                publishing = tasks.create_task(self._publish(), name="outputs")
                others = [
                    tasks.create_task(part, name=name)
                    for name, part in (
                        ("programme", self._programme.run()),
                        ("uplink", self._uplink.run()),
                        ("history", self._dialogue.history.run()),
                        ("metrics", self._publish_metrics()),
                    )
                ]
                await self._avatar.run()
                await asyncio.wait((publishing,), timeout=CLOSE_S)
                for task in (publishing, *others):
                    task.cancel()
            if self._avatar.rejection is not None:
                raise self._avatar.rejection
            last_state = SessionState.CLOSED
        except asyncio.CancelledError:
            last_state = SessionState.CLOSED
            raise
        except (ConfigError, ProviderRejected) as error:
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
        if self.state in (SessionState.DRAINING, SessionState.CLOSED) or self._is_finishing:
            return
        self._enter(SessionState.DRAINING)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, within_s - CLOSE_S - IN_FLIGHT_S)) as deadline:
                left_s = (deadline.when() or 0.0) - asyncio.get_running_loop().time()
                await self._uplink.finish_utterance(left_s)
                await self._dialogue.answer.played()
        if self._link is not None:
            await asyncio.sleep(min(IN_FLIGHT_S, within_s))
        # Outputs and the avatar are closed side by side: each has its own deadlines.
        self._avatar.end()
        self._is_finishing = True
        self._hub.finish()

    @property
    def has_been_live(self) -> bool:
        return self._avatar.has_been_live

    @property
    def has_been_on_air(self) -> bool:
        """A picture has gone out, and an output was accepted by its far end."""
        return bool(self._programme.on_air_ns) and any(runner.status().accepted for runner in self._hub.runners)

    @property
    def rejection(self) -> str:
        """What an operator must change before there is an avatar again; empty: nothing."""
        return str(self._avatar.rejection or "")

    def status(self) -> SessionStatus:
        current = self._avatar.current
        return SessionStatus(
            name=self.name,
            state=self.state,
            error=self._error or self._avatar.error,
            on_air=self._programme.splice.state,
            capabilities=self._provider.capabilities,
            media=self._telemetry.status(current.reception if current else None, self._hub),
            spoken_s=self._uplink.spoken_s,
            input_is_finished=self._uplink.finished.is_set(),
            inputs=self._desk.status(),
            outputs=tuple(runner.status() for runner in self._hub.runners),
            slate_reason=self._programme.splice.operator_reason,
            slate_cause=self._programme.splice.cause,
            is_muted=self._programme.splice.is_muted,
        )

    # ------------------------------------------------------------------------------------------ the operator's hand

    async def say(self, text: str) -> None:
        """Give the avatar text to answer or to speak. Raises ProviderRejected, ProviderUnavailable."""
        await self._avatar.say(text)

    async def show_image(self, image: bytes, media_type: str, *, wants_answer: bool) -> None:
        """Show the avatar a picture. Raises ProviderRejected, ProviderUnavailable."""
        await self._avatar.show(image, media_type, wants_answer=wants_answer)

    async def interrupt(self) -> None:
        """Make the avatar stop speaking: what waits here is dropped, and at the service. Raises ProviderUnavailable."""
        await self._avatar.interrupt()

    def answer_tool(self, call_id: str, output: str) -> bool:
        """Answer a tool call; False: it does not wait for an answer."""
        return self._dialogue.tool_calls.answer(call_id, output)

    def show_slate(self, on: bool, reason: str = "") -> None:
        """Put the slate on air at once, or take it off at the next live keyframe."""
        self._programme.show_slate((reason or "operator") if on else "")

    def mute(self, on: bool) -> None:
        """Silence what viewers hear."""
        self._programme.mute(on)

    def source(self, name: str) -> AudioSource | None:
        """The input of that name."""
        return self._sources.get(name)

    async def add_output(self, name: str, config: OutputConfig) -> None:
        """Publish there too, in place of the output of that name if there is one. Raises ConfigError."""
        open_output(name, config, self._storage, self._ice, self._policy)  # what cannot be opened takes nobody's place
        async with self._changing_outputs:
            if any(runner.name == name for runner in self._hub.runners):
                await self._forget_output(name)
            self._hub.add(self._runner(name, config, is_strange=True))
            self._avatar.keyframe_interval_ns = self._keyframe_interval_ns

    async def remove_output(self, name: str) -> None:
        """Close an output properly and forget it. Raises UnknownOutput."""
        async with self._changing_outputs:
            await self._forget_output(name)

    async def start_output(self, name: str) -> None:
        """Publish from the next keyframe on, after a refusal too. Raises UnknownOutput."""
        self._hub.start(name)

    async def stop_output(self, name: str) -> None:
        """Close an output properly, until it is started again. Raises UnknownOutput."""
        await self._hub.stop(name)

    async def restart_output(self, name: str) -> None:
        """Close an output properly and publish anew. Raises UnknownOutput."""
        await self._hub.restart(name)

    async def _forget_output(self, name: str) -> None:
        await self._hub.remove(name)
        self._telemetry.forget(name)
        self._avatar.keyframe_interval_ns = self._keyframe_interval_ns

    # ------------------------------------------------------------------------------------------ around it

    @property
    def _link(self) -> AvatarLink | None:
        return self._avatar.current.link if self._avatar.current else None

    def _on_unit(self, unit: AccessUnit) -> None:
        self._telemetry.on_unit(unit)
        self._hub.put(unit)

    def _on_air_change(self, on_air: OnAir) -> None:
        self._metrics.slate_active().set(on_air is OnAir.SLATE)

    def _on_avatar_change(self) -> None:
        if self.state is SessionState.DRAINING:
            return
        if self._avatar.rejection is not None:
            self._enter(SessionState.FAILED)
        elif self._avatar.is_live:
            self._enter(SessionState.LIVE)
        else:
            self._enter(SessionState.RECONNECTING)

    @property
    def _keyframe_interval_ns(self) -> int | None:
        keyframe_s = self._hub.keyframe_s
        return None if keyframe_s is None else round(keyframe_s * NS_PER_S)

    def _runner(self, name: str, config: OutputConfig, *, is_strange: bool = False) -> OutputRunner:
        telemetry = self._telemetry.output(name, config.scheme)
        runner = OutputRunner(
            name,
            open_output(name, config, self._storage, self._ice, self._policy, is_strange=is_strange),
            LiveQueue(OUTPUT_QUEUE_S),
            protocol=config.scheme,
            audio_bitrate=config.audio_bitrate,
            autostart=config.autostart,
            request_keyframe=lambda: self._avatar.request_keyframe(),
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
            self._telemetry.publish(self._uplink, self._avatar.current, self._programme, self._hub)

    def _enter(self, state: SessionState) -> None:
        if state is self.state and state is not SessionState.CONNECTING:
            return
        self.state = state
        self._metrics.session_state.switch(state=state.value)
        self._log.info(f"session_{state.value}")
