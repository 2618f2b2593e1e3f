"""How an output is doing."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from bridge.outputs.compliance import Objection
from bridge.ports import Audience


class OutputState(StrEnum):
    STOPPED = "stopped"
    CONNECTING = "connecting"
    PUBLISHING = "publishing"
    BACKING_OFF = "backing_off"
    REJECTED = "rejected"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputStatus:
    """How an output is doing. stopped: by the operator; closed: it has ended with the session, or by a bug.

    mode             how its pictures come: copy, encode, or slate in place of what it cannot have; empty: none have
                     come yet.  mode_reason: why, one word, as in `choice.Mode`.
    since_s          Unix time of the last change of state.
    last_error       empty: none so far. It stays when the output is well again.
    retry_in_s       while backing off: how long, counted from `since_s`.
    reconnects       attempts after a loss, by reason: refused, reset, timeout, wedged, protocol, rejected,
                     silent, lost.
    retries          all of these together.  last_retry_s: Unix time of the last one.
    accepted         how often the far end has accepted the stream.
    bytes_total      bytes that left, all attempts together.  last_progress_s: Unix time of the last look that saw more.
    audience         of an output that viewers come to, in the present attempt.
    queue_s          media time that waits.  dropped_units: what the queue forgot, by reason.
    transcript_errors  utterances that could not be written beside a recording, in the present attempt.
    objections       what the platform of its preset would object to in what was published last.
    """

    name: str
    protocol: str
    state: OutputState
    mode: str
    mode_reason: str
    since_s: float
    last_error: str
    retry_in_s: float | None
    reconnects: Mapping[str, int]
    retries: int
    last_retry_s: float | None
    accepted: int
    bytes_total: int
    last_progress_s: float | None
    queue_s: float
    dropped_units: Mapping[str, int]
    objections: tuple[Objection, ...] = ()
    audience: Audience | None = None
    transcript_errors: int = 0
