"""What a connected transport cannot decrypt or read is counted, whichever way it has come; what it can is bounded.

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

from bridge.net.aiortc_receiver import EncodedReceiver

PRIVATE_NAMES = (
    "aiortc.rtcdtlstransport:RTCDtlsTransport._rtp_header_extensions_map",
    "aiortc.rtcdtlstransport:RTCDtlsTransport._rtp_router",
    "aiortc.rtcdtlstransport:RTCDtlsTransport._rx_srtp",
    "aiortc.rtcdtlstransport:RTCDtlsTransport._ssl",
    "aiortc.rtcdtlstransport:RtpRouter.receivers",
    "aiortc.rtcdtlstransport:RtpRouter.ssrc_table",
)

# libsrtp keeps a stream for every SSRC that was authentic once, some 0.4 KiB each, and so does a table of aiortc's. A
# far end uses three for a track (media, retransmissions, its reports), and new ones after a reset. Of a stream that is
# forgotten the packets could be played again, by whoever has recorded them: so there is room for hours of resets.
MAX_STREAMS = 256

_UNREADABLE = (ValueError, IndexError, struct.error)


def count_refusals(transport: RTCDtlsTransport, rejected: Counter[str]) -> None:
    """For a transport whose hand-shake is done: `rejected` counts, by reason, from now on."""
    # By name: mypy refuses what only looks like the declared type.
    setattr(transport, "_rx_srtp", _Srtp(transport, rejected))  # noqa: B010
    setattr(transport, "_ssl", _Dtls(transport, rejected))  # noqa: B010


class _Srtp:
    """Decrypts. What is authentic and cannot be read is refused as what is forged.

    Of `MAX_STREAMS` streams and what flows through receivers it knows all; of more, those that were used last.
    """

    def __init__(self, transport: RTCDtlsTransport, rejected: Counter[str]) -> None:
        self._session: Any = transport._rx_srtp
        self._transport = transport
        self._rejected = rejected
        self._ssrcs: dict[int, None] = {}  # the one used last stands last

    def unprotect(self, packet: bytes) -> bytes:
        # As the transport is about to read it: receivers change what reads the extensions.
        extensions = self._transport._rtp_header_extensions_map
        read = self._session.unprotect
        return self._readable(packet, packet[8:12], read, lambda plain: wire.RtpPacket.parse(plain, extensions))

    def unprotect_rtcp(self, packet: bytes) -> bytes:
        return self._readable(packet, packet[4:8], self._session.unprotect_rtcp, wire.RtcpPacket.parse)

    def _readable(
        self, packet: bytes, ssrc: bytes, decrypt: Callable[[bytes], bytes], parse: Callable[[bytes], object]
    ) -> bytes:
        try:
            plain = decrypt(packet)
        except SrtpError:
            self._rejected["undecryptable"] += 1
            raise
        self._note(int.from_bytes(ssrc, "big"))
        try:
            parse(plain)
        except _UNREADABLE as error:
            self._rejected["malformed"] += 1
            raise SrtpError(f"no RTP packet: {error}") from error
        return plain

    def _note(self, ssrc: int) -> None:
        """Know a stream as the one used last, and forget what has rested longest if there are too many."""
        self._ssrcs.pop(ssrc, None)
        self._ssrcs[ssrc] = None
        if len(self._ssrcs) <= MAX_STREAMS:
            return
        router = self._transport._rtp_router
        receivers = [receiver for receiver in router.receivers if isinstance(receiver, EncodedReceiver)]
        # What flows takes the short way, unnoted.
        resting = (each for each in self._ssrcs if not any(receiver.expects(each) for receiver in receivers))
        oldest = next(resting, ssrc)  # a far end may announce as many as it likes, and use them
        del self._ssrcs[oldest]
        self._session.remove_stream(oldest)
        router.ssrc_table.pop(oldest, None)


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
