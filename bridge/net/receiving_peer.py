"""The peer that receives an avatar: it answers the service's offers, or makes the offer itself."""

from collections.abc import Callable, Sequence

from aiortc import RTCBundlePolicy, RTCRtpTransceiver

from bridge.errors import BridgeError, ProviderUnavailable, RemoteProtocolError
from bridge.media.access_unit import Codec
from bridge.net.aiortc_receiver import EncodedReceiver, install_encoded_receiver
from bridge.net.codecs import h264_preferences, preferences
from bridge.net.guard import guard_of
from bridge.net.ice import IceServer, IceSettings
from bridge.net.media_path import MediaPath
from bridge.net.peer_connection import Peer
from bridge.net.sdp import Description, offered_codecs, parse_description, unusable
from bridge.ports import RemoteTrack, TrackSink

PRIVATE_NAMES = (
    "aiortc.rtcdtlstransport:RTCDtlsTransport._role",
    "aiortc.rtcicetransport:RTCIceTransport._connection",
)


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

    async def answer(self, offer_sdp: str, ice_servers: Sequence[IceServer] = ()) -> str:
        """The answer to an offer, with all our candidates in it; to a further one if it `continues` the connection.

        Raises RemoteProtocolError when the offer cannot be read, has no H.264 video or asks for a change that needs a
        new connection, ConfigError when an interface of the settings is missing, and the error type of the peer when
        gathering candidates takes too long.
        """
        offer = parse_description(offer_sdp, "offer")
        self._check_codecs(offer, "offer")
        if self._pc is None:
            # A transport per section, until the offer's BUNDLE joins those that it names.
            self._open(ice_servers, RTCBundlePolicy.MAX_COMPAT)
        else:
            self._check_renegotiation(offer)
        self._add_transceivers(offer)
        await self._set_remote(offer, "offer")
        answer = offer.complete_answer(await self._describe())
        self._negotiated.set()
        return answer

    def continues(self, offer_sdp: str) -> bool:
        """Whether an offer is about the transports there are: same ICE credentials, same DTLS fingerprints.

        False for one that cannot be read; `answer` says what is wrong with it.
        """
        try:
            offer = parse_description(offer_sdp, "offer")
        except RemoteProtocolError:
            return False
        return self._remote is not None and offer.transports <= self._remote.transports

    async def offer(self, ice_servers: Sequence[IceServer] = ()) -> str:
        """An offer to receive H.264 of any profile and Opus, with all our candidates in it; `accept` takes its answer.

        Raises ConfigError and the error type of the peer as `answer` does.
        """
        pc = self._open(ice_servers, RTCBundlePolicy.MAX_BUNDLE)
        self._prepare(pc.addTransceiver("audio", "recvonly"))
        self._prepare(pc.addTransceiver("video", "recvonly"))
        return await self._describe()

    def _check_codecs(self, description: Description, what: str) -> None:
        for codec, title in ((Codec.H264, "H.264"), (Codec.OPUS, "Opus")):
            names = description.codecs(codec.kind)
            if not names and codec.kind == "audio":
                continue  # an avatar without sound is odd, and still worth showing
            if codec not in (name.lower() for name in names):
                there_is = ", ".join(dict.fromkeys(names)) or f"no {codec.kind} at all"
                raise unusable(f"the {what} has no {title} {codec.kind} (it offers {there_is})")

    def _check_renegotiation(self, offer: Description) -> None:
        assert self._pc is not None
        if self._remote is None or not offer.transports <= self._remote.transports:
            raise unusable("the offer is about another connection: other ICE credentials or DTLS fingerprints")
        known = self._remote.sections
        if offer.sections[: len(known)] != known:
            raise unusable(f"the offer takes away sections that there were: {known} became {offer.sections}")
        loose = [mid for mid, _ in offer.sections[len(known) :] if mid not in (*offer.bundle, *offer.rejected)]
        if loose:
            raise unusable(f"the offer adds sections outside of the bundle: {' '.join(loose)}")
        # RFC 8842 §5.5: DTLS keeps its roles as long as its connection.
        role = self._pc.getTransceivers()[0].receiver.transport._role
        if any(media.dtls is not None and media.dtls.role == role != "auto" for media in offer.session.media):
            raise unusable(f"the offer makes both ends the DTLS {role}")

    def _add_transceivers(self, offer: Description) -> None:
        """One for each new section: the first of a kind that has our codec, while none is received, receives."""
        assert self._pc is not None
        transceivers = {transceiver.mid: transceiver for transceiver in self._pc.getTransceivers()}
        received = {
            transceiver.kind
            for mid, transceiver in transceivers.items()
            if mid not in offer.rejected and isinstance(transceiver.receiver, EncodedReceiver)
        }
        for media in offer.session.media:
            if media.kind == "application" or media.rtp.muxId in transceivers:
                continue
            codec = Codec.H264 if media.kind == "video" else Codec.OPUS
            if (
                media.kind not in received
                and media.rtp.muxId not in offer.rejected
                and codec in (name.lower() for name in offered_codecs(media))
            ):
                received.add(media.kind)
                self._prepare(self._pc.addTransceiver(media.kind, "recvonly"))
            else:
                self._pc.addTransceiver(media.kind, "inactive")

    def _prepare(self, transceiver: RTCRtpTransceiver) -> None:
        transceiver.setCodecPreferences(h264_preferences() if transceiver.kind == "video" else preferences(Codec.OPUS))
        install_encoded_receiver(transceiver, self._on_track)

    def _on_connected(self) -> None:
        assert self._pc is not None
        for transport in {transceiver.receiver.transport for transceiver in self._pc.getTransceivers()}:
            if transport.state == "connected":
                guard = guard_of(transport.transport._connection)
                guard.take_media = MediaPath(transport, guard.rejected).take
