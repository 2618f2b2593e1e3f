"""What the API needs of the daemon and its sessions, and what it shows of them."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Protocol

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from bridge.config import OutputConfig
from bridge.ports import AudioSource
from bridge.redact import mask

# ---------------------------------------------------------------------------------------------- what it can do


class ControlledSession(Protocol):
    """A session that runs. Its verbs raise BridgeError; ProviderRejected where the avatar service lacks one."""

    def status(self) -> object:
        """Has the fields of `SessionView`."""

    async def say(self, text: str) -> None: ...

    async def show_image(self, image: bytes, media_type: str, *, wants_answer: bool) -> None: ...

    async def interrupt(self) -> None: ...

    def answer_tool(self, call_id: str, output: str) -> bool: ...

    def show_slate(self, on: bool, reason: str = "") -> None: ...

    def mute(self, on: bool) -> None: ...

    def source(self, name: str) -> AudioSource | None:
        """The input of that name."""

    async def add_output(self, name: str, config: OutputConfig) -> None:
        """Add it, or put it in the place of the one of that name."""

    async def remove_output(self, name: str) -> None: ...

    async def start_output(self, name: str) -> None: ...

    async def stop_output(self, name: str) -> None: ...

    async def restart_output(self, name: str) -> None: ...


class ControlledDaemon(Protocol):
    """status: of every session, those that have ended among them.  session: one that runs."""

    is_draining: bool

    def status(self) -> Sequence[object]: ...

    def session(self, name: str) -> ControlledSession | None: ...

    def stop(self) -> None: ...


# ---------------------------------------------------------------------------------------------- what it shows

Shown = Annotated[str, AfterValidator(mask)]


class View(BaseModel):
    """Shows of an object the fields that are declared here, and no others."""

    model_config = ConfigDict(from_attributes=True)


class OutputView(View):
    """An output; see `bridge.outputs.status.OutputStatus`."""

    name: str
    protocol: str
    state: str
    since_s: float
    last_error: Shown
    retry_in_s: float | None
    reconnects: Mapping[str, int]
    retries: int
    last_retry_s: float | None
    accepted: int
    bytes_total: int
    last_progress_s: float | None
    queue_s: float
    dropped_units: Mapping[str, int]


class InputView(View):
    """An input; see `bridge.feed.InputStatus`."""

    name: str
    state: str
    error: Shown
    is_speaking: bool
    level_dbfs: float
    waiting_s: float
    dropped_s: float
    underruns: int


class MediaView(View):
    """What viewers get; see `bridge.telemetry.MediaStatus`."""

    fps: float
    video_bps: float
    av_offset_s: float | None
    added_latency_s: float | None
    added_latency_p99_s: float | None
    n_pictures: int
    n_lost_packets: int
    first_picture_s: float | None
    ignores_keyframe_requests: bool
    concealment: str | None
    concealed_s: float
    restored_s: float


class SessionView(View):
    """A session; see `bridge.session.SessionStatus`.

    on_air        live, held or slate: what viewers see.  slate_reason: why the operator wants it; empty: no slate.
    slate_cause   why they see it: starting, avatar, operator, codec or no_video; empty: they do not.
    capabilities  what its avatar service can do: say, interrupt, image, history, tools.
    """

    name: str
    state: str
    error: Shown
    on_air: str
    slate_reason: Shown
    slate_cause: str
    is_muted: bool
    capabilities: Annotated[list[str], BeforeValidator(sorted)]
    media: MediaView
    spoken_s: float
    input_is_finished: bool
    inputs: list[InputView]
    outputs: list[OutputView]
