"""Publishing to an RTMP or RTMPS server: one broadcast over one connection, or over several as its server asks."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from bridge.errors import ConfigError, OutputError, OutputLost, OutputRejected, OutputWedged
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.live_queue import LiveQueue
from bridge.net.race import race
from bridge.net.tls import Trust
from bridge.net.url_policy import UrlPolicy, UrlRefused
from bridge.outputs.rtmp_link import RtmpLink
from bridge.ports import OutputListener, OutputProgress
from bridge.protocols.flv import TagSequence
from bridge.protocols.rtmp import CHUNK_BYTES, State
from bridge.protocols.rtmp_address import RtmpAddress, parse_url, resolve
from bridge.redact import Secret

# Units that wait together are written together: the frames of a batch of sound are four. More at once would take
# pictures from the queue that it could still drop.
_BURST = 4
# TCP accepts bytes long after the far end stopped reading. The thinnest stream that makes sense, 32 kb/s of sound,
# moves 40 kB in the default window of 10 s: less than a tenth of it while more waits is no broadcast.
_WEDGED_BELOW_BYTES = 4_096
# A wedge is found within 5 % of its window.
_LOOKS_PER_WINDOW = 20
# A server that asks to reconnect again and again is followed this often: about as often as one that drops us.
_RECONNECT_EVERY_S = 10.0
_SCHEMES = frozenset({"rtmp", "rtmps"})

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class RtmpDeadlines:
    """How long each step may take.

    connect_s    name lookup, TCP and TLS: three lost SYNs of a TCP (RFC 6298: 1 + 2 s) and some.
    handshake_s  RTMP handshake: one round trip.
    publish_s    connect to publish start: four round trips, and the server asks its own authority for the key.
    wedged_s     hardly a byte leaves while media waits.
    close_s      unpublish and the last bytes.
    """

    connect_s: float = 5.0
    handshake_s: float = 5.0
    publish_s: float = 10.0
    wedged_s: float = 10.0
    close_s: float = 2.0


class _Move(NamedTuple):
    """Where the broadcast goes on, from a keyframe.

    at    what `address` resolved to when it was judged.
    link  publishes there already, or waits for the end of the broadcast here; None: it was refused while we are here.
    """

    address: RtmpAddress
    at: Sequence[str]
    link: RtmpLink | None


class RtmpOutput:
    """One broadcast to rtmp[s]://host[:port]/app and a stream key, or with the key in the URL's path.

    Takes H.264 and AAC. The far end stays in step with what is written: when it does not read, units stay in the
    queue, which forgets whole GOPs, and after `deadlines.wedged_s` the connection is given up.

    A server that closes the connection in answer to `publish`, without a word, has refused the key: nginx-rtmp has no
    other way to say so. That is `OutputRejected`, because retrying a wrong key is useless; the runner tries again all
    the same where the key was accepted before. A reset at that moment is `OutputLost`, because that is how a server
    dies. So is a name that is still taken: mostly by a connection of ours that the server has not missed yet.

    A server that asks us to reconnect gets the broadcast until the first keyframe after another connection publishes,
    where it wants it; then that one gets it. At the same server no key is published twice: the other connection has
    shaken hands, and publishes when the first has unpublished. So it is where the key may be published once only. Where
    it leads to a place that `policy` forbids, or out of TLS, or nowhere, it is not followed.
    """

    audio_codec = Codec.AAC

    def __init__(
        self,
        url: str,
        stream_key: Secret | None = None,
        *,
        keyframe_s: float | None = 2.0,
        deadlines: RtmpDeadlines | None = None,
        trust: Trust | None = None,
        policy: UrlPolicy | None = None,
        is_strange: bool = False,
        receivers: frozenset[str] | None = None,
        first_timestamp_ms: int = 0,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        """Raises ConfigError if the URL is none for RTMP. `trust`: for RTMPS; None: the system's. `policy` says where
        else its server may lead us; None: to public hosts. `is_strange`: the URL itself has to pass it, too, at
        every connection. `receivers`: the only hosts that may get the stream key, wherever a server leads us; None:
        any. `first_timestamp_ms` replaces 0.
        """
        self.keyframe_s = keyframe_s
        self.has_failed = False
        self._address = parse_url(url, stream_key.reveal() if stream_key else None)
        self._deadlines = deadlines or RtmpDeadlines()
        self._trust = trust or Trust()
        self._policy = policy or UrlPolicy()
        self._is_strange = is_strange
        self._receivers = receivers
        self._first_timestamp_ms = first_timestamp_ms
        self._chunk_bytes = chunk_bytes
        self._link: RtmpLink | None = None
        self._left_bytes = 0  # by the connections before this one
        self._open_links: set[RtmpLink] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._carried: list[AccessUnit] = []
        self._moved_at_s = float("-inf")

    async def run(self, units: LiveQueue, listener: OutputListener) -> None:
        """Publish until `units` is finished. Raises OutputRejected, OutputLost. See `ports.Output`."""
        try:
            self._link = link = self._new_link(self._address)
            await self._open(link, await self._judged(self._address) if self._is_strange else (self._address.host,))
            listener.on_published()
            while (move := await self._publish(link, units, listener)) is not None:
                link = await self._follow(link, move)
        except OutputError as error:
            self.has_failed = True
            if self._link is not None:
                self._link.give_up(error)
            raise
        finally:
            for link in tuple(self._open_links):
                self._close_later(link)
            try:
                await asyncio.wait(self._closing)
            finally:
                for closing in self._closing:
                    closing.cancel()

    def progress(self) -> OutputProgress:
        if self._link is None:
            return OutputProgress()
        now = self._link.progress()
        return OutputProgress(self._left_bytes + now.bytes_total, now.backlog_bytes)

    # ------------------------------------------------------------------------------------- one connection

    def _new_link(self, address: RtmpAddress, *, waits: bool = False) -> RtmpLink:
        link = RtmpLink(address, self._trust, chunk_bytes=self._chunk_bytes, waits=waits)
        self._open_links.add(link)
        return link

    async def _open(self, link: RtmpLink, at: Sequence[str]) -> None:
        """Connect to one of these addresses and publish."""
        await self._prepare(link, at)
        await self._reach(link, State.PUBLISHING, self._deadlines.publish_s)

    async def _prepare(self, link: RtmpLink, at: Sequence[str]) -> None:
        await link.connect(at, self._deadlines.connect_s)
        await self._reach(link, State.HANDSHAKING, self._deadlines.handshake_s)

    async def _reach(self, link: RtmpLink, last: State, deadline_s: float) -> None:
        """Wait until the publisher is past the state `last`."""
        states = list(State)
        try:
            async with asyncio.timeout(deadline_s):
                await link.until(lambda: states.index(link.state) > states.index(last))
        except TimeoutError:
            raise OutputLost(f"{link.name}: {link.state.value} did not come within {deadline_s:g} s") from None

    async def _publish(self, link: RtmpLink, units: LiveQueue, listener: OutputListener) -> _Move | None:
        """Publish here: to the end of `units`, None, or until the broadcast goes on elsewhere, with what is carried."""
        moving = asyncio.create_task(self._move(link, listener))
        try:
            has_ended = await race(self._pump(link, units, listener, moving), self._watch(link), link.until(_never))
            return None if has_ended else await moving
        except OutputLost:
            # A server that asked us to go may go itself before we have got anywhere.
            if link.asked_to_reconnect is None:
                raise
            return await moving
        finally:
            moving.cancel()
            await asyncio.gather(moving, return_exceptions=True)

    async def _pump(
        self, link: RtmpLink, units: LiveQueue, listener: OutputListener, moving: "asyncio.Task[_Move]"
    ) -> bool:
        """Write units. True: to their end; False: to a keyframe that the next connection gets, since there is one."""
        sequence = TagSequence(self._first_timestamp_ms)
        burst, self._carried = self._carried, []

        def send(batch: Sequence[AccessUnit]) -> None:
            sent = link.send(batch, sequence)

            def report() -> None:
                for unit in sent:
                    listener.on_written(unit)

            link.when_writable(report)

        def send_at_once(unit: AccessUnit) -> bool:
            if unit.codec.kind == "audio" or moving.done() or not link.is_writable:
                return False  # sound comes four packets at a time, which go together
            send((unit,))
            return True

        async def until_writable() -> None:
            if not link.is_writable:
                await link.until(lambda: link.is_writable)

        try:
            while True:
                if not burst:
                    units.express = send_at_once
                    if (first := await units.get()) is None:
                        return True
                    burst = [first, *units.get_waiting(_BURST - 1)]
                await until_writable()
                if moving.done():
                    n_here = next((n for n, unit in enumerate(burst) if unit.is_keyframe), len(burst))
                    burst, self._carried = burst[:n_here], burst[n_here:]
                send(burst)
                await until_writable()
                if self._carried:
                    return False
                burst = []
        finally:
            units.express = None

    async def _watch(self, link: RtmpLink) -> bool:
        """Raises OutputWedged once the far end has stopped reading; never returns."""
        window_s = self._deadlines.wedged_s
        clock = asyncio.get_running_loop()
        moved, moved_at_s = 0, clock.time()
        while True:
            await asyncio.sleep(window_s / _LOOKS_PER_WINDOW)
            progress = link.progress()
            if not progress.backlog_bytes or progress.bytes_total - moved >= _WEDGED_BELOW_BYTES:
                moved, moved_at_s = progress.bytes_total, clock.time()
            elif clock.time() - moved_at_s >= window_s:
                raise OutputWedged(
                    f"{link.name}: the server stopped reading: {progress.backlog_bytes} bytes wait, "
                    f"and fewer than {_WEDGED_BELOW_BYTES} left in {window_s:g} s"
                )

    def _close_later(self, link: RtmpLink) -> None:
        self._open_links.discard(link)
        closing = asyncio.create_task(link.close(self._deadlines.close_s))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    # ------------------------------------------------------------------------------------- as its server asks

    async def _move(self, link: RtmpLink, listener: OutputListener) -> _Move:
        """Wait until the server asks for the broadcast elsewhere and it can go on there; the next keyframe decides."""
        clock = asyncio.get_running_loop()
        while True:
            await link.until(lambda: link.asked_to_reconnect is not None)
            try:
                if clock.time() - self._moved_at_s < _RECONNECT_EVERY_S:
                    raise ConfigError(f"it asked less than {_RECONNECT_EVERY_S:g} s before")
                self._moved_at_s = clock.time()
                move = await self._try(resolve(link.address, link.asked_to_reconnect or ""))
            except (ConfigError, OutputError, OSError) as error:
                log.warning("reconnect_request_ignored", server=link.name, error=str(error))
                link.asked_to_reconnect = None
            else:
                is_there = move.link is not None and move.link.state is State.LIVE
                log.info("reconnect_request_followed", server=link.name, is_published_twice=is_there)
                listener.on_keyframe_request()
                return move

    async def _try(self, address: RtmpAddress) -> _Move:
        """Publish there too, or be about to. Raises what keeps us from it, unless that is the broadcast that runs."""
        if self._address.is_tls and not address.is_tls:
            raise ConfigError("its tcUrl leads out of TLS")
        is_elsewhere = (address.host, address.port) != (self._address.host, self._address.port)
        at = await self._judged(address) if self._is_strange or is_elsewhere else (address.host,)
        here = self._link.address if self._link is not None else self._address
        is_same = _broadcast(address) == _broadcast(here)
        link = self._new_link(address, waits=is_same)
        try:
            if is_same:
                await self._prepare(link, at)
                await self._reach(link, State.CONNECTING, self._deadlines.publish_s)
            else:
                await self._open(link, at)
        except OutputError:
            self._close_later(link)
            if not link.has_asked_to_publish:
                raise
            return _Move(address, at, None)
        return _Move(address, at, link)

    async def _judged(self, address: RtmpAddress) -> Sequence[str]:
        """Addresses of a host that others than the operator's file have named. Raises OutputRejected, OutputLost."""
        try:
            pinned = await self._policy.check(address.tc_url, schemes=_SCHEMES)
        except UrlRefused as error:
            raise OutputRejected(str(error)) from None
        except OSError as error:
            raise OutputLost(f"{address.host}: {error}") from error
        if self._receivers is not None and pinned.host not in self._receivers:
            raise OutputRejected(f"{pinned.host} is none of the hosts that the stream key is for")
        return pinned.addresses

    async def _follow(self, link: RtmpLink, move: _Move) -> RtmpLink:
        """The connection that has the broadcast from now on."""
        if move.link is not None and move.link.state is State.LIVE:
            self._replace(link, move.link)
            return move.link
        await link.close(self._deadlines.close_s)
        successor = move.link or self._new_link(move.address)
        self._replace(link, successor)
        try:
            if move.link is None:
                await self._prepare(successor, move.at)
            else:
                successor.publish()
            await self._reach(successor, State.PUBLISHING, self._deadlines.publish_s)
        except OutputRejected as error:
            # The key is right where the operator wrote it.
            raise OutputLost(str(error)) from error
        return successor

    def _replace(self, link: RtmpLink, successor: RtmpLink) -> None:
        self._left_bytes += link.progress().bytes_total
        self._link = successor
        self._close_later(link)


def in_turn(openers: Sequence[Callable[[], RtmpOutput]]) -> Callable[[], RtmpOutput]:
    """Opens the same output as before, and after each failure the next one."""
    n, last = 0, openers[0]()

    def open_next() -> RtmpOutput:
        nonlocal n, last
        n += last.has_failed
        last = openers[n % len(openers)]()
        return last

    return open_next


def _broadcast(address: RtmpAddress) -> tuple[str, int, str]:
    """What no two connections publish at the same time."""
    return address.host, address.port, address.stream_name


def _never() -> bool:
    return False
