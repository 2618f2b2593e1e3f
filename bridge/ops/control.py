"""What the API needs of the daemon and its sessions, and what it shows of them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from bridge.config_origin import Definition
from bridge.events import EventLog
from bridge.ports import AudioSource, Output
from bridge.redact import mask

# ---------------------------------------------------------------------------------------------- what it can do


class ControlledTrend(Protocol):
    def columns(self) -> Mapping[str, Sequence[float | None]]:
        """Has the keys of `TrendView`."""


class ControlledSession(Protocol):
    """A session that runs. Its verbs raise BridgeError; ProviderRejected where the avatar service lacks one."""

    events: EventLog

    @property
    def trend(self) -> "ControlledTrend": ...

    def status(self) -> object:
        """Has the fields of `SessionView`."""

    async def say(self, text: str) -> None: ...

    async def show_image(self, image: bytes, media_type: str, *, wants_answer: bool) -> None: ...

    async def interrupt(self) -> None: ...

    async def remember(self, text: str) -> None: ...

    async def listen(self, on: bool) -> None: ...

    def answer_tool(self, call_id: str, output: str) -> bool: ...

    def show_slate(self, on: bool, reason: str = "") -> None: ...

    def mute(self, on: bool) -> None: ...

    def source(self, name: str) -> AudioSource | None:
        """The input of that name."""

    def output(self, name: str) -> Output | None:
        """The output of that name, `preview` too."""

    async def start_output(self, name: str) -> None: ...

    async def stop_output(self, name: str) -> None: ...

    async def restart_output(self, name: str) -> None: ...


class ControlledDaemon(Protocol):
    """status: of every session, those that have ended among them; status_of: of one, None where there is none.

    session   one that runs.
    has_room  for one more session.
    """

    is_draining: bool

    @property
    def has_room(self) -> bool: ...

    def definition(self, name: str) -> Definition | None:
        """What a session is made of; None: there is none of that name."""

    def is_overridden(self, name: str) -> bool:
        """Whether calls have made something else of a session than the file says."""

    async def change_session(
        self, name: str, change: Callable[[Definition | None], Awaitable[Definition | None]]
    ) -> None:
        """Make what `change` makes of a session, while nobody else changes anything; None: there is none."""

    def status(self) -> Sequence[object]: ...

    def status_of(self, name: str) -> object | None: ...

    def session(self, name: str) -> ControlledSession | None: ...

    def stop(self) -> None: ...

    async def reload(self) -> object:
        """Has the fields of `ReloadView`. Raises ConfigError."""


# ---------------------------------------------------------------------------------------------- what it shows


class ReloadView(BaseModel):
    """What a reload has changed; see `bridge.reload.Changes`."""

    model_config = ConfigDict(from_attributes=True)

    ended: Annotated[list[str], BeforeValidator(sorted)]
    begun: Annotated[list[str], BeforeValidator(sorted)]
    restarted: Mapping[str, Sequence[str]]
    outputs: Annotated[list[str], BeforeValidator(sorted)]
    pending: Sequence[str]


Shown = Annotated[str, AfterValidator(mask)]


class View(BaseModel):
    """Shows of an object the fields that are declared here, and no others."""

    model_config = ConfigDict(from_attributes=True)


class ObjectionView(View):
    """What a platform objects to; see `bridge.outputs.compliance.Objection`."""

    rule: str
    weight: str
    text: str
    source: str


class AudienceView(View):
    """Who watches; see `bridge.ports.Audience`."""

    viewers: int
    repeats_asked: int
    keyframes_asked: int
    packets_dropped: int


class OutputView(View):
    """An output; see `bridge.outputs.status.OutputStatus`."""

    name: str
    protocol: str
    state: str
    mode: str
    mode_reason: str
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
    objections: list[ObjectionView]
    audience: AudienceView | None = None
    transcript_errors: int = 0


class InputView(View):
    """An input; see `bridge.feed.InputStatus`."""

    name: str
    protocol: str
    state: str
    error: Shown
    is_speaking: bool
    level_dbfs: float
    waiting_s: float
    dropped_s: float
    underruns: int
    drift_ppm: float | None
    is_on_air: bool
    air_lost_s: float


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
    """A session; see `bridge.status.SessionStatus`.

    on_air        live, held or slate: what viewers see.  slate_reason: why the operator wants it; empty: no slate.
    slate_cause   why they see it: starting, avatar, operator or no_video; empty: they do not.
    capabilities  what its avatar service can do: say, interrupt, image, history, tools, listening.
    preview       the output for viewers that is there without being configured; null where one is named so.
    freezes       how often pictures have stayed away for half a second or more.
    overridden    whether calls have made something else of it than the configuration file says.
    """

    name: str
    state: str
    error: Shown
    on_air: str
    slate_reason: Shown
    slate_cause: str
    is_muted: bool
    freezes: int
    capabilities: Annotated[list[str], BeforeValidator(sorted)]
    media: MediaView
    spoken_s: float
    input_is_finished: bool
    inputs: list[InputView]
    outputs: list[OutputView]
    preview: OutputView | None = None
    overridden: bool = False


class TrendView(View):
    """How a session was doing, a point every two seconds for ten minutes at most, the oldest first.

    age_s    how long ago each point was.  The others have as many values, by their names in the session; null: it was
             not known.
    freezes  as in the session: how many there had been by then.
    queue_s  the longest of all outputs.
    """

    age_s: list[float]
    added_latency_p99_s: list[float | None]
    av_offset_s: list[float | None]
    video_bps: list[float]
    fps: list[float]
    freezes: list[int]
    queue_s: list[float]


class SessionDetail(SessionView):
    """A session, and what it is made of: in the shape of the configuration, as it was given, with secrets masked."""

    config: dict[str, Any]
