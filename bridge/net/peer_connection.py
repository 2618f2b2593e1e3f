"""A WebRTC peer with deadlines, around one RTCPeerConnection: what receiving and sending ones share.

Signalling is the caller's; `run` watches the connection and raises when it is lost. A further offer on the same
transports is a renegotiation; an ICE restart is a new peer: aiortc knows none.
"""

import asyncio
import re
import secrets
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import structlog
from aioice import Connection
from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCDtlsTransport,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpTransceiver,
    RTCSessionDescription,
)
from aiortc.exceptions import InternalError as AiortcInternalError
from aiortc.exceptions import InvalidStateError, OperationError
from aiortc.sdp import MediaDescription

from bridge.errors import BridgeError, LocalProtocolError, RemoteProtocolError
from bridge.media.access_unit import Kind
from bridge.net.aiortc_connection import ClosablePeerConnection
from bridge.net.data_channels import DataChannels
from bridge.net.guard import guard_of
from bridge.net.ice import IceServer, IceSettings, PortsTaken, gather_with
from bridge.net.race import in_time, race
from bridge.net.refusals import count_refusals
from bridge.net.remote_candidates import RemoteCandidates
from bridge.net.sdp import AIORTC_SDP_ERRORS, Description, Section, parse_description, unusable

PRIVATE_NAMES = (
    "aiortc.rtcdtlstransport:RTCDtlsTransport._role",
    "aiortc.rtcicetransport:RTCIceTransport._connection",
    "aioice.ice:Connection._nominated",
    "aioice.ice:Connection.query_consent",
)

# ICE checks of a loaded list take less than 3 s on the worst paths, and a far end may name its relays as late as it has
# them (5 s for aiortc); a path that is not there after 10 s will not come.
CONNECT_TIMEOUT_S = 10.0
# Three flights, of which two are lost and sent again after 1 s and 2 s (RFC 6347 §4.2.4.1), at a round trip of 500 ms.
DTLS_TIMEOUT_S = 5.0
# STUN and TURN servers have 3 s to answer (`net.ice`); the rest is for the event loop of a machine that is busy.
GATHER_TIMEOUT_S = 5.0
# Closing a TURN allocation waits for the server.
CLOSE_TIMEOUT_S = 2.0

log = structlog.get_logger()


async def _no_consent() -> None:
    """In the place of asking a far end whether it still wants our packets (RFC 7675)."""


class Peer(ABC):
    """The connection, its candidates, its deadlines and its end; an asynchronous context manager.

    data  the data channels that it carries besides; None: it may have to have some, and nobody reads them.
    """

    def __init__(self, ice: IceSettings, lost: type[BridgeError], data: DataChannels | None = None) -> None:
        self._ice = ice
        self._lost = lost
        self._data = data
        self._pc: RTCPeerConnection | None = None
        self._connections: list[Connection] = []
        self._servers: list[RTCIceServer] = []
        self._bundle_mid: str | None = None
        self._candidates = RemoteCandidates(self._may_try)
        self._remote: Description | None = None
        self._session_id = secrets.randbits(62)
        self._version = 0
        self._negotiated = asyncio.Event()
        self._reached = asyncio.Event()
        self._connected = asyncio.Event()
        self._was_up = False
        self._gone = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pc is None:
            return
        for connection in self._connections:
            # aioice begins to ask for consent once it has connected, even if it was closed in that moment.
            setattr(connection, "query_consent", _no_consent)  # noqa: B010  mypy refuses to assign to a method
        # In a task of its own: where the far end has closed first aiortc waits on a future that all its closers share,
        # and one that is cancelled would take it along.
        closing = asyncio.create_task(self._pc.close(), name="webrtc close")
        try:
            await asyncio.wait((closing,), timeout=CLOSE_TIMEOUT_S)
            if not closing.done():
                log.warning("webrtc_close_timed_out", timeout_s=CLOSE_TIMEOUT_S)
                closing.cancel()
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
    def rejected_candidates(self) -> int:
        """Malformed, unusable or surplus ones of the far end's, dropped."""
        return self._candidates.rejected

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

        Raises the error type of the peer when ICE or DTLS is not done in time after negotiation, when the connection
        fails, is closed by the far end or carries nothing any more.
        """
        await self._negotiated.wait()
        assert self._pc is not None
        if not await in_time(self._reached, CONNECT_TIMEOUT_S):
            raise self._lost(self._unreached(), reason="media")
        if not await in_time(self._connected, DTLS_TIMEOUT_S):
            raise self._lost(
                f"no media connection: the far end was reached ({self.path}), and did not finish its DTLS hand-shake"
                f" within {DTLS_TIMEOUT_S:g} s: it is the far end's turn, or a firewall on the way takes STUN alone",
                reason="media",
            )
        if self.is_connected:
            await race(self._gone.wait(), self._watch())
        state = self._pc.connectionState
        if state == "closed":
            raise self._lost("the far end closed the media connection", reason="media")
        if not self._was_up and self._pc.iceConnectionState == "completed":
            raise self._lost(
                "the DTLS hand-shake failed: the far end does not show the certificate that it has announced, or takes"
                " none of our ciphers",
                reason="media",
            )
        raise self._lost(f"the media connection failed (ICE is {self._pc.iceConnectionState})", reason="media")

    def _unreached(self) -> str:
        """Why ICE has come to nothing."""
        n_addresses = len(self._candidates.addresses)
        why = (
            f"none of its {n_addresses} addresses answers: let UDP through the firewall, or name a TURN server in"
            " ice.servers"
            if n_addresses
            else "it has named no address that could be tried, and none of its own checks came through: has it no"
            " network, or should it have trickled candidates?"
        )
        return f"no media connection after {CONNECT_TIMEOUT_S:g} s: ICE has not reached the far end: {why}"

    async def _watch(self) -> Any:
        """Look after a connection that is up. Raises the error of the peer; never returns."""
        await asyncio.Event().wait()

    async def add_candidate(self, candidate: str, sdp_mid: str | None, sdp_mline_index: int | None) -> None:
        """Take a candidate that the far end trickled (RFC 8838); an empty one, its end mark, needs nothing.

        Those that come before the description wait for it. Ones that cannot be used are counted, not raised.
        """
        await self._candidates.take(candidate, sdp_mid, sdp_mline_index)

    def _may_try(self, address: str) -> bool:
        """Whether ICE may check an address of the far end's."""
        return self._ice.may_reach(address)

    def _open(self, servers: Sequence[IceServer], bundle: RTCBundlePolicy) -> RTCPeerConnection:
        if self._pc is not None:
            raise LocalProtocolError("a second connection of one peer")
        self._servers = self._ice.rtc_servers(servers)
        self._pc = ClosablePeerConnection(RTCConfiguration([], bundlePolicy=bundle))
        self._pc.on("iceconnectionstatechange", self._on_ice_state)
        self._pc.on("connectionstatechange", self._on_state)
        if self._data is not None:
            self._data.attach(self._pc)
        return self._pc

    @property
    def is_stable(self) -> bool:
        """Whether there is a connection, and no offer on it that waits for its answer."""
        return self._pc is not None and self._pc.signalingState == "stable"

    async def answer(self, offer_sdp: str, ice_servers: Sequence[IceServer] = ()) -> str:
        """The answer to an offer, with all our candidates in it; to a further one if it `continues` the connection.

        Raises RemoteProtocolError when the offer cannot be read, has no use for the peer, asks for a change that needs
        a new connection or crosses an offer of ours, ConfigError when an interface of the settings is missing, and the
        error type of the peer when gathering candidates takes too long.
        """
        offer = self._read_offer(offer_sdp, "offer")
        self._check_codecs(offer, "offer")
        if self._pc is None:
            # A transport per section, until the offer's BUNDLE joins those that it names.
            self._open(await self._ice.trusted(ice_servers), RTCBundlePolicy.MAX_COMPAT)
        else:
            self._check_renegotiation(offer)
        self._add_transceivers(offer)
        await self._set_remote(offer, "offer")
        answer = offer.complete_answer(await self._describe())
        for section in offer.declined:
            log.info("media_section_declined", kind=section.kind, codecs=section.codecs)
        self._negotiated.set()
        return answer

    def continues(self, sdp: str) -> bool:
        """Whether a description is about the transports there are: same ICE credentials, same DTLS fingerprints.

        False for one that cannot be read; `answer` and `accept` say what is wrong with it.
        """
        try:
            description = self._read_offer(sdp, "description")
        except RemoteProtocolError:
            return False
        return self._remote is not None and description.continues(self._remote)

    def _read_offer(self, sdp: str, what: str) -> Description:
        return parse_description(sdp, what, self._takes, self._remote.mids if self._remote is not None else ())

    @abstractmethod
    def _takes(self, section: Section) -> bool:
        """Whether there is a use for a section of an offer that is no data channel; others are declined."""

    def _check_renegotiation(self, offer: Description) -> None:
        assert self._pc is not None
        if self._remote is None or not offer.continues(self._remote):
            raise unusable("the offer is about another connection: other ICE credentials or DTLS fingerprints")
        if not self.is_stable:
            raise unusable(f"the offer crosses another one (signalling is {self._pc.signalingState})")
        offer.check_follows(self._remote)
        # RFC 8842 §5.5: DTLS keeps its roles as long as its connection.
        role = next(iter(self._transports()))._role
        if any(media.dtls is not None and media.dtls.role == role != "auto" for media in offer.session.media):
            raise unusable(f"the offer makes both ends the DTLS {role}")

    def _add_transceivers(self, offer: Description) -> None:
        """One for each new section: for a kind that is not carried yet, the first section we want carries it."""
        assert self._pc is not None
        transceivers = {transceiver.mid: transceiver for transceiver in self._pc.getTransceivers()}
        carried = {
            media.kind
            for media in offer.session.media
            if (mid := media.rtp.muxId) in transceivers
            and mid not in offer.rejected
            and self._carries(transceivers[mid])
            and not self._is_idle(media)
        }
        for media in offer.session.media:
            mid, kind = media.rtp.muxId, media.kind
            if mid in transceivers and mid not in offer.rejected:
                self._follow(transceivers[mid], media)
            if kind == "application" or mid in transceivers:
                continue
            if kind not in carried and mid not in offer.rejected and self._wants(media):
                carried.add(kind)
                self._add_transceiver("video" if kind == "video" else "audio", media)
            else:
                self._pc.addTransceiver(kind, "inactive")

    @abstractmethod
    def _wants(self, media: MediaDescription) -> bool:
        """Whether a section of an offer, as long as it is not rejected, can carry media for us."""

    @abstractmethod
    def _carries(self, transceiver: RTCRtpTransceiver) -> bool:
        """Whether it is one that `_add_transceiver` has added."""

    def _is_idle(self, media: MediaDescription) -> bool:
        """Whether a section that could carry media is offered without any: another one may take its place."""
        return False

    def _follow(self, transceiver: RTCRtpTransceiver, offered: MediaDescription) -> None:  # noqa: B027  some do nothing
        """A section that there is already is offered again, perhaps with other codecs."""

    @abstractmethod
    def _add_transceiver(self, kind: Kind, offered: MediaDescription | None = None) -> None:
        """Let a further section carry media of this kind, the one that is offered or one of ours."""

    @abstractmethod
    def _check_codecs(self, description: Description, what: str) -> None:
        """Raises RemoteProtocolError when the description has no use for the peer."""

    async def accept(self, answer_sdp: str) -> None:
        """Take the answer to our offer and connect.

        Raises RemoteProtocolError when it does not fit the offer, and when there is none that waits for one.
        """
        if self._pc is None or self._pc.signalingState != "have-local-offer":
            raise unusable("an answer, and no offer that waits for one")
        answer = parse_description(answer_sdp, "answer")
        self._check_codecs(answer, "answer")
        await self._set_remote(answer, "answer")
        self._negotiated.set()

    async def _describe(self) -> str:
        """Our offer, or our answer where an offer waits for one, with all candidates. Raises `lost`."""
        assert self._pc is not None
        self._prepare_gathering()
        try:
            async with asyncio.timeout(GATHER_TIMEOUT_S):
                await self._pc.setLocalDescription()
        except TimeoutError:
            raise self._lost(
                f"gathering ICE candidates took more than {GATHER_TIMEOUT_S:g} s: the name server of this machine does"
                " not answer, or the machine is overloaded",
                reason="media",
            ) from None
        except PortsTaken as error:
            raise self._lost(str(error), reason="ports") from None
        if self._remote is None:
            sections = (*self._pc.getTransceivers(), self._pc.sctp)
            self._bundle_mid = next(section.mid for section in sections if section is not None)
        self._version += 1
        # RFC 8829 §5.2.2: one session, whose version grows.
        origin = f"o=- {self._session_id} {self._version} IN IP4 0.0.0.0"
        sdp = re.sub(r"^o=[^\r\n]*", origin, str(self._pc.localDescription.sdp), count=1, flags=re.MULTILINE)
        return self._amended(sdp)

    def _amended(self, sdp: str) -> str:
        """A description of ours as the far end is to see it."""
        return sdp

    def _prepare_gathering(self) -> None:
        assert self._pc is not None
        self._connections = [transport.transport._connection for transport in self._transports()]
        addresses = self._ice.host_addresses()
        for connection in self._connections:
            gather_with(connection, self._ice, self._servers, addresses)

    async def _set_remote(self, description: Description, kind: str) -> None:
        assert self._pc is not None
        self._bundle_mid = self._bundle_mid or description.bundle_mid
        text = description.text_led_by(self._bundle_mid)
        try:
            await self._pc.setRemoteDescription(RTCSessionDescription(text, kind))
        except (AiortcInternalError, InvalidStateError, OperationError, *AIORTC_SDP_ERRORS) as error:
            raise unusable(f"the {kind} cannot be used: {error!r}") from error
        self._remote = description
        await self._candidates.follow(description, self._bundle_mid, self._pc.addIceCandidate)

    def _on_ice_state(self) -> None:
        assert self._pc is not None
        if self._pc.iceConnectionState == "completed":
            self._reached.set()

    def _on_state(self) -> None:
        assert self._pc is not None
        state = self._pc.connectionState
        if state == "connected" and not self._connected.is_set():
            log.info("webrtc_connected", path=self.path)
            self._on_connected()
            for transport in self._connected_transports():
                count_refusals(transport, guard_of(transport.transport._connection).rejected)
            self._was_up = True
            self._connected.set()
        elif state in ("failed", "closed"):
            self._reached.set()
            self._connected.set()
            self._gone.set()

    def _on_connected(self) -> None:  # noqa: B027  who sends has nothing to do
        """Media can flow."""

    def _transports(self) -> set[RTCDtlsTransport]:
        assert self._pc is not None
        transports = {transceiver.receiver.transport for transceiver in self._pc.getTransceivers()}
        return transports if self._pc.sctp is None else {*transports, self._pc.sctp.transport}

    def _connected_transports(self) -> set[RTCDtlsTransport]:
        return {transport for transport in self._transports() if transport.state == "connected"}
