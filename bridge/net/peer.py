"""WebRTC peers with deadlines: one that receives a service's tracks, one that sends ready access units.

Both are asynchronous context managers around one RTCPeerConnection. Signalling is the caller's; `run` watches the
connection and raises when it is lost. An ICE restart is a new peer: aiortc knows none.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

import structlog
from aioice import Connection
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCIceCandidate, RTCPeerConnection, RTCSessionDescription
from aiortc.exceptions import InternalError as AiortcInternalError
from aiortc.exceptions import InvalidStateError, OperationError
from aiortc.sdp import SessionDescription

from bridge.errors import BridgeError, LocalProtocolError, OutputLost, ProviderUnavailable, RemoteProtocolError
from bridge.media.access_unit import Kind
from bridge.net.aiortc_receiver import install_encoded_receiver
from bridge.net.aiortc_sender import EncodedSender, RtpOrigin, SenderClock, install_encoded_sender
from bridge.net.guard import guard_of
from bridge.net.ice import IceServer, IceSettings, limit_to_addresses
from bridge.net.media_path import MediaPath
from bridge.net.packetize import packetize_h264
from bridge.net.sdp import (
    AIORTC_SDP_ERRORS,
    Description,
    h264_preferences,
    is_usable,
    offered_codecs,
    opus_preferences,
    parse_candidate,
    parse_description,
)
from bridge.ports import RemoteTrack, TrackSink

PRIVATE_NAMES = ("aiortc.rtcicetransport:RTCIceTransport._connection", "aioice.ice:Connection._nominated")

# ICE checks of a loaded list and DTLS with one lost flight (1 s, RFC 6347 §4.2.4.1) take less than 3 s on the worst
# paths; a path that is not there after 10 s will not come.
CONNECT_TIMEOUT_S = 10.0
# aioice gives STUN and TURN servers 5 s to answer while gathering.
NEGOTIATE_TIMEOUT_S = 8.0
# Closing a TURN allocation waits for the server.
CLOSE_TIMEOUT_S = 2.0
# A check list holds at most 100 pairs (RFC 8445 §6.1.2.5).
MAX_REMOTE_CANDIDATES = 100

log = structlog.get_logger()


class _Peer:
    """What both directions share: the connection, its candidates, its deadlines and its end.

    rejected_candidates  malformed, unusable or surplus ones, dropped.
    """

    def __init__(self, ice: IceSettings, lost: type[BridgeError]) -> None:
        self.rejected_candidates = 0
        self._ice = ice
        self._lost = lost
        self._pc: RTCPeerConnection | None = None
        self._connections: list[Connection] = []
        self._bundle_mid: str | None = None
        self._early_candidates: deque[tuple[str, str | None, int | None]] = deque()
        self._remote_addresses: set[tuple[str, int]] = set()
        self._has_remote = False
        self._negotiated = asyncio.Event()
        self._connected = asyncio.Event()
        self._gone = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pc is None:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._pc.close()
        except TimeoutError:
            log.warning("webrtc_close_timed_out", timeout_s=CLOSE_TIMEOUT_S)
        finally:
            for connection in self._connections:
                guard_of(connection).close_sockets()

    @property
    def is_connected(self) -> bool:
        """Whether media can flow now."""
        return self._connected.is_set() and not self._gone.is_set()

    @property
    def datagrams_rejected(self) -> Counter[str]:
        """Datagrams dropped before anything read them, by reason."""
        total: Counter[str] = Counter()
        for connection in self._connections:
            total += guard_of(connection).rejected
        return total

    @property
    def path(self) -> str:
        """The ICE pair in use, as `host 127.0.0.1:4000 to prflx 127.0.0.1:5000`; empty before there is one."""
        pairs = [pair for connection in self._connections for pair in connection._nominated.values()]
        ends = [
            f"{c.type} {c.host}:{c.port}" for pair in pairs[:1] for c in (pair.local_candidate, pair.remote_candidate)
        ]
        return " to ".join(ends)

    async def connected(self) -> None:
        """Wait until media can flow, or the connection is lost, which `run` reports."""
        await self._connected.wait()

    async def run(self) -> None:
        """Watch the connection, from before negotiation if need be; never returns.

        Raises the error type of the peer when the connection is not up `CONNECT_TIMEOUT_S` after negotiation, fails, or
        is closed by the far end.
        """
        await self._negotiated.wait()
        assert self._pc is not None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._connected.wait()
        except TimeoutError:
            raise self._lost(
                f"no media connection after {CONNECT_TIMEOUT_S:.0f} s (ICE is {self._pc.iceConnectionState}):"
                " is UDP blocked, or a TURN server needed?"
            ) from None
        await self._gone.wait()
        if self._pc.connectionState == "closed":
            raise self._lost("the far end closed the media connection")
        raise self._lost(f"the media connection failed (ICE is {self._pc.iceConnectionState})")

    async def add_candidate(self, candidate: str, sdp_mid: str | None, sdp_mline_index: int | None) -> None:
        """Take a candidate that the far end trickled (RFC 8838); an empty one, its end mark, needs nothing.

        Those that come before the description wait for it. Ones that cannot be used are counted, not raised.
        """
        if not candidate.strip():
            return
        if not self._has_remote:
            if len(self._early_candidates) < MAX_REMOTE_CANDIDATES:
                self._early_candidates.append((candidate, sdp_mid, sdp_mline_index))
            else:
                self.rejected_candidates += 1
            return
        await self._try_candidate(parse_candidate(candidate), sdp_mid, sdp_mline_index)

    async def _try_candidate(self, candidate: RTCIceCandidate | None, mid: str | None, index: int | None) -> None:
        assert self._pc is not None
        if candidate is None or not is_usable(candidate):
            self.rejected_candidates += 1
            return
        address = (candidate.ip, candidate.port)
        if address in self._remote_addresses:
            return  # bundled sections repeat theirs
        if len(self._remote_addresses) >= MAX_REMOTE_CANDIDATES:
            self.rejected_candidates += 1
            return
        self._remote_addresses.add(address)
        if self._bundle_mid is not None:
            # One transport serves all sections, and aiortc would drop candidates for any but the first.
            candidate.sdpMid = self._bundle_mid
        elif mid is None and index is None:
            candidate.sdpMLineIndex = 0
        else:
            candidate.sdpMid, candidate.sdpMLineIndex = mid, index
        await self._pc.addIceCandidate(candidate)

    def _open(self, servers: Sequence[IceServer], bundle: RTCBundlePolicy) -> RTCPeerConnection:
        if self._pc is not None:
            raise RemoteProtocolError("a second offer on one connection: renegotiation is not supported")
        self._pc = RTCPeerConnection(RTCConfiguration(self._ice.rtc_servers(servers), bundlePolicy=bundle))
        self._pc.on("connectionstatechange", self._on_state)
        return self._pc

    def _choose_interfaces(self) -> None:
        assert self._pc is not None
        transports = {transceiver.receiver.transport for transceiver in self._pc.getTransceivers()}
        if self._pc.sctp is not None:
            transports.add(self._pc.sctp.transport)
        self._connections = [transport.transport._connection for transport in transports]
        addresses = self._ice.host_addresses()
        if addresses is not None:
            for connection in self._connections:
                limit_to_addresses(connection, addresses)

    async def _set_remote(self, description: Description, kind: str) -> None:
        assert self._pc is not None
        try:
            await self._pc.setRemoteDescription(RTCSessionDescription(description.text, kind))
        except (AiortcInternalError, InvalidStateError, OperationError, *AIORTC_SDP_ERRORS) as error:
            raise RemoteProtocolError(f"the {kind} cannot be used: {error!r}") from error
        self._bundle_mid = description.bundle_mid
        self._has_remote = True
        for candidate, mid, index in description.candidates:
            await self._try_candidate(candidate, mid, index)
        while self._early_candidates:
            await self.add_candidate(*self._early_candidates.popleft())

    def _on_state(self) -> None:
        assert self._pc is not None
        state = self._pc.connectionState
        if state == "connected":
            log.info("webrtc_connected", path=self.path)
            self._on_connected()
            self._connected.set()
        elif state in ("failed", "closed"):
            self._connected.set()
            self._gone.set()

    def _on_connected(self) -> None:
        """Media can flow."""


class ReceivingPeer(_Peer):
    """Answers an offer and delivers its H.264 and Opus tracks as RTP packets.

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
        """The answer to an offer, with all our candidates in it.

        Raises RemoteProtocolError when the offer cannot be read or has no H.264 video, ConfigError when an interface
        of the settings is missing, and the error type of the peer when gathering candidates takes too long.
        """
        offer = parse_description(offer_sdp, "offer")
        _require_codec(offer.session, "video", "H264", "H.264")
        _require_codec(offer.session, "audio", "opus", "Opus")
        # A transport per section, until the offer's BUNDLE joins those that it names.
        pc = self._open(ice_servers, RTCBundlePolicy.MAX_COMPAT)
        wanted: set[str] = {"video", "audio"}
        for media in offer.session.media:
            if media.kind == "application":
                continue
            codec_name = "h264" if media.kind == "video" else "opus"
            is_wanted = media.kind in wanted and codec_name in (name.lower() for name in offered_codecs(media))
            transceiver = pc.addTransceiver(media.kind, "recvonly" if is_wanted else "inactive")
            if is_wanted:
                wanted.remove(media.kind)
                transceiver.setCodecPreferences(h264_preferences() if media.kind == "video" else opus_preferences())
                install_encoded_receiver(transceiver, self._on_track)
        try:
            async with asyncio.timeout(NEGOTIATE_TIMEOUT_S):
                await self._set_remote(offer, "offer")
                self._choose_interfaces()
                await pc.setLocalDescription()
        except TimeoutError:
            raise self._lost(f"gathering ICE candidates took more than {NEGOTIATE_TIMEOUT_S:.0f} s") from None
        self._negotiated.set()
        return str(pc.localDescription.sdp)

    def _on_connected(self) -> None:
        assert self._pc is not None
        for transport in {transceiver.receiver.transport for transceiver in self._pc.getTransceivers()}:
            if transport.state == "connected":
                guard = guard_of(transport.transport._connection)
                guard.take_media = MediaPath(transport, guard.rejected).take


class SendingPeer(_Peer):
    """Offers one H.264 and one Opus track and sends access units that are ready.

    `on_keyframe_request` is called for each PLI and FIR, unthrottled. `profile_level_id` is what the pictures really
    are: one of `sdp.H264_PROFILE_LEVEL_IDS`. Origins and clock are for tests; `drops` sees each RTP packet before it is
    encrypted and says whether to lose it. `lost` is the error that `run` raises.
    """

    def __init__(
        self,
        ice: IceSettings,
        on_keyframe_request: Callable[[], None],
        *,
        profile_level_id: str = "42e01f",
        video_origin: RtpOrigin | None = None,
        audio_origin: RtpOrigin | None = None,
        clock: SenderClock | None = None,
        drops: Callable[[bytes], bool] | None = None,
        lost: type[BridgeError] = OutputLost,
    ) -> None:
        super().__init__(ice, lost)
        self._profile_level_id = profile_level_id
        self._on_keyframe_request = on_keyframe_request
        self._origins: dict[Kind, RtpOrigin] = {
            "audio": audio_origin or RtpOrigin(),
            "video": video_origin or RtpOrigin(),
        }
        self._clock = clock or SenderClock()
        self._drops = drops
        self._senders: dict[Kind, EncodedSender] = {}

    async def offer(self, ice_servers: Sequence[IceServer] = ()) -> str:
        """An offer to send, audio section first, with all our candidates in it."""
        pc = self._open(ice_servers, RTCBundlePolicy.MAX_BUNDLE)
        for kind, origin in self._origins.items():
            transceiver = pc.addTransceiver(kind, "sendonly")
            transport = transceiver.receiver.transport
            sender = EncodedSender(kind, transport, self._clock, origin, self._on_keyframe_request, self._drops)
            install_encoded_sender(transceiver, sender)
            self._senders[kind] = sender
            if kind == "video":
                preferences = h264_preferences([self._profile_level_id])
                # Fragments need packetization mode 1 (RFC 6184 §6.3).
                preferences = [c for c in preferences if c.parameters.get("packetization-mode") != "0"]
            else:
                preferences = opus_preferences()
            transceiver.setCodecPreferences(preferences)
        self._choose_interfaces()
        try:
            async with asyncio.timeout(NEGOTIATE_TIMEOUT_S):
                await pc.setLocalDescription()
        except TimeoutError:
            raise self._lost(f"gathering ICE candidates took more than {NEGOTIATE_TIMEOUT_S:.0f} s") from None
        return str(pc.localDescription.sdp)

    async def accept(self, answer_sdp: str) -> None:
        """Take the answer and connect. Raises RemoteProtocolError when it does not fit the offer."""
        if self._pc is None:
            raise LocalProtocolError("an answer before the offer")
        await self._set_remote(parse_description(answer_sdp, "answer"), "answer")
        self._negotiated.set()

    async def send_video(self, nals: Iterable[bytes], pts_ns: int) -> None:
        """Send one picture: its NAL units, SPS and PPS before an IDR picture, as `media.h264` splits them.

        Like `send_audio`, drops the unit while the connection is not up: live media does not wait.
        """
        await self._send_unit("video", packetize_h264(nals), pts_ns)

    async def send_audio(self, packet: bytes, pts_ns: int) -> None:
        """Send one Opus packet."""
        await self._send_unit("audio", [packet], pts_ns)

    async def _send_unit(self, kind: Kind, payloads: Sequence[bytes], pts_ns: int) -> None:
        sender = self._senders.get(kind)
        if sender is None or not sender.is_sending:
            return
        try:
            await sender.send_unit(payloads, pts_ns)
        except ConnectionError:
            self._gone.set()


def _require_codec(offer: SessionDescription, kind: Kind, name: str, title: str) -> None:
    sections = [media for media in offer.media if media.kind == kind]
    if kind == "audio" and not sections:
        return  # an avatar without sound is odd, and still worth showing
    codecs = [codec for media in sections for codec in offered_codecs(media)]
    if name.lower() not in (codec.lower() for codec in codecs):
        offers = ", ".join(codecs) or f"no {kind} at all"
        raise RemoteProtocolError(f"the offer has no {title} {kind} (it offers {offers})")
