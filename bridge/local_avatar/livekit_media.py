"""The media of one participant in a room: the performance that it watches, and what it publishes."""

import asyncio
import re
from collections.abc import Callable

import structlog
from livekit.protocol import models, rtc

from bridge.errors import BridgeError, ProviderUnavailable, RemoteProtocolError
from bridge.local_avatar.faults import Faults
from bridge.local_avatar.livekit_stage import Stage
from bridge.local_avatar.livekit_worker import Microphone, Worker
from bridge.local_avatar.performer import Performer
from bridge.local_avatar.service import House
from bridge.local_avatar.transmission import Transmission
from bridge.net.data_channels import DataChannels
from bridge.net.room_peers import ParticipantPeer
from bridge.protocols import livekit, navtalk
from bridge.protocols.livekit_data import LOSSY, RELIABLE

log = structlog.get_logger()

_SECTION = re.compile(r"^m=(audio|video) .*?(?=^m=|\Z)", re.MULTILINE | re.DOTALL)


class MemberMedia:
    """Both peer connections of a participant: we offer the one, it offers the other.

    Whoever subscribes to a track of the avatar gets both.

    info       of the participant.  tell: sends it something over the signalling.
    performer  what it watches.  worker: the avatar's ear for its data.
    """

    def __init__(
        self,
        info: models.ParticipantInfo,
        house: House,
        faults: Faults,
        stage: Stage,
        tell: Callable[[rtc.SignalResponse], None],
        tasks: asyncio.TaskGroup,
        *,
        subscribes: bool,
    ) -> None:
        self.info = info
        self.tell = tell
        self._ice, self._faults, self._stage, self._tasks = house.ice, faults, stage, tasks
        self._subscribes = subscribes
        self._wanted: set[str] = set()
        self._sent: set[str] = set()
        self._offering = asyncio.Lock()
        self._offer_id = 0
        self._data: DataChannels | None = None
        self._transmission = Transmission(house.ice, house.options, faults, tasks, self._signal, self._make_data)
        self._published: ParticipantPeer | None = None
        self.worker = Worker(
            info.identity,
            stage,
            lambda: self.performer.is_speaking,
            lambda packet: stage.send(self, packet),
            tasks,
        )

    @property
    def performer(self) -> Performer:
        return self._transmission.performer

    async def run(self) -> None:
        """Offer what is to be seen, from the start."""
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self._transmission.run())
            if self._faults.strikes("no-offer"):
                return
            if "late-offer" in self._faults:
                await asyncio.sleep(self._faults.value("late-offer"))
                self._faults.strikes("late-offer")
            await self._transmission.offer()

    # ------------------------------------------------------------------------------------------ what it watches

    async def subscribe(self, request: rtc.UpdateSubscription) -> None:
        if request.subscribe:
            self._wanted.update(request.track_sids)
        else:
            self._wanted.difference_update(request.track_sids)
        await self.follow()

    async def follow(self) -> None:
        """Send the avatar's tracks to whom they are for, and nothing else; one offer after the other."""
        async with self._offering:
            there = set(self._stage.track_sids.values())
            wanted = there if self._subscribes else there & self._wanted
            if self._transmission.is_stable and wanted != self._sent:
                # Tracks that were published anew: those before are taken away first.
                is_on = bool(wanted) and not self._sent
                self._sent = wanted if is_on else set()
                await self._transmission.publish(is_on=is_on)

    async def accept(self, answer: rtc.SessionDescription) -> None:
        """Raises RemoteProtocolError."""
        if answer.id not in (0, self._offer_id):
            raise RemoteProtocolError(f"an answer to offer {answer.id}, and the newest is {self._offer_id}")
        await self._transmission.take(navtalk.Answer(answer.sdp))
        await self.follow()

    async def _signal(self, event: navtalk.Event) -> None:
        match event:
            case navtalk.Offer(sdp):
                self._offer_id += 1
                named = _SECTION.sub(self._name_tracks, sdp)
                offer = rtc.SessionDescription(type="offer", sdp=named, id=self._offer_id)
                self.tell(rtc.SignalResponse(offer=offer))
            case navtalk.Candidate(candidate, mid, index):
                trickle = livekit.trickle(candidate, mid or "0", index or 0, rtc.SignalTarget.SUBSCRIBER)
                self.tell(rtc.SignalResponse(trickle=trickle))

    def _name_tracks(self, section: re.Match[str]) -> str:
        """A section whose stream is named after the participant, and its track after itself."""
        sid = self._stage.track_sids.get(section[1], "")
        return re.sub(
            r"^a=msid:.*\r$", f"a=msid:{self._stage.avatar_sid}|{sid} {sid}\r", section[0], flags=re.MULTILINE
        )

    # ------------------------------------------------------------------------------------------ what it publishes

    async def answer(self, offer: rtc.SessionDescription) -> None:
        """Raises RemoteProtocolError."""
        if self._published is None or not self._published.continues(offer.sdp):
            self._published = peer = ParticipantPeer(self._ice, self._on_track, DataChannels(self._on_message))
            self._tasks.create_task(self._serve(peer), name="livekit-published")
        sdp = await self._published.answer(offer.sdp)
        self.tell(rtc.SignalResponse(answer=rtc.SessionDescription(type="answer", sdp=sdp, id=offer.id)))

    async def _serve(self, peer: ParticipantPeer) -> None:
        try:
            async with peer:
                await peer.run()
        except BridgeError as error:
            log.info("avatar_published_lost", reason=str(error))
        finally:
            if self._published is peer:
                self._published = None

    def _on_track(self, track: object) -> Microphone:
        return Microphone(self._stage.speak)

    async def trickle(self, message: rtc.TrickleRequest) -> None:
        """Raises RemoteProtocolError."""
        candidate, mid, index = livekit.read_candidate(message)
        if message.target == rtc.SignalTarget.SUBSCRIBER:
            await self._transmission.take(navtalk.Candidate(candidate, mid, index))
        elif self._published is not None:
            await self._published.add_candidate(candidate, mid, index)

    # ------------------------------------------------------------------------------------------ data

    def send_data(self, label: str, message: bytes) -> None:
        """Drop it if there is no way to the participant yet, or any more."""
        if self._data is not None and self._data.is_open(label):
            try:
                self._data.send(label, message)
            except ProviderUnavailable as error:
                log.info("avatar_data_dropped", reason=str(error))

    def _make_data(self) -> DataChannels:
        self._data = DataChannels(self._on_message, {RELIABLE: True, LOSSY: False})
        return self._data

    def _on_message(self, label: str, message: str | bytes) -> None:
        try:
            self._stage.route(self, label, message)
        except RemoteProtocolError as error:
            log.warning("avatar_data_refused", error=str(error))
