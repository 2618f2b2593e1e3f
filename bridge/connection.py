"""One session at the avatar service, from its opening to its end."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from bridge.desk import Desk
from bridge.errors import ProviderUnavailable
from bridge.media.access_unit import AccessUnit, Kind
from bridge.media.clock import NS_PER_S
from bridge.ports import AvatarEvent, AvatarLink, AvatarProvider, RemoteTrack, ToolCall, TrackSink
from bridge.reception import Reception
from bridge.uplink import Uplink

# For a provider that does not notice, or mends in vain: silence is found after 2 s (`net.receiving_peer`), and another
# connection has 5 s to gather, 3 s to come up and 2 s to bring media.
MEDIA_LOST_S = 12.0
# Tracks of one connection are announced in one go; one whose pictures are not among them has none.
NO_PICTURES_S = 1.0
# A service may load an avatar after it has connected its media; what shows nothing for longer than this is broken.
FIRST_PICTURE_S = 30.0

log = structlog.get_logger()


class Connection:
    """Serves one session of a provider; it is the provider's listener.

    number     of this session; the broadcast tells sessions apart by it.
    reception  of its media.  link: how to speak to it, None before it is ready and after its end.
    ready_ns, live_ns  `time.monotonic_ns` at which it could be spoken to, and showed its first picture, or was found to
                have none.
    accepted_s  loop time at which the service has begun the session, which may cost money; None: it has not yet.
    ends_at_s   loop time at which the service will end it, as far as it has said.  limit_changed: it has said so.
    is_greeting  it speaks though nobody has spoken to it; `was_spoken_to`: somebody has, by voice or by text.
    """

    def __init__(
        self,
        number: int,
        provider: AvatarProvider,
        *,
        origin_ns: int,
        on_air_ns: Mapping[Kind, int],
        keyframe_interval_ns: int | None,
        on_ready: Callable[["Connection"], None],
        on_unit: Callable[["Connection", AccessUnit], None],
        on_no_pictures: Callable[["Connection"], None],
        on_event: Callable[["Connection", AvatarEvent], None],
        on_tool_call: Callable[["Connection", ToolCall], None],
    ) -> None:
        self.number = number
        self.link: AvatarLink | None = None
        self.ready_ns: int | None = None
        self.live_ns: int | None = None
        self.accepted_s: float | None = None
        self.ends_at_s = math.inf
        self.limit_changed = asyncio.Event()
        self.is_greeting = False
        self.was_spoken_to = False
        self.is_ready = asyncio.Event()
        self.is_live = asyncio.Event()
        self.reception = Reception(origin_ns, self._take_unit, on_air_ns, keyframe_interval_ns)
        self._provider = provider
        self._on_ready = on_ready
        self._on_unit = on_unit
        self._on_no_pictures = on_no_pictures
        self._on_event = on_event
        self._on_tool_call = on_tool_call

    async def run(self) -> None:
        """Serve until the service ends the session, or its media stops; raises which. Cancelled: ends the session.

        Raises ProviderRejected, ProviderUnavailable, RemoteProtocolError.
        """
        tasks = (
            asyncio.create_task(self._provider.run(self), name=f"avatar {self.number}"),
            asyncio.create_task(self._watch_media(), name=f"media watch {self.number}"),
        )
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    await task
        finally:
            self.link = None
            for task in tasks:
                task.cancel()
            # How they end then tells nobody anything: an end of the service may be found while all is cancelled.
            await asyncio.gather(*tasks, return_exceptions=True)
            self.reception.close()

    async def feed_silence(self) -> None:
        """Give the service what it wants while nobody speaks; it is not on air yet. Until cancelled."""
        await self.is_ready.wait()
        silence = Uplink(Desk(()))
        if self.link is not None:
            silence.attach(self.link)
        await silence.run()

    # ------------------------------------------------------------------------------------------ AvatarListener

    def on_track(self, track: RemoteTrack) -> TrackSink:
        return self.reception.on_track(track)

    def on_ready(self, link: AvatarLink) -> None:
        self.link, self.ready_ns = link, time.monotonic_ns()
        self.is_ready.set()
        self._on_ready(self)

    def on_limit(self, left_s: float) -> None:
        self.ends_at_s = asyncio.get_running_loop().time() + left_s
        self.limit_changed.set()
        log.info("avatar_session_limited", connection=self.number, ends_in_s=round(left_s))

    def on_event(self, event: AvatarEvent) -> None:
        match event.kind:
            case "speech_started" | "speech_stopped":
                self.was_spoken_to = True
                self.is_greeting = False
            case "response_started":
                self.is_greeting = not self.was_spoken_to
            case "response_done":
                self.is_greeting = False
        self._on_event(self, event)

    def on_tool_call(self, call: ToolCall) -> None:
        self._on_tool_call(self, call)

    def _take_unit(self, unit: AccessUnit) -> None:
        if unit.codec.kind == "video":
            self._note_live()
        self._on_unit(self, unit)

    def _note_live(self) -> None:
        if self.live_ns is None:
            self.live_ns = time.monotonic_ns()
            self.is_live.set()

    async def _watch_media(self) -> None:
        """Raises ProviderUnavailable when nothing has come for `MEDIA_LOST_S`, or no picture where there is a track of
        them. Never returns.

        Until there is a track, the deadlines of the provider's hand-shake hold.
        """
        tracks_ns: int | None = None
        while True:
            await asyncio.sleep(min(NO_PICTURES_S, MEDIA_LOST_S / 4))
            now_ns, heard_ns = time.monotonic_ns(), self.reception.heard_ns
            if heard_ns is None:
                continue
            tracks_ns = tracks_ns or now_ns
            if not self.reception.has_pictures:
                if self.live_ns is None and now_ns - tracks_ns > NO_PICTURES_S * NS_PER_S:
                    self._note_live()
                    self._on_no_pictures(self)
            elif self.live_ns is None and now_ns - tracks_ns > FIRST_PICTURE_S * NS_PER_S:
                raise ProviderUnavailable(
                    f"the avatar service has shown no picture for {FIRST_PICTURE_S:g} s", reason="media"
                )
            if now_ns - heard_ns > MEDIA_LOST_S * NS_PER_S:
                raise ProviderUnavailable(
                    f"the avatar service has sent no media for {MEDIA_LOST_S:g} s", reason="media"
                )


@dataclass(frozen=True, slots=True)
class Served:
    """A connection, and the task that serves it."""

    connection: Connection
    serving: asyncio.Task[None]

    async def close(self) -> None:
        """End it; how it ends then tells nobody anything."""
        self.serving.cancel()
        await asyncio.gather(self.serving, return_exceptions=True)
