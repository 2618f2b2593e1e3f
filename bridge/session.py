"""One avatar on its outputs: this page wires the stages, in the order in which media flows through them."""

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import structlog

from bridge.air import Air
from bridge.avatar import Avatar
from bridge.config import SessionConfig, StorageConfig
from bridge.config_origin import NONE_STRANGE, Definition, StrangeParts
from bridge.desk import Desk, open_feed
from bridge.dialogue import Dialogue
from bridge.distribution import Distribution
from bridge.errors import ConfigError, ProviderRejected
from bridge.events import EventLog
from bridge.inputs import open_clip, open_source
from bridge.media.access_unit import AccessUnit
from bridge.net.url_policy import UrlPolicy
from bridge.ops.metrics import SessionMetrics
from bridge.outputs import check_overlay, open_output
from bridge.outputs.slate import SlateMaker
from bridge.ports import AudioSource, AvatarLink, Output
from bridge.programme import Programme
from bridge.providers import open_provider
from bridge.redact import mask
from bridge.reload import OutputChanges
from bridge.status import SessionState, SessionStatus
from bridge.telemetry import Telemetry
from bridge.timeline.splice import OnAir
from bridge.track_reception import TrackReception
from bridge.transcript import Transcript
from bridge.trend import Trend
from bridge.uplink import Uplink

if TYPE_CHECKING:
    from bridge.net.ice import IceSettings

# Of the time to drain, what closing outputs (a file's trailer, RTMP's unpublish) and the avatar's session may take.
CLOSE_S = 4.0
# What has been said is still on its way: the service renders ahead by a few pictures, the network adds its part.
# Nothing announces the last one.
IN_FLIGHT_S = 0.5
PUBLISH_EVERY_S = 1.0
# Where no output wants keyframes at any distance, a slate has one this often.
SLATE_KEYFRAME_S = 2.0


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
        events: EventLog,
        trend: Trend,
        strange: StrangeParts = NONE_STRANGE,
    ) -> None:
        """`policy` says where far ends of outputs may lead us, and where the parts that are strange may; `events` gets
        what happens, `trend` how it goes.
        """
        self.name = name
        self.events = events
        self.trend = trend
        self.state = SessionState.CONNECTING
        self._error = ""
        self._log = structlog.get_logger().bind(session=name)
        self._metrics = metrics
        self._telemetry = Telemetry(metrics)
        origin_ns = time.monotonic_ns()

        # 1 inputs -> 2 dsp: real time goes on whether or not an avatar listens
        self._sources = {
            name: open_source(name, input, storage.dir, policy, ice, TrackReception, is_strange=name in strange.inputs)
            for name, input in config.inputs.items()
        }
        feeds = [
            open_feed(self._sources[name], input, lambda feed: self._dialogue.interrupt(feed))
            for name, input in config.inputs.items()
        ]
        on_air = [feed for feed in feeds if config.inputs[feed.name].on_air]
        heard = [feed for feed in feeds if config.inputs[feed.name].to_avatar]
        for_viewers = [feed for feed in feeds if feed not in heard]
        self._desk = Desk(heard, lambda feed: self._dialogue.on_speech(feed), for_viewers)
        self._uplink = Uplink(self._desk)
        self._transcript = Transcript(name, self._desk, origin_ns)
        avatar_policy = policy if strange.avatar else None
        self._dialogue = Dialogue(config.avatar, self._uplink, metrics, events, avatar_policy, self._transcript)
        self._air = (
            Air(
                on_air,
                config.inputs,
                origin_ns,
                lambda: self._programme.wants_silence,
                lambda on: self._avatar.attend(on),
            )
            if on_air
            else None
        )

        # 6 publish
        self.distribution = Distribution(
            config.outputs,
            strange=strange.outputs,
            ice=ice,
            storage=storage,
            policy=policy,
            telemetry=self._telemetry,
            events=events,
            mixer=self._air,
            transcript=self._transcript,
            slate=lambda: self._programme.splice.slate,
            request_keyframe=lambda: self._avatar.request_keyframe(),
            on_keyframe_interval=self._on_keyframe_interval,
        )
        self._hub = self.distribution.hub
        self._dialogue.captions.listener = self._hub.show_caption
        # 5 what goes on air
        slate = config.slate
        self._slate_clip = open_clip(slate.rendering, storage.dir, policy) if slate.rendering else None
        self._slate_maker = SlateMaker(
            slate.picture,
            slate.image,
            self._slate_clip.path if self._slate_clip else slate.clip,
            self._hub.keyframe_s or SLATE_KEYFRAME_S,
            is_coming=self._slate_clip is not None,
        )
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
        # 3 providers, 4 receive
        self._provider = open_provider(config.avatar, ice, self._dialogue.history.users, avatar_policy)
        self._avatar = Avatar(
            config.avatar,
            self._provider,
            origin_ns=origin_ns,
            keyframe_interval_ns=self.distribution.keyframe_interval_ns,
            uplink=self._uplink,
            dialogue=self._dialogue,
            programme=self._programme,
            metrics=metrics,
            on_change=self._on_avatar_change,
        )

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
            await self.distribution.check()
            if self._air is not None:
                await asyncio.to_thread(self._air.check)
            async with asyncio.TaskGroup() as tasks:
                publishing = tasks.create_task(self.distribution.run(), name="outputs")
                others = [
                    tasks.create_task(part, name=name)
                    for name, part in (
                        ("programme", self._programme.run()),
                        ("uplink", self._uplink.run()),
                        ("history", self._dialogue.history.run()),
                        ("metrics", self._publish_metrics()),
                        *((("air", self._air.run()),) if self._air else ()),
                        ("slate clip", self._render_slate()),
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
            await self._dialogue.close()

    async def drain(self, within_s: float) -> None:
        """Finish the utterance and its answer, then let `run` end; outputs and the avatar are closed properly."""
        if self.state in (SessionState.DRAINING, SessionState.CLOSED) or self.distribution.is_finishing:
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
        self.distribution.finish()

    @property
    def has_been_live(self) -> bool:
        return self._avatar.has_been_live

    @property
    def has_been_on_air(self) -> bool:
        """A picture has gone out, and an output was accepted by its far end."""
        return bool(self._programme.on_air_ns) and self.distribution.was_accepted

    @property
    def on_air(self) -> OnAir:
        return self._programme.splice.state

    @property
    def on_air_ns(self) -> int | None:
        """Session time of what went on air last, slate and silence too. None: nothing has to follow now.

        That is before the first picture, while one is held that never had sound, and while outputs are closing.
        """
        last_ns = self._programme.on_air_ns
        is_held_without_sound = self.on_air is OnAir.HELD and "audio" not in last_ns
        return None if self.distribution.is_finishing or is_held_without_sound else max(last_ns.values(), default=None)

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
            outputs=self.distribution.status(),
            preview=self.distribution.preview_status(),
            slate_reason=self._programme.splice.operator_reason,
            slate_cause=self._programme.splice.cause,
            is_muted=self._programme.splice.is_muted,
            freezes=self._programme.splice.freezes,
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

    async def remember(self, text: str) -> None:
        """Tell the avatar what a user said before. Raises ProviderRejected, ProviderUnavailable."""
        await self._avatar.remember(text)

    async def listen(self, on: bool) -> None:
        """Make the avatar look as if it listened, or not. Raises ProviderRejected, ProviderUnavailable."""
        await self._avatar.listen(on)

    def answer_tool(self, call_id: str, output: str) -> bool:
        """Answer a tool call; False: it does not wait for an answer."""
        return self._dialogue.tool_calls.answer(call_id, output)

    def show_slate(self, on: bool, reason: str = "") -> None:
        """Put the slate on air at once, or take it off at the next live keyframe."""
        self._programme.show_slate((reason or "operator") if on else "")

    def mute(self, on: bool) -> None:
        """Silence what viewers hear, inputs that are on air included."""
        self._programme.mute(on)

    def source(self, name: str) -> AudioSource | None:
        """The input of that name."""
        return self._sources.get(name)

    def output(self, name: str) -> Output | None:
        """The output of that name, in its present attempt."""
        return self.distribution.output(name)

    async def change_outputs(self, changes: OutputChanges, strange: StrangeParts = NONE_STRANGE) -> None:
        """Apply what has changed in the configuration; all other outputs go on. Raises ConfigError."""
        await self.distribution.change(changes, strange.outputs)

    async def start_output(self, name: str) -> None:
        """Publish from the next keyframe on, after a refusal too. Raises UnknownOutput."""
        self._hub.start(name)

    async def stop_output(self, name: str) -> None:
        """Close an output properly, until it is started again. Raises UnknownOutput."""
        await self._hub.stop(name)

    async def restart_output(self, name: str) -> None:
        """Close an output properly and publish anew. Raises UnknownOutput."""
        await self._hub.restart(name)

    # ------------------------------------------------------------------------------------------ around it

    @property
    def _link(self) -> AvatarLink | None:
        return self._avatar.current.link if self._avatar.current else None

    def _on_unit(self, unit: AccessUnit) -> None:
        self._telemetry.on_unit(unit)
        self._transcript.on_unit(unit)
        if self._air is not None:
            self._air.follow(unit)
        self._hub.put(unit)

    def _on_air_change(self, on_air: OnAir) -> None:
        self._metrics.slate_active().set(on_air is OnAir.SLATE)
        splice = self._programme.splice
        self.events.note("on_air", on_air=on_air.value, cause=splice.cause, reason=mask(splice.operator_reason))

    def _on_avatar_change(self) -> None:
        if self.state is SessionState.DRAINING:
            return
        if self._avatar.rejection is not None:
            self._enter(SessionState.FAILED)
        elif self._avatar.is_live:
            self._enter(SessionState.LIVE)
        else:
            self._enter(SessionState.RECONNECTING)

    def _on_keyframe_interval(self, interval_ns: int | None) -> None:
        self._avatar.keyframe_interval_ns = interval_ns

    async def _render_slate(self) -> None:
        """See that the slate's clip is there. What goes wrong leaves viewers the card."""
        if self._slate_clip is None or self._slate_clip.path.exists():
            return
        try:
            await self._slate_clip.keep()
            await asyncio.to_thread(self._slate_maker.check)
        except (ProviderRejected, ConfigError) as error:
            self._log.error("slate_clip_refused", error=str(error))
            return
        self._log.info("slate_clip_ready", path=str(self._slate_clip.path))
        self._programme.redraw_slate()

    async def _publish_metrics(self) -> None:
        while True:
            await asyncio.sleep(PUBLISH_EVERY_S)
            self._telemetry.publish(self._uplink, self._avatar.current, self._programme, self._hub)
            self.trend.look(self.status)

    def _enter(self, state: SessionState) -> None:
        if state is self.state and state is not SessionState.CONNECTING:
            return
        self.state = state
        self._metrics.session_state.switch(state=state.value)
        self.events.note("state", state=state.value, error=mask(self._error or self._avatar.error))
        self._log.info(f"session_{state.value}")


async def check_parts(definition: Definition, ice: "IceSettings", storage: StorageConfig, policy: UrlPolicy) -> None:
    """See that every part of a session can be opened; nothing is. Raises ConfigError."""
    config, strange = definition.config, definition.strange
    for name, source in config.inputs.items():
        open_source(name, source, storage.dir, policy, ice, TrackReception, is_strange=name in strange.inputs)
    for name, output in config.outputs.items():
        open_output(name, output, storage, ice, policy, is_strange=name in strange.outputs)
        await asyncio.to_thread(check_overlay, name, output)
    open_provider(config.avatar, ice, policy=policy if strange.avatar else None)
