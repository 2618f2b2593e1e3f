"""What a connected transport cannot decrypt or read is counted, whichever way it has come.

Whoever has passed a STUN check, or writes the address of one who has, can send anything that looks like DTLS, SRTP or
SRTCP. aiortc drops what proves to be nothing without a word; an error that it does not expect while it reads would
end its task, and with it the connection.
"""

import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

from aiortc import RTCDtlsTransport
from aiortc import rtp as wire
from OpenSSL import SSL
from pylibsrtp import Error as SrtpError

PRIVATE_NAMES = (
    "aiortc.rtcdtlstransport:RTCDtlsTransport._rtp_header_extensions_map",
    "aiortc.rtcdtlstransport:RTCDtlsTransport._rx_srtp",
    "aiortc.rtcdtlstransport:RTCDtlsTransport._ssl",
)

_UNREADABLE = (ValueError, IndexError, struct.error)


def count_refusals(transport: RTCDtlsTransport, rejected: Counter[str]) -> None:
    """For a transport whose hand-shake is done: `rejected` counts, by reason, from now on."""
    # By name: mypy refuses what only looks like the declared type.
    setattr(transport, "_rx_srtp", _Srtp(transport, rejected))  # noqa: B010
    setattr(transport, "_ssl", _Dtls(transport, rejected))  # noqa: B010


class _Srtp:
    """Decrypts. What is authentic and cannot be read is refused as what is forged."""

    def __init__(self, transport: RTCDtlsTransport, rejected: Counter[str]) -> None:
        self._session: Any = transport._rx_srtp
        self._transport = transport
        self._rejected = rejected

    def unprotect(self, packet: bytes) -> bytes:
        # As the transport is about to read it: receivers change what reads the extensions.
        extensions = self._transport._rtp_header_extensions_map
        return self._readable(packet, self._session.unprotect, lambda p: wire.RtpPacket.parse(p, extensions))

    def unprotect_rtcp(self, packet: bytes) -> bytes:
        return self._readable(packet, self._session.unprotect_rtcp, wire.RtcpPacket.parse)

    def _readable(self, packet: bytes, decrypt: Callable[[bytes], bytes], parse: Callable[[bytes], object]) -> bytes:
        try:
            plain = decrypt(packet)
        except SrtpError:
            self._rejected["undecryptable"] += 1
            raise
        try:
            parse(plain)
        except _UNREADABLE as error:
            self._rejected["malformed"] += 1
            raise SrtpError(f"no RTP packet: {error}") from error
        return plain


class _Dtls:
    """The DTLS connection; a datagram that gives nothing to read and nothing to answer came to nothing."""

    def __init__(self, transport: RTCDtlsTransport, rejected: Counter[str]) -> None:
        self._connection: Any = transport._ssl
        self._rejected = rejected
        self._has_read_nothing = False

    def recv(self, n_bytes: int) -> bytes:
        try:
            data: bytes = self._connection.recv(n_bytes)
        except SSL.ZeroReturnError:
            raise  # the far end's farewell
        except SSL.Error:
            self._has_read_nothing = True
            raise
        return data

    def bio_read(self, n_bytes: int) -> bytes:
        has_read_nothing, self._has_read_nothing = self._has_read_nothing, False
        try:
            data: bytes = self._connection.bio_read(n_bytes)
        except SSL.Error:
            self._rejected["undecryptable"] += has_read_nothing
            raise
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)
