"""The peer that receives an avatar: it answers the service's offers, or makes the offer itself."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from aiortc import RTCBundlePolicy, RTCRtpTransceiver
from aiortc.sdp import MediaDescription

from bridge.errors import BridgeError, ProviderUnavailable
from bridge.media.access_unit import Codec, Kind
from bridge.net.aiortc_receiver import EncodedReceiver, install_encoded_receiver
from bridge.net.codecs import h264_preferences, preferences
from bridge.net.guard import guard_of
from bridge.net.ice import IceServer, IceSettings
from bridge.net.media_path import MediaPath
from bridge.net.peer_connection import Peer
from bridge.net.sdp import Description, offered_codecs, unusable
from bridge.ports import RemoteTrack, TrackSink

PRIVATE_NAMES = ("aiortc.rtcicetransport:RTCIceTransport._connection",)


class ReceivingPeer(Peer):
    """Delivers the H.264 and Opus tracks of the far end as RTP packets.

    `on_track` is called once per track when the connection is up, and gives the sink of its packets.
    `lost` is the error that `run` raises.
    """

    def __init__(
        self,
        ice: IceSettings,
        on_track: Callable[[RemoteTrack], TrackSink],
        *,
        lost: type[BridgeError] = ProviderUnavailable,
    ) -> None:
        super().__init__(ice, lost)
        self._on_track = on_track

    async def offer(self, ice_servers: Sequence[IceServer] = ()) -> str:
        """An offer to receive H.264 of any profile and Opus, with all our candidates in it; `accept` takes its answer.

        Raises ConfigError and the error type of the peer as `answer` does.
        """
        self._open(ice_servers, RTCBundlePolicy.MAX_BUNDLE)
        self._add_transceiver("audio")
        self._add_transceiver("video")
        return await self._describe()

    def _check_codecs(self, description: Description, what: str) -> None:
        for codec, title in ((Codec.H264, "H.264"), (Codec.OPUS, "Opus")):
            names = description.codecs(codec.kind)
            if not names and codec.kind == "audio":
                continue  # an avatar without sound is odd, and still worth showing
            if codec not in (name.lower() for name in names):
                there_is = ", ".join(dict.fromkeys(names)) or f"no {codec.kind} at all"
                raise unusable(f"the {what} has no {title} {codec.kind} (it offers {there_is})")

    def _wants(self, media: MediaDescription) -> bool:
        codec = Codec.H264 if media.kind == "video" else Codec.OPUS
        return codec in (name.lower() for name in offered_codecs(media))

    def _carries(self, transceiver: RTCRtpTransceiver) -> bool:
        return isinstance(transceiver.receiver, EncodedReceiver)

    def _add_transceiver(self, kind: Kind) -> None:
        assert self._pc is not None
        transceiver = self._pc.addTransceiver(kind, "recvonly")
        transceiver.setCodecPreferences(h264_preferences() if kind == "video" else preferences(Codec.OPUS))
        install_encoded_receiver(transceiver, self._announce)

    def _announce(self, track: RemoteTrack) -> TrackSink:
        round_trip_ns = max((guard_of(connection).round_trip_ns for connection in self._connections), default=0)
        return self._on_track(replace(track, round_trip_ns=round_trip_ns))

    def _on_connected(self) -> None:
        assert self._pc is not None
        for transport in {transceiver.receiver.transport for transceiver in self._pc.getTransceivers()}:
            if transport.state == "connected":
                guard = guard_of(transport.transport._connection)
                guard.take_media = MediaPath(transport, guard.rejected).take
