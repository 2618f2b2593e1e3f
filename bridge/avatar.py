"""Keeps an avatar on air: one session of its service after another, the next one ready before the last must end."""

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from bridge.config import AvatarConfig
from bridge.connection import Connection, Served
from bridge.dialogue import Dialogue
from bridge.errors import BridgeError, ProviderError, ProviderRejected, ProviderUnavailable, RemoteProtocolError
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_S
from bridge.net.backoff import Backoff
from bridge.ops.metrics import SessionMetrics
from bridge.ports import AvatarEvent, AvatarLink, AvatarProvider, ToolCall
from bridge.programme import Programme
from bridge.renewal import NO_ROOM, Renewal
from bridge.uplink import Uplink

# An avatar that hiccups is back at once. A service that does not answer is asked every 2 s, as viewers see a slate;
# one that answers and refuses, four times a minute.
FIRST_RETRY_S, LONGEST_RETRY_S, LONGEST_REFUSED_S = 0.5, 2.0, 15.0
# A connection that gave pictures for this long was a good one: the next loss starts the backoff anew.
PROVEN_S = 10.0
HOUR_NS = 3600 * NS_PER_S
_REFUSALS = (*NO_ROOM, "backend_error", "close", "fail")

log = structlog.get_logger()


class Avatar:
    """Connects, reconnects and renews; whatever becomes of it, the programme goes on.

    A loss that passes is tried again with backoff. What only an operator can change is raised if nothing has been on
    air yet; later it is kept in `rejection`, and the slate stays.

    current    the connection that is spoken to.  error: the last one, empty when there was none.
    on_change  is told when `current`, its being live, or `rejection` has changed.
    keyframe_interval_ns  how far keyframes may lie apart; None: any distance.
    """

    def __init__(
        self,
        config: AvatarConfig,
        provider: AvatarProvider,
        *,
        origin_ns: int,
        keyframe_interval_ns: int | None,
        uplink: Uplink,
        dialogue: Dialogue,
        programme: Programme,
        metrics: SessionMetrics,
        on_change: Callable[[], None],
    ) -> None:
        self.current: Connection | None = None
        self.error = ""
        self.rejection: ProviderRejected | None = None
        self.has_been_live = False
        self._config = config
        self._provider = provider
        self._origin_ns = origin_ns
        self._keyframe_interval_ns = keyframe_interval_ns
        self._uplink = uplink
        self._dialogue = dialogue
        self._programme = programme
        self._metrics = metrics
        self._on_change = on_change
        self._backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S, random.Random())
        self._refused_backoff = Backoff(FIRST_RETRY_S, LONGEST_REFUSED_S, random.Random())
        self._n_connections = 0
        self._unshown: Connection | None = None  # the last one whose pictures cannot be shown
        self._spoken_before_s = 0.0  # by the uplink, to connections before the current one
        self._starts_ns: deque[int] = deque(maxlen=config.max_starts_per_hour)
        self._renewal = Renewal(
            config.max_session_s,
            begin=self._begin,
            may_begin=lambda: self._budget_wait_s() <= 0,
            speak_to=self._speak_to,
            is_pausing=self._is_pausing,
            seek_pause=uplink.seek_pause,
            programme=programme,
        )
        self._is_told_to_listen = self._is_attending = False
        self._is_ending = asyncio.Event()
        self._asides: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Keep it on air until `end`. Raises ProviderRejected if nothing has been on air yet, ConfigError."""
        while not self._is_ending.is_set():
            try:
                await self._wait_for_budget()
                await self._serve()
            except (ProviderUnavailable, RemoteProtocolError) as error:
                await self._wait_to_retry(error)
            except ProviderRejected as error:
                if not self._programme.on_air_ns:
                    raise
                self.error, self.rejection = str(error), error
                log.error("avatar_rejected", error=self.error)
                self._on_change()
                await self._is_ending.wait()

    def end(self) -> None:
        """Close what is open, and let `run` return."""
        self._is_ending.set()

    @property
    def is_live(self) -> bool:
        """Whether the connection that is spoken to shows pictures."""
        return self.current is not None and self.current.live_ns is not None

    @property
    def keyframe_interval_ns(self) -> int | None:
        return self._keyframe_interval_ns

    @keyframe_interval_ns.setter
    def keyframe_interval_ns(self, interval_ns: int | None) -> None:
        self._keyframe_interval_ns = interval_ns
        if self.current is not None:
            self.current.reception.set_keyframe_interval_ns(interval_ns)

    def request_keyframe(self) -> None:
        if self.current is not None:
            self.current.reception.request_keyframe()

    async def say(self, text: str) -> None:
        """Raises ProviderRejected where the service takes no text, ProviderUnavailable while it is away."""
        connection, link = self._spoken_to()
        connection.was_spoken_to = True
        await link.say(text)

    async def show(self, image: bytes, media_type: str, *, wants_answer: bool) -> None:
        """Raises ProviderRejected where the service takes no pictures, ProviderUnavailable while it is away."""
        connection, link = self._spoken_to()
        connection.was_spoken_to = True
        await link.show(image, media_type, wants_answer=wants_answer)

    async def interrupt(self) -> None:
        """Raises ProviderUnavailable while the service is away."""
        _, link = self._spoken_to()
        self._dialogue.interrupt()
        await link.interrupt()

    async def remember(self, text: str) -> None:
        """A user has said this before: this session of the service and later ones know it.

        Raises ProviderRejected where the service keeps no history, ProviderUnavailable while it is away.
        """
        _, link = self._spoken_to()
        await link.remember(text)
        self._dialogue.history.add("user", text)

    async def listen(self, on: bool) -> None:
        """The operator wants it to look as if it listened, now and in later sessions, or no longer.

        Raises ProviderRejected where the service has no such look, ProviderUnavailable while it is away.
        """
        _, link = self._spoken_to()
        self._is_told_to_listen = on
        await link.listen(self._is_listening)

    def attend(self, on: bool) -> None:
        """Somebody speaks whom viewers hear and the avatar does not, or has stopped: it looks like that if it can."""
        self._is_attending = on
        self._show_listening()

    @property
    def _is_listening(self) -> bool:
        return self._is_told_to_listen or self._is_attending

    def _show_listening(self) -> None:
        if self.current is not None and "listening" in self._provider.capabilities:
            self._begin_aside(_listen(self.current, self._is_listening), "avatar listening")

    def _begin_aside(self, work: Coroutine[Any, Any, None], name: str) -> None:
        aside = asyncio.create_task(work, name=name)
        self._asides.add(aside)
        aside.add_done_callback(self._asides.discard)

    def _spoken_to(self) -> tuple[Connection, AvatarLink]:
        if self.current is None or self.current.link is None:
            raise ProviderUnavailable("the avatar is not connected at the moment")
        return self.current, self.current.link

    # ------------------------------------------------------------------------------------------ one after another

    async def _serve(self) -> None:
        """Serve a session, and those that take over from it, until the last one is lost; raises what it was."""
        served = self._begin()
        self.current, self._spoken_before_s = served.connection, self._uplink.spoken_s
        self._programme.put_on_air(served.connection.number)
        ending = asyncio.create_task(self._is_ending.wait(), name="avatar ending")
        try:
            while True:
                renewing = asyncio.create_task(self._renewal.successor(served.connection), name="avatar renewal")
                successor: Served | None = None
                try:
                    await asyncio.wait((served.serving, ending, renewing), return_when=asyncio.FIRST_COMPLETED)
                    if ending.done():
                        return
                    if served.serving.done() and not self._renewal.has_successor:
                        await served.serving
                    # One that has ended leaves the air to a successor that is ready.
                    self._renewal.hurry.set()
                    successor = await renewing
                finally:
                    if successor is None:
                        await _discard(renewing)
                self._metrics.provider_reconnects_total(reason="renewal").inc()
                await served.close()
                served = successor
        finally:
            ending.cancel()
            self._note_origin()
            self.current = None
            self._uplink.detach()
            await self._dialogue.avatar_left()
            await served.close()
            for aside in self._asides:
                aside.cancel()
            self._metrics.provider_session_seconds().set(0)

    def _begin(self) -> Served:
        self._n_connections += 1
        self._note_origin()
        connection = Connection(
            self._n_connections,
            self._provider,
            origin_ns=self._origin_ns,
            on_air_ns=self._programme.on_air_ns,
            keyframe_interval_ns=self._keyframe_interval_ns,
            on_ready=self._on_ready,
            on_unit=self._on_unit,
            on_no_pictures=self._on_no_pictures,
            on_event=self._on_event,
            on_tool_call=self._on_tool_call,
        )
        return Served(connection, asyncio.create_task(connection.run(), name=f"avatar {connection.number}"))

    def _note_origin(self) -> None:
        """Session time follows the clock of the sender on air; whoever comes after it begins where that has led."""
        if self.current is not None:
            self._origin_ns = self.current.reception.origin_ns

    async def _speak_to(self, connection: Connection) -> None:
        """From now on; what was asked by the one before is forgotten."""
        self.current, self._spoken_before_s = connection, self._uplink.spoken_s
        self._attach(connection)
        await self._dialogue.avatar_left()

    def _attach(self, connection: Connection) -> None:
        if connection.link is not None:
            self._uplink.attach(connection.link)
            if self._is_listening:
                self._show_listening()

    def _is_pausing(self) -> bool:
        """Whether neither side speaks."""
        return self._uplink.is_pausing and self._dialogue.answer.is_over(time.monotonic_ns())

    # ------------------------------------------------------------------------------------------ a loss

    async def _wait_for_budget(self) -> None:
        """Wait while as many sessions were started within the last hour as may be."""
        wait_s = self._budget_wait_s()
        if wait_s <= 0:
            return
        self.error = f"avatar.max_starts_per_hour is reached: the next session may start in {wait_s:.0f} s"
        log.error("avatar_budget_spent", retry_in_s=round(wait_s), starts=len(self._starts_ns))
        self._on_change()
        await self._sleep(wait_s)

    def _budget_wait_s(self) -> float:
        """How long until another session may be started."""
        if len(self._starts_ns) < self._config.max_starts_per_hour:
            return 0.0
        return (self._starts_ns[0] + HOUR_NS - time.monotonic_ns()) / NS_PER_S

    async def _wait_to_retry(self, error: BridgeError) -> None:
        self.error = str(error)
        delay_s = 0.0
        if error.reason != "renewal":
            # What a service does wrong, such as an offer without H.264, it does again.
            is_refused = error.reason in _REFUSALS or isinstance(error, RemoteProtocolError)
            backoff = self._refused_backoff if is_refused else self._backoff
            delay_s = backoff.next_delay_s()
            log.warning("avatar_lost", error=self.error, retry_in_s=round(delay_s, 1))
        self._on_change()
        await self._sleep(delay_s)
        if not self._is_ending.is_set():
            reason = "protocol" if isinstance(error, RemoteProtocolError) else "unavailable"
            self._metrics.provider_reconnects_total(reason=error.reason or reason).inc()

    async def _sleep(self, duration_s: float) -> None:
        """Wait so long, or until all is to end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(duration_s):
                await self._is_ending.wait()

    # ------------------------------------------------------------------------------------------ from connections

    def _on_ready(self, connection: Connection) -> None:
        self._note_start(connection)
        if connection is self.current:
            self._attach(connection)

    def _note_start(self, connection: Connection) -> None:
        """The first sign that the service has begun a session; a refusal costs nothing."""
        if connection.accepted_s is None:
            connection.accepted_s = asyncio.get_running_loop().time()
            self._starts_ns.append(time.monotonic_ns())

    def _on_unit(self, connection: Connection, unit: AccessUnit) -> None:
        if unit.codec is Codec.OPUS and connection is self.current:
            self._dialogue.on_sound(unit)
        if unit.codec.kind == "audio" and self._is_greeting_again(connection):
            return
        self._programme.put(connection.number, unit)
        if unit.codec.kind == "video" and connection is self.current:
            self._note_live(connection)

    def _on_no_pictures(self, connection: Connection) -> None:
        self._programme.hear(connection.number)
        if connection is self.current:
            self._note_unshown(connection, "the avatar service offers no pictures that can be received (H.264, VP8)")
            self._note_live(connection)

    def _note_unshown(self, connection: Connection, why: str) -> None:
        """Say once for a connection that viewers hear it over the slate, and why."""
        if self._unshown is connection:
            return
        self._unshown = connection
        self.error = f"{why}: viewers hear it, and see the slate"
        log.warning("avatar_pictures_unusable", error=self.error)
        self._on_change()

    def _note_live(self, connection: Connection) -> None:
        if not self._uplink.media_ready.is_set():
            self._uplink.media_ready.set()
            self.has_been_live = True
            self._on_change()
        assert connection.live_ns is not None
        if time.monotonic_ns() - connection.live_ns > PROVEN_S * NS_PER_S:
            self._backoff.reset()
            self._refused_backoff.reset()

    def _on_event(self, connection: Connection, event: AvatarEvent) -> None:
        self._metrics.provider_events_total(type=event.kind).inc()
        if event.kind != "ended":
            self._note_start(connection)
        if event.kind == "response_started" and self._has_been_heard(connection):
            # An answer, whether or not the service says that it has heard anybody.
            connection.is_greeting = False
        if event.kind == "response_started" and self._is_greeting_again(connection) and connection.link is not None:
            self._begin_aside(_hush(connection), "avatar hush")
        if connection is self.current:
            self._dialogue.on_event(event)

    def _on_tool_call(self, connection: Connection, call: ToolCall) -> None:
        if connection is self.current and connection.link is not None:
            self._dialogue.on_tool_call(call, connection.link)
        else:
            log.warning("tool_call_unexpected", tool=call.name)
            self._metrics.tool_calls_total(result="unsent").inc()

    def _is_greeting_again(self, connection: Connection) -> bool:
        """Viewers have been greeted once; whoever takes over in the middle does not begin with it. A mirror greets
        nobody.
        """
        is_again = self.has_been_live and connection.number > 1 and self._config.role == "conversation"
        return is_again and connection.is_greeting

    def _has_been_heard(self, connection: Connection) -> bool:
        """Whether it was spoken to, and speech has paused since: nobody answers in the middle of a sentence."""
        has_heard = connection is self.current and self._uplink.spoken_s > self._spoken_before_s
        return has_heard and self._uplink.is_pausing


async def _discard(renewing: asyncio.Task[Served]) -> None:
    """End a renewal that nobody wants any more, and the session that it may have opened."""
    renewing.cancel()
    await asyncio.wait((renewing,))
    if not renewing.cancelled() and renewing.exception() is None:
        await renewing.result().close()


async def _hush(connection: Connection) -> None:
    if connection.link is not None:
        with contextlib.suppress(ProviderError):
            await connection.link.interrupt()


async def _listen(connection: Connection, on: bool) -> None:
    if connection.link is not None:
        with contextlib.suppress(ProviderError):
            await connection.link.listen(on)
