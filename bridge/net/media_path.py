"""The short way of media: from the socket to the encoded receivers within the call that read the datagram.

aiortc takes each of some 350 packets a second through a queue, a task that wakes up, a clock and a packet object with
all its header extensions, which costs as much again as decrypting and depacketizing it. What the short way does not
know (RTCP, a new SSRC, anything while aiortc is still working on earlier datagrams) goes the long way, which also
teaches the router new SSRCs.
"""

import struct
from collections import Counter

from aiortc import RTCDtlsTransport
from pylibsrtp import Session
from pylibsrtp._binding import ffi
from pylibsrtp._binding import lib as srtp

from bridge.net.aiortc_receiver import EncodedReceiver

PRIVATE_NAMES = (
    "aioice.ice:Connection._queue",
    "aiortc.rtcdtlstransport:RTCDtlsTransport._rtp_router",
    "aiortc.rtcdtlstransport:RTCDtlsTransport._rx_srtp",
    "aiortc.rtcdtlstransport:RtpRouter.ssrc_table",
    "aiortc.rtcicetransport:RTCIceTransport._connection",
    "pylibsrtp:Session._buffer",
    "pylibsrtp:Session._cdata",
    "pylibsrtp:Session._srtp",
    "pylibsrtp._binding:lib",
)

_HEADER = struct.Struct("!BBHII")
# Second byte of an RTCP packet: packet types 192 to 223 (RFC 5761 §4).
_RTCP = range(192, 224)


class MediaPath:
    """For one transport whose DTLS hand-shake is done. `rejected` counts what is dropped, by reason."""

    def __init__(self, transport: RTCDtlsTransport, rejected: Counter[str]) -> None:
        self._rejected = rejected
        self._queue = transport.transport._connection._queue
        self._receivers = transport._rtp_router.ssrc_table
        # What Session.unprotect does, less its checks, an allocation and two copies, which cost as much as libsrtp.
        session: Session = transport._rx_srtp
        self._session = session  # frees what follows at its end
        self._state, self._memory, self._packet = session._srtp[0], session._cdata, session._buffer
        self._n_bytes = ffi.new("int *")

    def take(self, data: bytes) -> bool:
        """Deliver one SRTP packet of 12 to 1500 bytes; False: it is for the long way."""
        if data[1] in _RTCP or not self._queue.empty():
            return False
        receiver = self._receivers.get(int.from_bytes(data[8:12], "big"))
        if not isinstance(receiver, EncodedReceiver):
            return False
        packet = self._packet
        packet[: len(data)] = data
        self._n_bytes[0] = len(data)
        if srtp.srtp_unprotect(self._state, self._memory, self._n_bytes):
            self._rejected["undecryptable"] += 1
            return True
        # RFC 3550 §5.1: contributing sources, a header extension and padding stand around the payload.
        first, second, sequence_number, rtp_timestamp, ssrc = _HEADER.unpack_from(packet)
        start, end, captured_ntp_ns = 12 + 4 * (first & 0x0F), self._n_bytes[0], 0
        if first & 0x10:
            extension = start
            start += 4 + 4 * int.from_bytes(packet[start + 2 : start + 4], "big")
            if receiver.capture_time_id:
                captured_ntp_ns = receiver.capture_time_ns(packet[extension:start], is_mixed=first & 0x0F != 0)
        if first & 0x20:
            end -= packet[end - 1][0]
        if start > end:
            self._rejected["malformed"] += 1
        else:
            marker, payload_type = second >= 0x80, second & 0x7F
            payload = packet[start:end]
            receiver.on_rtp(ssrc, payload_type, sequence_number, rtp_timestamp, marker, payload, captured_ntp_ns)
        return True
