"""One stay in a LiveKit room: joining it, receiving one participant's tracks, and exchanging data with others."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import structlog
from livekit.protocol import models, rtc
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from bridge.errors import ProviderRejected, ProviderUnavailable, RemoteProtocolError
from bridge.media.access_unit import Kind
from bridge.media.clock import NS_PER_MS
from bridge.net.data_channels import DataChannels
from bridge.net.ice import IceServer, IceSettings
from bridge.net.room_peers import DataPeer, SubscriberPeer
from bridge.ports import AvatarEvent, RemoteTrack, TrackSink
from bridge.protocols import livekit
from bridge.protocols.livekit_data import LOSSY, RELIABLE, Inbox, Outbox
from bridge.protocols.livekit_room import Choice, Room
from bridge.providers.livekit_entry import Entry
from bridge.providers.livekit_tracks import Tracks
from bridge.providers.navtalk_ends import cause_of, naming
from bridge.providers.websocket import open_websocket
from bridge.redact import Secret, mask

# A worker is started by somebody else, and may load for a while; one that was there comes back soon or not at all.
AVATAR_S, RETURN_S = 30.0, 10.0
# A socket that takes no message for this long belongs to a server that does not read any more.
SEND_TIMEOUT_S = 5.0
FAREWELL_TIMEOUT_S = 1.0
# An echo that is older is of no ping of ours.
_LONGEST_TRIP_MS = 60_000

_END_ADVICE = {
    models.DisconnectReason.DUPLICATE_IDENTITY: "somebody else has joined with the same identity: use each once",
    models.DisconnectReason.PARTICIPANT_REMOVED: "somebody has removed this participant",
}

log = structlog.get_logger()


class RoomListener(Protocol):
    """Who stays in a room. Nothing here waits."""

    def on_track(self, track: RemoteTrack) -> TrackSink:
        """As `AvatarListener` has it."""

    def on_presence(self, identity: str | None) -> None:
        """The avatar is there, is being received and can be sent data; None: it is gone."""

    def on_data(self, packet: models.DataPacket) -> None:
        """A participant has sent something."""

    def on_event(self, event: AvatarEvent) -> None: ...


class LiveKitRoom:
    """Takes an entry, and gives the tracks of the chosen participant.

    where        what errors call it.  ice_servers: in place of what the server names; None: those.
    sends_data   whether it sends data: `send` and `drained`, once the avatar is present.
    step_s       deadline of each step of the hand-shake.
    """

    def __init__(
        self,
        entry: Entry,
        choice: Choice,
        ice: IceSettings,
        listener: RoomListener,
        where: str,
        *,
        sends_data: bool = False,
        ice_servers: Sequence[IceServer] | None = None,
        step_s: float = 10.0,
    ) -> None:
        self._entry = entry
        self._listener = listener
        self._where = where
        self._ice_servers = ice_servers
        self._policy = ice.policy
        self._step_s = step_s
        self._room = Room(choice)
        self._tracks = Tracks(listener.on_track)
        self._inbox = Inbox()
        self._outbox = Outbox("", "")
        self._subscriber = SubscriberPeer(ice, self._tracks.on_track, DataChannels(self._on_message))
        self._data = DataChannels(self._on_message, {RELIABLE: True, LOSSY: False}) if sends_data else None
        self._publisher = DataPeer(ice, self._data) if self._data is not None else None
        self._socket: ClientConnection | None = None
        self._offer: rtc.SessionDescription | None = None
        self._offer_came = asyncio.Event()
        self._is_data_open = not sends_data
        self._present: str | None = None
        self._is_present, self._is_absent = asyncio.Event(), asyncio.Event()
        self._warned: set[str] = set()
        self._round_trip_ms = 0

    @property
    def datagrams_rejected(self) -> Counter[str]:
        peers = (self._subscriber, self._publisher)
        return sum((peer.datagrams_rejected for peer in peers if peer is not None), Counter[str]())

    @property
    def media_path(self) -> str:
        return self._subscriber.path

    async def run(self) -> None:
        """Stay until the server ends it, and raise why. Cancelled: leaves.

        Raises ProviderRejected, ProviderUnavailable, RemoteProtocolError; ConfigError for an unknown interface.
        """
        token, key = self._entry.token(self._where).reveal(), self._entry.key
        opening = open_websocket(
            lambda: livekit.join_url(self._entry.url.reveal()),
            self._where,
            key=f"{key}.url",
            open_timeout_s=self._step_s,
            advice={
                401: self._entry.advice,
                403: "check what the token allows",
                404: f"check {key}.url: no LiveKit server answers there",
            },
            otherwise=f"check {key}.url and the token",
            headers={"Authorization": f"Bearer {token}"},
            policy=self._policy,
        )
        async with opening as self._socket:
            try:
                await self._stay()
            except ExceptionGroup as group:
                raise cause_of(group) from None

    def send(self, packet: models.DataPacket) -> None:
        """Queue a packet on the reliable channel. Raises ProviderUnavailable while none can be sent."""
        if self._data is None:
            raise ProviderUnavailable(f"{self._where}: nothing is sent in this room", reason="media")
        with naming(self._where):
            self._data.send(RELIABLE, self._outbox.pack(packet))

    async def drained(self) -> None:
        """Wait until little waits to be sent. Raises ProviderUnavailable when nothing is taken any more."""
        if self._data is not None:
            with naming(self._where):
                await self._data.drained(RELIABLE)

    # ------------------------------------------------------------------------------------------ the stay

    async def _stay(self) -> None:
        join = await self._join()
        servers = self._ice_servers
        if servers is None:
            servers = [_ice_server(server) for server in join.ice_servers]
        interval_s, timeout_s = livekit.ping_times(join)
        async with self._subscriber, self._publisher or contextlib.nullcontext(), asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch(self._subscriber), name="livekit-subscriber")
            tasks.create_task(self._answer_offers(servers), name="livekit-offers")
            tasks.create_task(self._ping(interval_s), name="livekit-pings")
            tasks.create_task(self._watch_presence(), name="livekit-presence")
            if self._publisher is not None:
                tasks.create_task(self._watch(self._publisher), name="livekit-publisher")
                tasks.create_task(self._publish(self._publisher, servers), name="livekit-publishing")
            try:
                await self._update(join.other_participants)
                while True:
                    await self._take(await self._receive(timeout_s))
            finally:
                await self._say_goodbye()

    async def _join(self) -> rtc.JoinResponse:
        first = await self._receive(self._step_s)
        response = self._read(first)
        if response.HasField("leave"):
            raise self._ended(response.leave)
        if not response.HasField("join"):
            kind = response.WhichOneof("message")
            raise RemoteProtocolError(f"{self._where} answers with {kind}, not with a join", reason="handshake")
        join = response.join
        own = join.participant
        log.info(
            "livekit_joined", room=join.room.name, identity=own.identity, participants=len(join.other_participants)
        )
        if own.HasField("permission"):
            lacks = [
                name
                for name, is_given in (
                    ("canSubscribe", own.permission.can_subscribe),
                    ("canPublishData", own.permission.can_publish_data or self._data is None),
                )
                if not is_given
            ]
            if lacks:
                what = f"{self._where}: the token does not grant {' and '.join(lacks)}"
                raise ProviderRejected(what, reason="refused")
        self._room.own_identity = own.identity
        self._outbox.identity, self._outbox.sid = own.identity, own.sid
        return join

    async def _watch(self, peer: SubscriberPeer | DataPeer) -> None:
        with naming(self._where):
            await peer.run()

    async def _publish(self, publisher: DataPeer, servers: Sequence[IceServer]) -> None:
        """Connect for what is sent."""
        assert self._data is not None
        with naming(self._where):
            offer = await publisher.offer(servers)
        await self._ask(rtc.SignalRequest(offer=rtc.SessionDescription(type="offer", sdp=offer, id=1)))
        try:
            async with asyncio.timeout(self._step_s):
                await self._data.opened()
        except TimeoutError:
            what = f"{self._where} opened no data channel within {self._step_s:g} s"
            raise ProviderUnavailable(what, reason="handshake") from None
        self._is_data_open = True
        self._look_for_avatar()

    async def _answer_offers(self, servers: Sequence[IceServer]) -> None:
        """One after the other; of several that wait, the newest."""
        while True:
            await self._offer_came.wait()
            self._offer_came.clear()
            assert self._offer is not None
            offer = self._offer
            with naming(self._where):
                sdp = await self._subscriber.answer(offer.sdp, servers)
            await self._ask(livekit.answer_to(offer, sdp))
            await self._reject(self._subscriber.unusable_tracks)

    async def _ping(self, interval_s: float) -> None:
        while True:
            await self._ask(*livekit.pings(time.time_ns() // NS_PER_MS, self._round_trip_ms))
            await asyncio.sleep(interval_s)

    async def _watch_presence(self) -> None:
        """Raises ProviderUnavailable when the avatar does not come, or not again."""
        wait_s = AVATAR_S
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    await self._is_present.wait()
            except TimeoutError:
                raise ProviderUnavailable(self._missing(wait_s), reason="absent") from None
            wait_s = RETURN_S
            await self._is_absent.wait()

    def _missing(self, wait_s: float) -> str:
        there = ", ".join(self._room.identities[:8]) or "nobody else"
        if self._room.avatar is None:
            what = "there is no avatar in it"
        elif self._room.unusable:
            what = "the avatar publishes nothing that can be received (H.264 or VP8, and Opus)"
        else:
            what = "the avatar publishes nothing"
        return f"{self._where}: {what} for {wait_s:g} s; in the room: {there}"

    # ------------------------------------------------------------------------------------------ from the server

    async def _receive(self, timeout_s: float) -> str | bytes:
        assert self._socket is not None
        try:
            async with asyncio.timeout(timeout_s):
                return await self._socket.recv()
        except TimeoutError:
            what = f"{self._where} has said nothing for {timeout_s:g} s"
            raise ProviderUnavailable(what, reason="disconnected") from None
        except ConnectionClosed as closed:
            said = f" ({closed.rcvd.code} {mask(closed.rcvd.reason)[:80]})".replace(" )", ")") if closed.rcvd else ""
            raise ProviderUnavailable(f"{self._where} closed the connection{said}", reason="disconnected") from None

    def _read(self, frame: str | bytes) -> rtc.SignalResponse:
        with naming(self._where):
            return livekit.parse(rtc.SignalResponse, frame)

    async def _take(self, frame: str | bytes) -> None:
        try:
            await self._act(self._read(frame))
        except RemoteProtocolError as error:
            self._warn("malformed", "signal", str(error))

    async def _act(self, response: rtc.SignalResponse) -> None:
        match response.WhichOneof("message"):
            case "offer":
                self._offer = response.offer
                self._offer_came.set()
            case "answer" if self._publisher is not None:
                await self._publisher.accept(response.answer.sdp)
            case "trickle":
                is_for_us = response.trickle.target == rtc.SignalTarget.SUBSCRIBER
                peer = self._subscriber if is_for_us else self._publisher
                if peer is not None:
                    await peer.add_candidate(*livekit.read_candidate(response.trickle))
            case "update":
                await self._update(response.update.participants)
            case "subscription_response" if response.subscription_response.err:
                await self._reject([response.subscription_response.track_sid])
            case "leave":
                raise self._ended(response.leave)
            case "refresh_token":
                self._entry.renew(response.refresh_token)
            case "pong_resp":
                now_ms, sent_ms = time.time_ns() // NS_PER_MS, response.pong_resp.last_ping_timestamp
                if 0 <= now_ms - sent_ms <= _LONGEST_TRIP_MS:
                    self._round_trip_ms = now_ms - sent_ms

    async def _update(self, participants: Sequence[models.ParticipantInfo]) -> None:
        await self._ask(*self._room.update(participants))
        self._look_for_avatar()

    async def _reject(self, sids: Sequence[str]) -> None:
        requests = self._room.reject(sids)
        if requests:
            self._warn("warning", "subscription", f"{self._where}: a track comes in a codec that cannot be received")
            await self._ask(*requests)
            self._look_for_avatar()

    def _look_for_avatar(self) -> None:
        """Tell the listener what has become of the avatar, if anything."""
        avatar, kinds = self._room.avatar, set[Kind](self._room.tracks)
        present = avatar.identity if avatar is not None and kinds and self._is_data_open else None
        if present == self._present:
            return
        if self._present is not None and present is not None:
            self._listener.on_presence(None)
        self._present = present
        if present is None:
            self._is_present.clear()
            self._is_absent.set()
        else:
            self._is_absent.clear()
            self._is_present.set()
        log.info("livekit_avatar", is_present=present is not None, tracks=sorted(kinds))
        self._listener.on_presence(present)

    def _ended(self, leave: rtc.LeaveRequest) -> ProviderRejected | ProviderUnavailable:
        reason = livekit.reason_name(leave.reason)
        advice = _END_ADVICE.get(leave.reason)
        what = f"{self._where} ended the session: {reason}" + (f"; {advice}" if advice else "")
        return (ProviderUnavailable if livekit.may_return(leave) else ProviderRejected)(what, reason=reason)

    # ------------------------------------------------------------------------------------------ to and fro

    async def _ask(self, *requests: rtc.SignalRequest) -> None:
        """Send; a closed connection is for `_receive` to find out."""
        assert self._socket is not None
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                for request in requests:
                    await self._socket.send(request.SerializeToString())
        except ConnectionClosed:
            return
        except TimeoutError:
            what = f"{self._where} has stopped reading for {SEND_TIMEOUT_S:g} s"
            raise ProviderUnavailable(what, reason="disconnected") from None

    async def _say_goodbye(self) -> None:
        """Then the server need not find out that we are gone."""
        assert self._socket is not None
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(FAREWELL_TIMEOUT_S):
                await self._socket.send(livekit.farewell().SerializeToString())

    def _on_message(self, label: str, message: str | bytes) -> None:
        try:
            packet = self._inbox.take(message)
        except RemoteProtocolError as error:
            self._warn("malformed", "data", f"{self._where}: {error}")
            return
        if packet is not None:
            self._listener.on_data(packet)

    def _warn(self, kind: str, type_name: str, text: str) -> None:
        """Each kind is logged once; all are events."""
        if type_name not in self._warned:
            self._warned.add(type_name)
            log.warning("livekit_trouble", kind=kind, error=text)
        self._listener.on_event(AvatarEvent("malformed" if kind == "malformed" else "warning", type_name, text))


def _ice_server(server: rtc.ICEServer) -> IceServer:
    credential = Secret(server.credential, is_passing=True) if server.credential else None
    return IceServer(tuple(server.urls), server.username, credential)
