"""The media of one session with NavTalk: offers, peer connections, and how one takes over from another."""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence

import structlog

from bridge.errors import ProviderUnavailable, RemoteProtocolError
from bridge.media.access_unit import Kind
from bridge.media.rtp import RtpPacket, SenderReport
from bridge.net.ice import IceServer, IceSettings
from bridge.net.peer import ReceivingPeer
from bridge.net.receiving_peer import MEDIA_LOST_S
from bridge.ports import AvatarEvent, AvatarListener, RemoteTrack, TrackSink
from bridge.protocols import navtalk
from bridge.providers.navtalk_ends import naming
from bridge.providers.navtalk_knowledge import Knowledge
from bridge.redact import mask

# Signalling, ICE and DTLS take five to seven round trips: 2 s on a bad path. Gathering has a deadline of its own.
RECOVER_S = 3.0
# A service whose media fails a fourth time is better off with a new session.
MAX_RECOVERIES = 3
# A service that answers none of our offers now will not in the next minutes; trying costs RECOVER_S without a picture.
UNANSWERED_S = 600.0
# An ICE agent gathers one candidate per address and server; a stream of them without an offer is a mistake.
MAX_EARLY_CANDIDATES = 64

log = structlog.get_logger()


class Media:
    """The peer connections of one session. The newest offer counts; what is on air stays there until its successor
    carries media: pictures, or sound where only that is offered.

    A connection that is lost, or silent, while the WebSocket lives is closed and replaced by one that we offer, if the
    service takes offers. That one has to bring media as soon as it is up: the avatar was there before.

    ice_servers  for the next connection.
    datagrams_rejected, path: as `AvatarLink` has them.
    """

    def __init__(
        self,
        ice: IceSettings,
        listener: AvatarListener,
        knowledge: Knowledge,
        tasks: asyncio.TaskGroup,
        send: Callable[[navtalk.Signalling], Awaitable[None]],
        has_begun: asyncio.Event | None,
        where: str,
    ) -> None:
        """`has_begun`: the service has named its ICE servers; None: it names none. `tasks` get what fails."""
        self.ice_servers: Sequence[IceServer] = ()
        self._ice = ice
        self._listener = listener
        self._knowledge = knowledge
        self._tasks = tasks
        self._send = send
        self._has_begun = has_begun
        self._where = where
        self._on_air: _Connection | None = None
        self._newest: _Connection | None = None
        self._open: set[_Connection] = set()
        self._early_candidates: deque[navtalk.Candidate] = deque(maxlen=MAX_EARLY_CANDIDATES)
        self._answer: asyncio.Future[str] | None = None
        self._n_recoveries = 0
        self._rejected: Counter[str] = Counter()

    @property
    def datagrams_rejected(self) -> Counter[str]:
        return sum((connection.peer.datagrams_rejected for connection in self._open), self._rejected)

    @property
    def path(self) -> str:
        return self._on_air.peer.path if self._on_air is not None else ""

    # ------------------------------------------------------------------------------------------ signalling

    async def on_offer(self, offer: navtalk.Offer) -> None:
        """Begin to answer: on the connection that the offer is about, else on a new one."""
        for connection in (self._newest, self._on_air):
            if connection is not None and connection.peer.continues(offer.sdp):
                self._tasks.create_task(self._renegotiate(connection, offer), name="navtalk-renegotiation")
                return
        self._begin(lambda connection: self._answer_offer(connection, offer))
        early = tuple(self._early_candidates)
        self._early_candidates.clear()
        for candidate in early:
            await self._add_candidate(candidate)

    def on_answer(self, answer: navtalk.Answer) -> None:
        """Take the answer to an offer of ours."""
        if self._answer is None or self._answer.done():
            log.debug("avatar_service_answer_unexpected")
        else:
            self._answer.set_result(answer.sdp)

    async def on_candidate(self, candidate: navtalk.Candidate) -> None:
        """Take a trickled candidate, which does not say whether it belongs to the newest offer or to one to come."""
        self._early_candidates.append(candidate)
        await self._add_candidate(candidate)

    async def _add_candidate(self, candidate: navtalk.Candidate) -> None:
        if self._newest is not None:
            await self._newest.peer.add_candidate(candidate.candidate, candidate.sdp_mid, candidate.sdp_mline_index)

    async def _answer_offer(self, connection: "_Connection", offer: navtalk.Offer) -> None:
        if self._has_begun is not None:
            await self._has_begun.wait()
        async with connection.negotiation:
            with naming(self._where):
                answer = await connection.peer.answer(offer.sdp, self.ice_servers)
            await self._send(navtalk.Answer(answer))

    async def _renegotiate(self, connection: "_Connection", offer: navtalk.Offer) -> None:
        try:
            await self._answer_offer(connection, offer)
        except RemoteProtocolError as error:
            if connection not in (self._newest, self._on_air):
                return  # it was over before its offer could be answered
            if not connection.has_media:
                raise
            self._warn(error)

    async def _offer(self, connection: "_Connection") -> None:
        """Offer a connection and wait until it is up. Raises ProviderUnavailable, RemoteProtocolError."""
        self._answer = asyncio.get_running_loop().create_future()
        is_unanswered = False
        try:
            offer = await connection.peer.offer(self.ice_servers)
            async with asyncio.timeout(RECOVER_S):
                await self._send(navtalk.Offer(offer))
                is_unanswered = True
                answer = await self._answer
                is_unanswered = False
                await connection.peer.accept(answer)
                await connection.peer.connected()
        except TimeoutError:
            if is_unanswered:
                self._knowledge.no_offer_before_s = asyncio.get_running_loop().time() + UNANSWERED_S
            raise ProviderUnavailable(f"an offer of ours came to nothing within {RECOVER_S:g} s") from None
        finally:
            self._answer = None

    # ------------------------------------------------------------------------------------------ connections

    def _begin(
        self, negotiate: Callable[["_Connection"], Awaitable[None]], lost: ProviderUnavailable | None = None
    ) -> None:
        """Make a connection. What is on air stays there if it carries media; without, it is superseded."""
        connection = _Connection(self._ice, self, lost)
        superseded, self._newest = self._newest, connection
        if superseded is not None and not superseded.has_media:
            if superseded is self._on_air:
                self._on_air = None
            superseded.cancel()
        if self._on_air is None:
            self._on_air = connection
        connection.task = self._tasks.create_task(self._serve(connection, negotiate), name="navtalk-media")

    async def _serve(self, connection: "_Connection", negotiate: Callable[["_Connection"], Awaitable[None]]) -> None:
        self._open.add(connection)
        try:
            async with connection.peer as peer:
                try:
                    await negotiate(connection)
                    with naming(self._where):
                        await peer.run()
                except (ProviderUnavailable, RemoteProtocolError) as error:
                    self._on_failure(connection, error)
        finally:
            self._open.remove(connection)
            self._rejected += connection.peer.datagrams_rejected

    def _on_failure(self, connection: "_Connection", error: ProviderUnavailable | RemoteProtocolError) -> None:
        """Go on with another connection if there is one or may be one. Raises what the session ends with otherwise."""
        assert self._newest is not None
        if connection is not self._newest:
            # Its successor is on the way, and need not wait for its own media any more.
            self._put_on_air(self._newest)
        elif connection is not self._on_air:
            self._warn(error)
            self._newest = self._on_air
        elif connection.has_media and isinstance(error, ProviderUnavailable) and self._may_offer:
            self._n_recoveries += 1
            log.warning("avatar_media_lost", error=str(error), recovery=self._n_recoveries)
            self._on_air = None
            self._begin(self._offer, error)
        else:
            raise connection.lost or error

    @property
    def _may_offer(self) -> bool:
        is_time = asyncio.get_running_loop().time() >= self._knowledge.no_offer_before_s
        return is_time and self._n_recoveries < MAX_RECOVERIES

    def _put_on_air(self, connection: "_Connection") -> None:
        """Give the listener the tracks of this connection in place of those before."""
        replaced = self._on_air.kinds if self._on_air is not None else ()
        self._on_air = connection
        log.info("avatar_media_handed_over", has_media=connection.has_media)
        # A track that comes a second time ends all of its old connection: those of the new one follow it.
        for tap in sorted(connection.taps, key=lambda tap: tap.track.kind not in replaced):
            tap.sink = self._listener.on_track(tap.track)

    def on_track(self, connection: "_Connection", tap: "_Tap") -> None:
        """A connection is up: its tracks are the listener's if it is the one on air."""
        if connection is self._on_air:
            tap.sink = self._listener.on_track(tap.track)

    def on_media(self, connection: "_Connection") -> None:
        """A connection has begun to carry media: the one before it is of no use any more."""
        on_air = self._on_air
        if on_air is not None and on_air is not connection and connection is self._newest:
            self._put_on_air(connection)
            on_air.cancel()

    def _warn(self, error: ProviderUnavailable | RemoteProtocolError) -> None:
        """An offer cannot be used or comes to nothing, and what is on air goes on."""
        log.warning("avatar_offer_unusable", error=str(error))
        self._listener.on_event(AvatarEvent("warning", navtalk.Offer.TYPE, mask(str(error))))


class _Connection:
    """One peer connection.

    lost       what it is to make good; its own failure says no more than that.
    has_media  a picture has come, or a sound where there is no track of pictures.
    """

    def __init__(self, ice: IceSettings, media: Media, lost: ProviderUnavailable | None) -> None:
        self.peer = ReceivingPeer(ice, self._on_track, first_media_s=None if lost is None else MEDIA_LOST_S)
        self.negotiation = asyncio.Lock()
        self.task: asyncio.Task[None] | None = None
        self.lost = lost
        self.has_media = False
        self.taps: list[_Tap] = []
        self._media = media

    @property
    def kinds(self) -> set[Kind]:
        return {tap.track.kind for tap in self.taps}

    def cancel(self) -> None:
        """Close it, in its own time."""
        assert self.task is not None
        self.task.cancel()

    def on_packet(self, kind: Kind) -> None:
        """A packet has come, and none that counted before."""
        if kind == "video" or "video" not in self.kinds:
            self.has_media, self.lost = True, None
            self._media.on_media(self)

    def _on_track(self, track: RemoteTrack) -> "_Tap":
        tap = _Tap(track, self)
        self.taps.append(tap)
        self._media.on_track(self, tap)
        return tap


class _Tap:
    """Passes one track on while it has a sink; drops it before."""

    def __init__(self, track: RemoteTrack, connection: _Connection) -> None:
        self.track = track
        self.sink: TrackSink | None = None
        self._connection = connection

    def on_packet(self, packet: RtpPacket) -> None:
        if not self._connection.has_media:
            self._connection.on_packet(self.track.kind)
        if self.sink is not None:
            self.sink.on_packet(packet)

    def on_sender_report(self, report: SenderReport) -> None:
        if self.sink is not None:
            self.sink.on_sender_report(report)
