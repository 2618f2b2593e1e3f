"""`whip:` the sound that a WebRTC publisher sends, one at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from bridge.errors import SourceLost, SourceTaken
from bridge.inputs.published_sound import PublishedSound
from bridge.media.audio import AudioBlock
from bridge.media.libopus import find_libopus
from bridge.net.answered import Answered
from bridge.net.ice import IceSettings
from bridge.net.peer import PublisherPeer
from bridge.ports import MediaSession, OpenReception, Reception, RemoteTrack

# Blocks that wait for the session, of 20 ms each as a rule: it takes them at once, so any that are left out are a stall
# of the event loop.
MAX_WAITING = 50

log = structlog.get_logger()


class WhipSource:
    """Waits for publishers (RFC 9725); while none sends there are no blocks. Implements `ports.PublishingPoint`.

    A second publisher is refused as long as the first one is heard; one that has been silent for 2 s has most likely
    vanished, and makes room. RFC 9725 leaves it open: to refuse keeps whoever is on air there, and not to wait for the
    30 s that ICE takes to notice lets a crashed publisher come back.

    dropped_blocks  that the session did not take in time.
    """

    is_live = True

    def __init__(self, name: str, ice: IceSettings, open_reception: OpenReception) -> None:
        self.name = name
        self.dropped_blocks = 0
        self._ice = ice
        self._open_reception = open_reception
        self._blocks: asyncio.Queue[AudioBlock] = asyncio.Queue(MAX_WAITING)
        self._tasks: asyncio.TaskGroup | None = None  # while it runs
        self._publisher: _Publisher | None = None
        self._log = log.bind(input=name)

    async def run(self, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        """Deliver what publishers send, for ever."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                await asyncio.to_thread(find_libopus)  # files are read, once: not when the first packet is there
                while True:
                    await emit(await self._blocks.get())
            finally:
                self._tasks = None

    async def publish(self, offer: str, may_reach: Callable[[str], bool]) -> MediaSession:
        if self._tasks is None:
            raise SourceLost(f"input {self.name} does not run yet, or no longer")
        if self._publisher is not None:
            if not self._publisher.peer.is_silent:
                raise SourceTaken(f"somebody publishes to input {self.name}")
            self._log.info("publisher_replaced")
            self._publisher.task.cancel()
        publisher = self._publisher = _Publisher(self._ice, self._open_reception, may_reach, self._put)
        publisher.task = self._tasks.create_task(self._serve(publisher, offer), name=f"publisher of {self.name}")
        # Whoever asks may go: an accepted publisher stays until ICE misses it.
        return await publisher.answered()

    def media_session(self, id: str) -> MediaSession | None:
        publisher = self._found(id)
        return publisher.session if publisher else None

    async def trickle(self, id: str, candidates: Sequence[tuple[str, str | None]]) -> None:
        if publisher := self._found(id):
            for candidate, mid in candidates:
                await publisher.peer.add_candidate(candidate, mid, None)

    async def end(self, id: str) -> None:
        if publisher := self._found(id):
            publisher.task.cancel()
            await asyncio.wait((publisher.task,))

    def _found(self, id: str) -> "_Publisher | None":
        publisher = self._publisher
        return publisher if publisher is not None and publisher.session and publisher.session.id == id else None

    async def _serve(self, publisher: "_Publisher", offer: str) -> None:
        try:
            await publisher.run(offer)
        except SourceLost as error:
            self._log.info("publisher_lost", error=str(error))
        finally:
            if self._publisher is publisher:
                self._publisher = None
            if publisher.session is not None:
                self._log.info(
                    "publisher_gone",
                    datagrams_rejected=dict(publisher.peer.datagrams_rejected),
                    candidates_rejected=publisher.peer.rejected_candidates,
                    concealed_s=round(publisher.sound.concealed_s, 2),
                    dropped_blocks=self.dropped_blocks,
                )

    def _put(self, block: AudioBlock) -> None:
        if self._blocks.full():
            self._blocks.get_nowait()
            self.dropped_blocks += 1
        self._blocks.put_nowait(block)


class _Publisher(Answered):
    """One publisher, from its offer to its end."""

    peer: PublisherPeer

    def __init__(
        self,
        ice: IceSettings,
        open_reception: OpenReception,
        may_reach: Callable[[str], bool],
        emit: Callable[[AudioBlock], None],
    ) -> None:
        gone = SourceLost("another publisher has come, or the session has ended")
        super().__init__(PublisherPeer(ice, self._on_track, may_reach), gone)
        self.sound = PublishedSound()
        self._open_reception = open_reception
        self._emit = emit
        self._reception: Reception | None = None

    def on_end(self) -> None:
        # What still comes while the connection is closed is not heard.
        if self._reception is not None:
            self._reception.close()

    def _on_track(self, track: RemoteTrack) -> Reception:
        self._reception = self._open_reception(track, lambda unit: self._emit(self.sound.push(unit)))
        return self._reception
