"""How a session is doing, for whoever asks."""

from dataclasses import dataclass
from enum import StrEnum

from bridge.feed import InputStatus
from bridge.outputs.status import OutputStatus
from bridge.ports import Capability
from bridge.timeline.splice import OnAir


class SessionState(StrEnum):
    CONNECTING = "connecting"
    LIVE = "live"
    RECONNECTING = "reconnecting"
    DRAINING = "draining"
    FAILED = "failed"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaStatus:
    """What viewers get now. Times in seconds; None: not known yet.

    fps, video_bps      over the last second.
    added_latency_s     last packet of a picture received to its last byte written, median of the last 1800 at each
                        output; recordings count only where there is no other output.
    first_picture_s     start of the session to the first picture received.
    concealment         what makes up lost sound: libopus, its version and whose it is, or what makes do without. None:
                        no output needs it, because all take Opus as it comes.
    concealed_s         lost sound that was made up.  restored_s: that the packet behind it brought (in-band FEC).
    """

    fps: float
    video_bps: float
    av_offset_s: float | None
    added_latency_s: float | None
    added_latency_p95_s: float | None
    added_latency_p99_s: float | None
    n_pictures: int
    n_lost_packets: int
    first_picture_s: float | None
    ignores_keyframe_requests: bool
    concealment: str | None
    concealed_s: float
    restored_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStatus:
    """How a session is doing.

    error         the last one, empty when there was none.
    on_air        what viewers see.  slate_reason: why the operator wants the slate; empty: no slate is wanted.
    slate_cause   why they see the slate: starting, avatar, operator or no_video (the avatar has none); empty: they do
                  not.
    capabilities  what its avatar service can do.
    preview       the output for viewers that nobody has configured.
    freezes       how often pictures have stayed away for half a second or more.
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
    preview: OutputStatus | None = None
    slate_reason: str = ""
    slate_cause: str = ""
    is_muted: bool = False
    freezes: int = 0
