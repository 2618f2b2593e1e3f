"""Where a session is published: its outputs, made of their configuration and changed while it is on air."""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bridge.config import OutputConfig, StorageConfig
from bridge.errors import OutputRejected
from bridge.events import EventLog
from bridge.media.clock import NS_PER_S
from bridge.media.live_queue import LiveQueue
from bridge.media.slate_pictures import SlatePictures
from bridge.net.url_policy import UrlPolicy
from bridge.outputs import check_overlay, open_output, open_preview, picture_wants
from bridge.outputs.choice import PictureWants
from bridge.outputs.compliance import Compliance
from bridge.outputs.hub import Hub
from bridge.outputs.mixed_sound import Mixer
from bridge.outputs.runner import OutputRunner
from bridge.outputs.status import OutputStatus
from bridge.ports import Output, Transcript
from bridge.presets import find_preset
from bridge.redact import mask
from bridge.reload import OutputChanges
from bridge.telemetry import OutputTelemetry, Telemetry

if TYPE_CHECKING:
    from bridge.net.ice import IceSettings

# One distance of keyframes: a queue that forgets then always has a keyframe to go on from.
OUTPUT_QUEUE_S = 2.0
# The output for viewers that is there without being configured.
PREVIEW = "preview"


class Distribution:
    """Opens outputs for a hub, follows them, and keeps the preview there as long as nobody configures one.

    hub  takes what is on air, and the operator's hand for outputs that are there.
    """

    def __init__(
        self,
        outputs: Mapping[str, OutputConfig],
        *,
        strange: frozenset[str],
        ice: "IceSettings",
        storage: StorageConfig,
        policy: UrlPolicy,
        telemetry: Telemetry,
        events: EventLog,
        mixer: Mixer | None,
        transcript: Transcript,
        slate: Callable[[], SlatePictures | None],
        request_keyframe: Callable[[], None],
        on_keyframe_interval: Callable[[int | None], None],
    ) -> None:
        """Raises ConfigError.

        strange               names of the outputs that did not come from the operator's file.
        mixer                 of inputs that are on air; None: there are none.
        transcript            what is said, for recordings.
        on_keyframe_interval  hears `keyframe_interval_ns` when outputs have come, gone or changed.
        """
        self._configured = outputs
        self._ice = ice
        self._storage = storage
        self._policy = policy
        self._telemetry = telemetry
        self._events = events
        self._transcript = transcript
        self._request_keyframe = request_keyframe
        self._on_keyframe_interval = on_keyframe_interval
        self.hub = Hub(
            [self._runner(name, output, is_strange=name in strange) for name, output in outputs.items()],
            mixer=mixer,
            slate=slate,
            request_keyframe=request_keyframe,
        )
        self.is_finishing = False
        self._changing = asyncio.Lock()
        if PREVIEW not in outputs:
            self._add_preview()

    async def check(self) -> None:
        """See that what outputs paint over pictures can be painted. Raises ConfigError."""
        for name, output in self._configured.items():
            await asyncio.to_thread(check_overlay, name, output)

    async def run(self) -> None:
        """Publish until `finish`. Raises OutputRejected when no output is left before, and whatever is a bug."""
        await self.hub.run()
        if not self.is_finishing:
            errors = "; ".join(runner.status().last_error for runner in self._wanted)
            raise OutputRejected(f"no output is left: {errors}")

    def finish(self) -> None:
        """Let the outputs publish what waits and close."""
        self.is_finishing = True
        self.hub.finish()

    # ------------------------------------------------------------------------------------------ looking

    @property
    def keyframe_interval_ns(self) -> int | None:
        """How far keyframes may lie apart for all outputs; None: at any distance."""
        keyframe_s = self.hub.keyframe_s
        return None if keyframe_s is None else round(keyframe_s * NS_PER_S)

    @property
    def was_accepted(self) -> bool:
        """Whether the far end of an output has taken what it was sent; the preview does not count."""
        return any(runner.status().accepted for runner in self._wanted)

    def status(self) -> tuple[OutputStatus, ...]:
        """Of the outputs that somebody has wanted."""
        return tuple(runner.status() for runner in self._wanted)

    def preview_status(self) -> OutputStatus | None:
        """Of the output for viewers that nobody has configured."""
        return next((runner.status() for runner in self.hub.runners if runner.is_aside), None)

    def output(self, name: str) -> Output | None:
        """The output of that name, in its present attempt."""
        return next((runner.output for runner in self.hub.runners if runner.name == name), None)

    @property
    def _wanted(self) -> list[OutputRunner]:
        return [runner for runner in self.hub.runners if not runner.is_aside]

    # ------------------------------------------------------------------------------------------ changing

    async def change(self, changes: OutputChanges, strange: frozenset[str]) -> None:
        """Apply what has changed in the configuration; all other outputs go on. Raises ConfigError."""
        for name in changes.removed & {runner.name for runner in self.hub.runners}:
            await self.remove(name)
        for name, config in changes.put.items():
            await self.add(name, config, is_strange=name in strange)

    async def add(self, name: str, config: OutputConfig, *, is_strange: bool = True) -> None:
        """Publish there too, in place of the output of that name if there is one. Raises ConfigError.

        is_strange  it did not come from the operator's file.
        """
        # What cannot be opened takes nobody's place.
        open_output(name, config, self._storage, self._ice, self._policy)
        await asyncio.to_thread(check_overlay, name, config)
        async with self._changing:
            if any(runner.name == name for runner in self.hub.runners):
                await self._forget(name)
            self.hub.add(self._runner(name, config, is_strange=is_strange))
            self._on_keyframe_interval(self.keyframe_interval_ns)

    async def remove(self, name: str) -> None:
        """Close an output properly and forget it. Raises UnknownOutput."""
        async with self._changing:
            await self._forget(name)
            if name == PREVIEW:
                self._add_preview()

    async def _forget(self, name: str) -> None:
        await self.hub.remove(name)
        self._telemetry.forget(name)
        self._on_keyframe_interval(self.keyframe_interval_ns)

    # ------------------------------------------------------------------------------------------ making

    def _runner(self, name: str, config: OutputConfig, *, is_strange: bool) -> OutputRunner:
        open_it = open_output(
            name, config, self._storage, self._ice, self._policy, self._transcript, is_strange=is_strange
        )
        return self._make_runner(
            name,
            open_it,
            config.scheme,
            wants=picture_wants(config),
            audio_bitrate=config.audio_bitrate,
            autostart=config.autostart,
            compliance=Compliance(find_preset(config.preset), config.scheme) if config.preset else None,
        )

    def _add_preview(self) -> None:
        # Nobody may be watching: nothing is encoded for it.
        wants = PictureWants(video="copy")
        self.hub.add(self._make_runner(PREVIEW, open_preview(PREVIEW, self._ice), "whep", wants=wants, is_aside=True))

    def _make_runner(
        self, name: str, open_it: Callable[[], Output], protocol: str, *, is_aside: bool = False, **options: Any
    ) -> OutputRunner:
        telemetry = self._telemetry.output(name, protocol)
        runner = OutputRunner(
            name,
            open_it,
            LiveQueue(OUTPUT_QUEUE_S),
            protocol=protocol,
            is_aside=is_aside,
            **options,
            request_keyframe=self._request_keyframe,
            # What nobody has configured is no news.
            on_change=telemetry.on_change if is_aside else lambda status: self._on_change(telemetry, status),
            on_written=telemetry.on_written,
        )
        telemetry.on_change(runner.status())
        return runner

    def _on_change(self, telemetry: OutputTelemetry, status: OutputStatus) -> None:
        telemetry.on_change(status)
        # Encoded pictures have keyframes of their own.
        self._on_keyframe_interval(self.keyframe_interval_ns)
        self._events.note(
            "output",
            output=status.name,
            state=status.state.value,
            error=mask(status.last_error),
            retry_in_s=status.retry_in_s,
        )
