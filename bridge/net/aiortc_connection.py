"""aiortc's peer connection, with what it lacks at its beginning and at its end."""

import asyncio
import contextlib

from aiortc import RTCCertificate, RTCConfiguration, RTCPeerConnection
from aiortc.exceptions import InvalidStateError
from aiortc.rtcdtlstransport import SRTPProtectionProfile
from aiortc.rtcsctptransport import Chunk
from OpenSSL import SSL

PRIVATE_NAMES = (
    "aiortc.rtcdtlstransport:RTCCertificate._create_ssl_context",
    "aiortc.rtcdtlstransport:SRTPProtectionProfile",
    "aiortc.rtcpeerconnection:RTCPeerConnection._RTCPeerConnection__certificates",
    "aiortc.rtcpeerconnection:RTCPeerConnection._RTCPeerConnection__connect",
    "aiortc.rtcpeerconnection:RTCPeerConnection._RTCPeerConnection__createSctpTransport",
    "aiortc.rtcsctptransport:RTCSctpTransport._send_chunk",
)

# aiortc's own list, and the same for far ends whose certificate is an RSA one, as GStreamer's is; WebRTC asks for
# forward secrecy, and for no more than that (RFC 8827 §6.5).
_CIPHERS = ":".join(
    f"ECDHE-{key}-{cipher}"
    for key in ("ECDSA", "RSA")
    for cipher in ("AES128-GCM-SHA256", "CHACHA20-POLY1305", "AES128-SHA", "AES256-SHA")
)


class _Certificate(RTCCertificate):
    def _create_ssl_context(self, srtp_profiles: list[SRTPProtectionProfile]) -> SSL.Context:
        context = super()._create_ssl_context(srtp_profiles)
        context.set_cipher_list(_CIPHERS.encode())
        return context


class ClosablePeerConnection(RTCPeerConnection):
    """One that shakes hands with whatever certificate, and may be closed while it connects, from either end.

    A description that comes while it does so waits: aiortc would start none of its tracks, then or later. Once it is
    closed, nothing of it connects any more.
    """

    def __init__(self, configuration: RTCConfiguration) -> None:
        super().__init__(configuration)
        self._RTCPeerConnection__certificates = [_Certificate.generateCertificate()]
        self._connecting = asyncio.Lock()

    async def close(self) -> None:
        await super().close()
        async with self._connecting:
            pass  # what was connecting has failed, and takes a moment to find out

    async def _RTCPeerConnection__connect(self) -> None:
        try:
            async with self._connecting:
                await getattr(super(), "_RTCPeerConnection__connect")()  # noqa: B009  mypy knows no mangled names
        except InvalidStateError:
            # It runs in a task that nobody waits for, and goes on with the next section after the close.
            if self.signalingState != "closed":
                raise

    def _RTCPeerConnection__createSctpTransport(self) -> None:
        getattr(super(), "_RTCPeerConnection__createSctpTransport")()  # noqa: B009
        sctp = self.sctp
        assert sctp is not None
        send = sctp._send_chunk

        async def send_or_drop(chunk: Chunk) -> None:
            # Its timers send in tasks that nobody waits for, also when the connection has just gone.
            with contextlib.suppress(ConnectionError):
                await send(chunk)

        setattr(sctp, "_send_chunk", send_or_drop)  # noqa: B010  mypy refuses to assign to a method
