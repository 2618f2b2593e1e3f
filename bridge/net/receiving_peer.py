"""The peer that receives an avatar: it answers the service's offers, or makes the offer itself."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from aiortc import RTCBundlePolicy, RTCRtpTransceiver
from aiortc.sdp import MediaDescription

from bridge.errors import BridgeError, ProviderUnavailable
from bridge.media.access_unit import Codec, Kind
from bridge.media.clock import NS_PER_S
from bridge.net.aiortc_receiver import EncodedReceiver, install_encoded_receiver
from bridge.net.codecs import h264_preferences, preferences
from bridge.net.data_channels import DataChannels
from bridge.net.guard import guard_of
from bridge.net.ice import IceServer, IceSettings
from bridge.net.media_path import MediaPath
from bridge.net.peer_connection import Peer
from bridge.net.sdp import Description, Section, offered_codecs, unusable
from bridge.ports import RemoteTrack, TrackSink

PRIVATE_NAMES = ("aiortc.rtcicetransport:RTCIceTransport._connection",)


# Whatever an avatar does, some RTP comes: while it is still and its encoder sends no picture, its sound flows, and Opus
# that is silent (DTX) says so every 400 ms (libopus, 20 frames): five updates are missing by then. ICE would notice a
# dead path after 30 s (six consent checks, RFC 7675), and a far end that has gone mute never.
MEDIA_LOST_S = 2.0
# An end is noticed so much later at most, besides the event loop's own delays.
LOOK_FOR_MEDIA_S = 0.25
# The pictures that are taken, the best first: a far end sends the first codec of an answer, or any that it finds there,
# so an answer names VP8 only where there is nothing else.
_PICTURE_CODECS = (Codec.H264, Codec.VP8)


class ReceivingPeer(Peer):
    """Delivers the tracks of the far end as RTP packets: H.264, or VP8 where that is all there is, and Opus.

    `on_track` is called once per track when the connection is up, and gives the sink of its packets.
    `lost` is the error that `run` raises.

    first_media_s  how long media may take to come once the connection is up; None: for ever. Later nothing may come
                   for `MEDIA_LOST_S` at most.
    """

    def __init__(
        self,
        ice: IceSettings,
        on_track: Callable[[RemoteTrack], TrackSink],
        *,
        lost: type[BridgeError] = ProviderUnavailable,
        first_media_s: float | None = None,
        data: DataChannels | None = None,
    ) -> None:
        super().__init__(ice, lost, data)
        self._on_track = on_track
        self._first_media_s = first_media_s
        self._receivers: list[EncodedReceiver] = []

    async def offer(self, ice_servers: Sequence[IceServer] = ()) -> str:
        """An offer to receive H.264 of any profile, VP8 and Opus, with all our candidates in it; `accept` takes its
        answer.

        Raises ConfigError and the error type of the peer as `answer` does.
        """
        self._open(await self._ice.trusted(ice_servers), RTCBundlePolicy.MAX_BUNDLE)
        self._add_transceiver("audio")
        self._add_transceiver("video")
        return await self._describe()

    async def _watch(self) -> Any:
        """Raises the error of the peer when no RTP packet has come for too long; never returns."""
        up_at_ns = time.monotonic_ns()
        while True:
            last_ns = max((receiver.last_arrival_ns for receiver in self._receivers), default=0)
            limit_s = MEDIA_LOST_S if last_ns else self._first_media_s
            if limit_s is not None and time.monotonic_ns() - (last_ns or up_at_ns) >= limit_s * NS_PER_S:
                raise self._lost(f"no media for {limit_s:g} s over a connection that is up", reason="media")
            await asyncio.sleep(LOOK_FOR_MEDIA_S)

    def _check_codecs(self, description: Description, what: str) -> None:
        names = {name.lower() for kind in ("audio", "video") for name in description.codecs(kind)}
        if not names.intersection((*_PICTURE_CODECS, Codec.OPUS)):
            there_is = ", ".join(sorted(names)) or "nothing"
            raise unusable(f"the {what} has no H.264 or VP8 video and no Opus audio (it has {there_is})")

    def _takes(self, section: Section) -> bool:
        wanted = _PICTURE_CODECS if section.kind == "video" else (Codec.OPUS,)
        return not set(map(str.lower, section.codecs)).isdisjoint(wanted)

    def _wants(self, media: MediaDescription) -> bool:
        return True  # what there is no use for was left out

    def _carries(self, transceiver: RTCRtpTransceiver) -> bool:
        return isinstance(transceiver.receiver, EncodedReceiver)

    def _is_idle(self, media: MediaDescription) -> bool:
        return media.direction not in ("sendonly", "sendrecv")

    def _add_transceiver(self, kind: Kind, offered: MediaDescription | None = None) -> None:
        assert self._pc is not None
        transceiver = self._pc.addTransceiver(kind, "recvonly")
        self._prefer(transceiver, offered)
        self._receivers.append(install_encoded_receiver(transceiver, self._announce))

    def _follow(self, transceiver: RTCRtpTransceiver, offered: MediaDescription) -> None:
        if self._carries(transceiver):
            self._prefer(transceiver, offered)

    def _prefer(self, transceiver: RTCRtpTransceiver, offered: MediaDescription | None) -> None:
        """Choose the codecs that a section is to carry: of those that are offered, or of all for an offer of ours."""
        if transceiver.kind == "audio":
            transceiver.setCodecPreferences(preferences(Codec.OPUS))
            return
        names = set(map(str.lower, offered_codecs(offered))) if offered is not None else set(_PICTURE_CODECS)
        codecs = h264_preferences() if Codec.H264 in names else []
        if offered is None or not codecs:
            codecs = [*codecs, *preferences(Codec.VP8)]
        transceiver.setCodecPreferences(codecs)

    def _announce(self, track: RemoteTrack) -> TrackSink:
        round_trip_ns = max((guard_of(connection).round_trip_ns for connection in self._connections), default=0)
        return self._on_track(replace(track, round_trip_ns=round_trip_ns))

    def _on_connected(self) -> None:
        for transport in self._connected_transports():
            guard = guard_of(transport.transport._connection)
            guard.take_media = MediaPath(transport, guard.rejected).take
