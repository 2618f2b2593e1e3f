"""Make before break: the session that is on air, and another one that takes its place when its server falls silent."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog

from bridge.errors import OutputError, OutputLost, RemoteProtocolError
from bridge.media.access_unit import AccessUnit
from bridge.net.race import race
from bridge.outputs.whip_session import WhipSession
from bridge.ports import OutputListener
from bridge.protocols import whip

# A server that is not there now may be in a moment; viewers see nothing meanwhile, and an attempt costs little.
AGAIN_S = 2.0
# A keyframe that was asked for and has not come is asked for again; most senders take less (`receive/`).
KEYFRAME_S = 1.0
SILENT = "silent"  # for metrics

log = structlog.get_logger()


@dataclass
class Room:
    """What an output remembers of its server from one attempt to the next: whether it takes a second publisher."""

    for_two: bool = True


class Succession:
    """Sends units through one session at a time; an asynchronous context manager, whose exit deletes all of them.

    When the server does not seem to hear the session on air, another one is opened beside it. The next keyframe after
    that is connected goes to the new one, with all that follows, and the old one is deleted. If the old one is heard
    again before, it stays, and the new one is deleted.

    A server that refuses the second publisher gets the first one's end, `OutputLost`: the runner makes the next after
    that. Where one publisher is all it takes, that is remembered: later the first ends as soon as the server answers
    HTTP. As long as it does not, the network is away, and the first session is what may come back with it.
    """

    def __init__(
        self, open_session: Callable[[], WhipSession], listener: OutputListener, room: Room, name: str
    ) -> None:
        """`name` stands for the URL in logs."""
        self._open_session = open_session
        self._listener = listener
        self._room = room
        self._name = name
        self._on_air = open_session()
        self._heir: WhipSession | None = None
        self._succeeded = asyncio.Event()
        self._bytes_before = 0
        self._closing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_later(self._on_air)
        # Each has deadlines of its own.
        await asyncio.gather(*self._closing)

    @property
    def payload_bytes_sent(self) -> int:
        return self._bytes_before + self._on_air.payload_bytes_sent

    @property
    def has_heir(self) -> bool:
        """Whether another session waits for a keyframe to begin with."""
        return self._heir is not None

    async def connect(self) -> None:
        """Raises OutputRejected, OutputLost, RemoteProtocolError."""
        await self._on_air.connect()

    def send(self, unit: AccessUnit) -> bool:
        """Whether it has left. Raises OutputLost when the pictures are no longer as negotiated."""
        if self._heir is not None and unit.codec.kind == "video" and unit.is_keyframe:
            self._bytes_before += self._on_air.payload_bytes_sent
            self._close_later(self._on_air)
            self._on_air, self._heir = self._heir, None
            self._succeeded.set()
            log.info("whip_session_replaced", url=self._name)
            self._listener.on_replaced(SILENT)
        return self._on_air.send(unit)

    async def run(self) -> None:
        """Watch the session on air and replace it; never returns. Raises OutputLost when it is gone."""
        while True:
            await race(self._on_air.run(), self._on_air.silent())
            await self._replace()

    async def _replace(self) -> None:
        """Until another session is on air, or this one is heard again. Raises OutputLost."""
        log.warning("whip_server_silent", url=self._name, takes_two=self._room.for_two)
        while self._on_air.is_silent:
            session, failure = self._open_session(), None
            try:
                attempt = self._succeed(session) if self._room.for_two else session.reach()
                await race(attempt, self._on_air.heard())
            except (OutputError, RemoteProtocolError) as error:
                failure = error
            finally:
                if session is not self._on_air:
                    self._heir = None
                    await session.close()
            if session is self._on_air:
                return
            if failure is not None:
                self._judge(session, failure)
                log.warning("whip_second_session_failed", url=self._name, error=str(failure))
                await race(self._on_air.run(), self._on_air.heard(), asyncio.sleep(AGAIN_S))
            elif self._on_air.is_silent:
                raise OutputLost("the server answers, does not hear us, and takes no second publisher", reason=SILENT)

    async def _succeed(self, session: WhipSession) -> None:
        await session.connect()
        self._succeeded.clear()
        self._heir = session
        await race(self._succeeded.wait(), session.run(), self._ask_for_keyframes())

    def _judge(self, session: WhipSession, error: Exception) -> None:
        """Raises OutputLost where another attempt beside the session on air is useless."""
        if session.refused_with is not None:
            is_full = whip.means_no_room(session.refused_with)
            self._room.for_two = not is_full
            # Where the place is ours it is free once the session on air is deleted, whatever the server thought.
            wait_s = error.retry_after_s if isinstance(error, OutputLost) and not is_full else 0.0
            message = f"the server does not hear us; a second session: {error}"
            raise OutputLost(message, reason=SILENT, retry_after_s=wait_s) from error
        if self._on_air.is_lost:
            raise OutputLost(f"the media connection failed; a second session: {error}", reason=SILENT) from error

    async def _ask_for_keyframes(self) -> None:
        while True:
            self._listener.on_keyframe_request()
            await asyncio.sleep(KEYFRAME_S)

    def _close_later(self, session: WhipSession) -> None:
        closing = asyncio.create_task(session.close(), name="whip close")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
