"""Keeps one output publishing: tries again by error type, and knows how it is doing."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

import structlog

from bridge.errors import InternalError, OutputLost, OutputRejected, OutputWedged, RemoteProtocolError
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.live_queue import LiveQueue
from bridge.net.backoff import Backoff
from bridge.outputs.choice import Mode, PictureWants, Way
from bridge.outputs.compliance import Compliance
from bridge.outputs.status import OutputState, OutputStatus
from bridge.ports import Output

# A live audience leaves within seconds, so the first retry comes at once; 15 s keeps a server that is away for hours
# from being hammered by many sessions, and is the longest that viewers wait once it is back.
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 15.0
LOOK_EVERY_S = 1.0
# A server that accepts, takes what the socket buffers hold and then drops lives for a few seconds: bytes must have
# moved in this many looks before the next loss counts as a new one.
PROVEN_LOOKS = 10
# Media waits and no byte moves: longer than the 10 s after which an output that can tell by itself gives up.
WEDGED_LOOKS = 15
# A key that was accepted once is right: a refusal after that is a far end that is half back, such as a server whose
# authority (`on_publish`) is still being restarted. Nothing but refusals for longer than a restart takes are believed.
BELIEVED_AFTER_S = 300.0


_NEXT: Mapping[OutputState, frozenset[OutputState]] = {
    OutputState.STOPPED: frozenset({OutputState.CONNECTING}),
    OutputState.CONNECTING: frozenset(
        {
            OutputState.PUBLISHING,
            OutputState.BACKING_OFF,
            OutputState.REJECTED,
            OutputState.STOPPED,
            OutputState.CLOSED,
        }
    ),
    OutputState.PUBLISHING: frozenset(
        {OutputState.BACKING_OFF, OutputState.REJECTED, OutputState.STOPPED, OutputState.CLOSED}
    ),
    OutputState.BACKING_OFF: frozenset({OutputState.CONNECTING, OutputState.STOPPED, OutputState.CLOSED}),
    # Only the operator's hand leads out of these.
    OutputState.REJECTED: frozenset({OutputState.CONNECTING, OutputState.STOPPED}),
    OutputState.CLOSED: frozenset({OutputState.CONNECTING, OutputState.STOPPED}),
}


class OutputRunner:
    """Runs one output until its queue is finished, the operator must act, or it is cancelled; never raises for those.

    A lost far end is tried again with backoff, which starts anew only after proven progress. While nobody publishes
    the queue forgets; every attempt starts at a keyframe and asks for one, and so does a queue that had to forget all
    its pictures. `open_output` makes the output of the next attempt: it neither waits nor connects.

    Once `run` has ended, `prepare` makes it ready to run again, as it does for one without `autostart`.

    is_aside  it is there whether or not anybody wants it, and a session is not on air for its sake.
    """

    def __init__(
        self,
        name: str,
        open_output: Callable[[], Output],
        queue: LiveQueue,
        *,
        protocol: str,
        wants: PictureWants | None = None,
        audio_bitrate: int = 128_000,
        autostart: bool = True,
        compliance: Compliance | None = None,
        is_aside: bool = False,
        request_keyframe: Callable[[], None] = lambda: None,
        on_change: Callable[[OutputStatus], None] = lambda status: None,
        on_written: Callable[[AccessUnit], None] = lambda unit: None,
        backoff: Backoff | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.queue = queue
        self.wants = wants or PictureWants()
        self.audio_bitrate = audio_bitrate
        self.is_aside = is_aside
        self._protocol = protocol
        self._open_output = open_output
        self._output = open_output()
        self._compliance = compliance
        self._request_keyframe = request_keyframe
        self._on_change = on_change
        self._on_written = on_written
        self._backoff = backoff or Backoff(FIRST_RETRY_S, LONGEST_RETRY_S, random.Random())
        self._sleep = sleep
        self._now_s = now_s
        self._log = structlog.get_logger().bind(output=name, protocol=protocol)

        self._mode: Mode | None = None
        self._state = OutputState.CONNECTING if autostart else OutputState.STOPPED
        self._is_running = False
        self._is_stopping = False
        self._has_changed = False
        self._since_s = now_s()
        self._last_error = ""
        self._retry_in_s: float | None = None
        self._reconnects: Counter[str] = Counter()
        self._last_retry_s: float | None = None
        self._accepted = 0
        self._refused_s = 0.0
        self._bytes_before = 0
        self._last_progress_s: float | None = None
        self._waiting: asyncio.Future[None] | None = None

    @property
    def state(self) -> OutputState:
        return self._state

    @property
    def is_stopping(self) -> bool:
        """`stop` was called: it is stopped, or about to be."""
        return self._is_stopping or self._state is OutputState.STOPPED

    @property
    def output(self) -> Output:
        """That of the present attempt."""
        return self._output

    @property
    def has_been_accepted(self) -> bool:
        return bool(self._accepted)

    @property
    def audio_codec(self) -> Codec:
        return self._output.audio_codec

    @property
    def keyframe_s(self) -> float | None:
        """How far the avatar's keyframes may lie apart; None: any distance, as where pictures are encoded."""
        if self._mode is not None and not self._mode.needs_keyframes:
            return None
        return self._output.keyframe_s

    def status(self) -> OutputStatus:
        progress = self._output.progress()
        return OutputStatus(
            name=self.name,
            protocol=self._protocol,
            state=self._state,
            mode=self._mode.way.value if self._mode else "",
            mode_reason=self._mode.reason if self._mode else "",
            since_s=self._since_s,
            last_error=self._last_error,
            retry_in_s=self._retry_in_s,
            reconnects=MappingProxyType(dict(self._reconnects)),
            retries=self._reconnects.total(),
            last_retry_s=self._last_retry_s,
            accepted=self._accepted,
            bytes_total=self._bytes_before + progress.bytes_total,
            audience=progress.audience,
            transcript_errors=progress.transcript_errors,
            last_progress_s=self._last_progress_s,
            queue_s=self.queue.lag_s,
            dropped_units=MappingProxyType({str(reason): n for reason, n in self.queue.dropped.items()}),
            objections=self._compliance.standing if self._compliance else (),
        )

    def on_mode(self, mode: Mode) -> None:
        """Its pictures come in this way from the next keyframe on."""
        if mode == self._mode:
            return
        self._mode = mode
        log = self._log.warning if mode.way is Way.SLATE else self._log.info
        log("output_mode", mode=mode.way.value, reason=mode.reason)
        self._on_change(self.status())

    def finish(self) -> None:
        """Publish what waits, close, and try no more."""
        self.queue.finish()
        if self._waiting is not None:
            self._waiting.cancel()

    def stop(self) -> None:
        """Like `finish`, but the state that `run` ends in is stopped; so is a runner that does not run, at once."""
        if self._is_running:
            self._is_stopping = True
            self.finish()
        elif self._state is not OutputState.STOPPED:
            self._enter(OutputState.STOPPED)

    def prepare(self) -> None:
        """Make a runner that has ended or never ran ready to `run`."""
        if self._is_running or self._state is OutputState.CONNECTING:
            return
        self.queue.reopen()
        self._backoff.reset()
        self._refused_s = 0.0
        self._renew_output()

    async def run(self) -> None:
        """Publish until the queue is finished or the operator must act; the state says which."""
        if self.state is not OutputState.CONNECTING:
            return  # stopped before it began
        self._is_running = True
        if not self._has_changed:
            self._log.info("output_connecting")
        try:
            while (error := await self._attempt()) is not None:
                self._last_error = str(error)
                if self._is_final(error):
                    self._enter(OutputState.REJECTED)
                    return
                if self.queue.is_finished or not await self._wait_for_retry(error):
                    break
                self._renew_output()
        finally:
            self.queue.suspend()
            if self._is_stopping:
                self._enter(OutputState.STOPPED)
            elif self._state is not OutputState.REJECTED:
                self._enter(OutputState.CLOSED)
            self._is_running = self._is_stopping = False

    def _renew_output(self) -> None:
        self._bytes_before += self._output.progress().bytes_total
        self._output = self._open_output()
        self._enter(OutputState.CONNECTING)

    # ------------------------------------------------------------------------------------- OutputListener

    def on_published(self) -> None:
        self._accepted += 1
        self._refused_s = 0.0
        self._enter(OutputState.PUBLISHING)
        if self.queue.is_awaiting_keyframe:
            self._request_keyframe()

    def on_replaced(self, reason: str) -> None:
        self._accepted += 1
        self._count_retry(reason)

    def on_written(self, unit: AccessUnit) -> None:
        self._on_written(unit)
        if self._compliance is not None:
            self._compliance.put(unit)

    def on_keyframe_request(self) -> None:
        self._request_keyframe()

    # ------------------------------------------------------------------------------------- one attempt

    async def _attempt(self) -> Exception | None:
        """Connect and publish once; the error that ended it, None at the end of the queue."""
        self.queue.restart()
        self._request_keyframe()
        if self._compliance is not None:
            self._compliance.restart()
        publishing = asyncio.create_task(self._output.run(self.queue, self), name=f"output {self.name}")
        watching = asyncio.create_task(self._watch(), name=f"watch {self.name}")
        try:
            await asyncio.wait({publishing, watching}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            publishing_ended = publishing.done()
            for task in (publishing, watching):
                task.cancel()
            await asyncio.gather(publishing, watching, return_exceptions=True)
        try:
            # How an output ends that was cancelled for a wedge does not matter.
            await (publishing if publishing_ended else watching)
        except (OutputLost, OutputRejected, RemoteProtocolError, OSError) as error:
            return error
        return None

    async def _watch(self) -> None:
        """Raises OutputLost once media waits and no byte moves; notes progress, asks for keyframes. Never returns."""
        bytes_seen = self._output.progress().bytes_total
        looks_moved = looks_stuck = 0
        while True:
            await self._sleep(LOOK_EVERY_S)
            if self._state is OutputState.PUBLISHING and self.queue.is_awaiting_keyframe:
                self._request_keyframe()
            if self._compliance is not None:
                self._look_at_compliance(self._compliance)
            bytes_now = self._output.progress().bytes_total
            if bytes_now > bytes_seen:
                bytes_seen, looks_stuck = bytes_now, 0
                self._last_progress_s = self._now_s()
                looks_moved += 1
                if looks_moved == PROVEN_LOOKS:
                    self._backoff.reset()
            elif self._state is OutputState.PUBLISHING and self._has_waiting_media():
                looks_stuck += 1
                if looks_stuck == WEDGED_LOOKS:
                    raise OutputWedged(f"no byte has left for {WEDGED_LOOKS * LOOK_EVERY_S:g} s while media waits")
            else:
                looks_stuck = 0

    def _look_at_compliance(self, compliance: Compliance) -> None:
        appeared, gone = compliance.look()
        for objection in appeared:
            fields = {"rule": objection.rule, "weight": objection.weight, "source": objection.source}
            self._log.warning("output_objection", objection=objection.text, **fields)
        for objection in gone:
            self._log.info("output_objection_gone", rule=objection.rule, weight=objection.weight)

    def _has_waiting_media(self) -> bool:
        return self.queue.lag_s > 0 or self._output.progress().backlog_bytes > 0

    # ------------------------------------------------------------------------------------- between attempts

    def _is_final(self, error: Exception) -> bool:
        if not isinstance(error, OutputRejected):
            return False
        if self._state is OutputState.PUBLISHING or not self._accepted:
            return True
        return self._refused_s >= BELIEVED_AFTER_S

    async def _wait_for_retry(self, error: Exception) -> bool:
        """False: `finish` came meanwhile."""
        self.queue.suspend()
        asked_for_s = error.retry_after_s if isinstance(error, OutputLost) else 0.0
        self._retry_in_s = max(self._backoff.next_delay_s(), asked_for_s)
        # Waits are added up, because the wall clock may step.
        self._refused_s = self._refused_s + self._retry_in_s if isinstance(error, OutputRejected) else 0.0
        self._enter(OutputState.BACKING_OFF)
        self._waiting = asyncio.ensure_future(self._sleep(self._retry_in_s))
        try:
            await asyncio.wait({self._waiting})
        finally:
            self._waiting.cancel()
            self._waiting = self._retry_in_s = None
        if self.queue.is_finished:
            return False
        self._count_retry(reconnect_reason(error))
        return True

    def _count_retry(self, reason: str) -> None:
        self._reconnects[reason] += 1
        self._last_retry_s = self._now_s()

    def _enter(self, state: OutputState) -> None:
        if state not in _NEXT[self._state]:
            raise InternalError(f"output {self.name}: {state.value} while {self._state.value}")
        lasted_s = self._now_s() - self._since_s
        self._state = state
        self._has_changed = True
        self._since_s = self._now_s()
        fields: dict[str, object] = {"after_s": round(lasted_s, 1)}
        match state:
            case OutputState.BACKING_OFF:
                assert self._retry_in_s is not None
                retry_in_s = round(self._retry_in_s, 1)
                self._log.warning("output_lost", error=self._last_error, retry_in_s=retry_in_s, **fields)
            case OutputState.REJECTED:
                self._log.error("output_rejected", error=self._last_error, **fields)
            case _:
                self._log.info(f"output_{state.value}", **fields)
        self._on_change(self.status())


def reconnect_reason(error: BaseException) -> str:
    """A word for the metric's label: from the error, or from what it was raised for."""
    for cause in (error, error.__cause__, error.__context__):
        match cause:
            case OutputWedged():
                return "wedged"
            case OutputLost(reason="silent"):
                return "silent"
            case TimeoutError():
                return "timeout"
            case ConnectionRefusedError():
                return "refused"
            case ConnectionError():
                return "reset"
            case RemoteProtocolError():
                return "protocol"
            case OutputRejected():
                return "rejected"
    return "lost"
