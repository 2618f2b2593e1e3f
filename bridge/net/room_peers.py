"""Peers in rooms: who is there receives tracks over one and sends data over another, which a room's server answers."""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from aiortc import RTCBundlePolicy, RTCRtpTransceiver
from aiortc.sdp import MediaDescription

from bridge.errors import LocalProtocolError, ProviderUnavailable
from bridge.media.access_unit import Codec, Kind
from bridge.media.clock import NS_PER_S
from bridge.net.data_channels import DataChannels
from bridge.net.hearing import LOOK_S, Hearing, keep_consent
from bridge.net.ice import IceServer, IceSettings
from bridge.net.peer_connection import Peer
from bridge.net.publisher_peer import PublisherPeer
from bridge.net.receiving_peer import MEDIA_LOST_S, ReceivingPeer
from bridge.net.sdp import Description, Section
from bridge.ports import RemoteTrack, TrackSink

# What aiortc knows enough of to answer.
_ANSWERED = frozenset({Codec.OPUS, Codec.H264, Codec.VP8})
_TRACK = re.compile(r"^a=msid:\S+ (\S+)\r$", re.MULTILINE)


class SubscriberPeer(ReceivingPeer):
    """Answers the offers of a room's server, which may have no tracks yet, and go and come again.

    A room may be still: the avatar is not there, or muted. So silence alone is no loss; it is one where the server does
    not answer our consent checks either.
    """

    def __init__(self, ice: IceSettings, on_track: Callable[[RemoteTrack], TrackSink], data: DataChannels) -> None:
        super().__init__(ice, on_track, data=data)
        self._hearing = Hearing(time.monotonic_ns())

    async def answer(self, offer_sdp: str, ice_servers: Sequence[IceServer] = ()) -> str:
        is_first = not self._connections
        answer = await super().answer(offer_sdp, ice_servers)
        if is_first:
            for connection in self._connections:
                keep_consent(connection, self._hearing)
        return answer

    @property
    def unusable_tracks(self) -> list[str]:
        """Names of the tracks that the newest offer has in codecs that we do not know."""
        declined = self._remote.declined if self._remote is not None else ()
        return [name for section in declined for name in _TRACK.findall(section.text)]

    async def _watch(self) -> Any:
        while True:
            now_ns = time.monotonic_ns()
            heard_ns = max((receiver.last_arrival_ns for receiver in self._receivers), default=0)
            if self._hearing.is_silent(now_ns) and now_ns - heard_ns >= MEDIA_LOST_S * NS_PER_S:
                raise self._lost("neither media nor answers come over a connection that is up", reason="media")
            await asyncio.sleep(LOOK_S)

    def _check_codecs(self, description: Description, what: str) -> None:
        """Nothing: sections that are of no use are declined, and data channels alone are enough."""


class DataPeer(Peer):
    """Offers a connection for data channels, and nothing else."""

    def __init__(self, ice: IceSettings, data: DataChannels) -> None:
        super().__init__(ice, ProviderUnavailable, data)

    async def offer(self, ice_servers: Sequence[IceServer] = ()) -> str:
        """An offer with all our candidates in it; `accept` takes its answer."""
        self._open(await self._ice.trusted(ice_servers), RTCBundlePolicy.MAX_BUNDLE)
        return await self._describe()

    def _takes(self, section: Section) -> bool:
        return False

    def _wants(self, media: MediaDescription) -> bool:
        return False

    def _carries(self, transceiver: RTCRtpTransceiver) -> bool:
        return False

    def _add_transceiver(self, kind: Kind, offered: MediaDescription | None = None) -> None:
        raise LocalProtocolError(f"no {kind} goes over a connection for data")

    def _check_codecs(self, description: Description, what: str) -> None:
        """Nothing: there are none."""


class ParticipantPeer(PublisherPeer):
    """Answers a participant's offer of data channels, and of sound beside them; a room's server has it."""

    def __init__(self, ice: IceSettings, on_track: Callable[[RemoteTrack], TrackSink], data: DataChannels) -> None:
        super().__init__(ice, on_track, lambda address: True, data)

    def _check_codecs(self, description: Description, what: str) -> None:
        """Nothing: there may be data alone."""

    # LiveKit's clients that have fallen back to two connections leave sections to receive in the one for sending. They
    # are answered, with nothing in them: what is declined libwebrtc uses again under another name, which aiortc cannot.
    def _takes(self, section: Section) -> bool:
        return not _ANSWERED.isdisjoint(map(str.lower, section.codecs))

    def _wants(self, media: MediaDescription) -> bool:
        return media.kind == "audio" and not self._is_idle(media)
