"""One unit for many far ends: its packets are laid out once, then encrypted in place and sent many at a time.

What every far end has of its own are its keys and its address. The rest of what sending costs is spent for all of them
together: numbers, headers, one copy of the payload; and where the kernel cuts datagrams itself (UDP_SEGMENT, udp(7),
since Linux 4.18) one system call hands it all packets of a slice.
"""

import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from struct import pack
from typing import NamedTuple

from aiortc import RTCDtlsTransport
from pylibsrtp import Session
from pylibsrtp._binding import ffi
from pylibsrtp._binding import lib as srtp

from bridge.net.guard import GuardedProtocol
from bridge.net.media_path import MediaExit
from bridge.net.packetize import rtp_header

PRIVATE_NAMES = (
    "aiortc.rtcdtlstransport:RTCDtlsTransport._ssl",
    "aiortc.rtcdtlstransport:RTCDtlsTransport._tx_srtp",
    "pylibsrtp:Session._srtp",
    "pylibsrtp._binding:lib",
)

# Of the kernel: segments of one call (UDP_MAX_SEGMENTS, include/linux/udp.h), and bytes of one IPv4 datagram less its
# headers and some room.
MAX_SEGMENTS = 64
MAX_RUN_BYTES = 65_000
_UDP_SEGMENT = 103  # include/uapi/linux/udp.h; Python has no name for it
# What the kernel says where it cannot cut: an old one, a device without checksums, a path with a smaller MTU.
_CANNOT_CUT = frozenset({errno.EINVAL, errno.EIO, errno.ENOPROTOOPT, errno.EMSGSIZE, errno.EOPNOTSUPP})
# RFC 7714 §13: 16 bytes of tag with AES-GCM; RFC 3711 §5.2: 10 with HMAC-SHA1.
_GCM_TAG_BYTES, _SHA1_TAG_BYTES = 16, 10

# One of a process: what is in it is sent before anybody else's turn, and it stays in the cache.
_memory = ffi.new("unsigned char[]", MAX_RUN_BYTES + 2048)
_bytes = ffi.buffer(_memory)
_view = memoryview(_bytes)
_n_bytes = ffi.new("int *")


class Format(NamedTuple):
    """What sets the packets of one far end apart from those of another.

    payload_type, extension  as they were agreed on.
    flipped    bits of the sequence number that are the other way round.
    tag_bytes  room that encryption takes behind each packet.
    """

    payload_type: int
    extension: bytes
    flipped: int
    tag_bytes: int


@dataclass(slots=True)
class Run:
    """Packets that one system call can take: all of one length, but for the last, which may be shorter.

    layout   the packets, with room behind each.  packets: where each begins, and its length.
    """

    layout: bytes
    packets: list[tuple[int, int]]
    ancillary: list[tuple[int, int, bytes]] = field(default_factory=list)


def lay_out(
    payloads: Sequence[bytes], first_number: int, timestamp: int, ssrc: int, format: Format, *, marks_end: bool
) -> list[Run]:
    """The packets of one unit. `marks_end`: the last one bears the marker."""
    room, last = bytes(format.tag_bytes), len(payloads) - 1 if marks_end else -1
    runs: list[Run] = []
    parts: list[bytes] = []
    packets: list[tuple[int, int]] = []
    at = segment = 0
    is_open = False  # whether another packet may follow in the run

    def close() -> None:
        ancillary = [(socket.SOL_UDP, _UDP_SEGMENT, pack("=H", segment))] if len(packets) > 1 else []
        runs.append(Run(b"".join(parts), packets.copy(), ancillary))
        parts.clear()
        packets.clear()

    for index, payload in enumerate(payloads):
        number = (first_number + index ^ format.flipped) & 0xFFFF
        header = rtp_header(format.payload_type, index == last, number, timestamp, ssrc, format.extension)
        n_bytes = len(header) + len(payload)
        whole = n_bytes + len(room)
        if packets and not (is_open and whole <= segment and at + whole <= MAX_RUN_BYTES):
            close()
        if not packets:
            at, segment = 0, whole
        parts += (header, payload, room)
        packets.append((at, n_bytes))
        at += whole
        is_open = whole == segment and len(packets) < MAX_SEGMENTS
    if packets:
        close()
    return runs


class WireExit(MediaExit):
    """For one transport whose DTLS hand-shake is done. What its socket cannot take at once is dropped and counted."""

    def __init__(self, transport: RTCDtlsTransport) -> None:
        super().__init__(transport)
        session: Session = transport._tx_srtp
        self._session = session  # frees what follows at its end
        self._state = session._srtp[0]
        assert transport._ssl is not None  # since the hand-shake
        is_gcm = b"GCM" in transport._ssl.get_selected_srtp_profile()
        self.tag_bytes = _GCM_TAG_BYTES if is_gcm else _SHA1_TAG_BYTES
        self.dropped_packets = 0
        self._kernel_cuts = True

    def send_runs(self, runs: Sequence[Run]) -> None:
        """Encrypt and send what was laid out for this exit. Raises ConnectionError once the connection is gone."""
        pair = self._pair()
        protocol, address = pair.protocol, pair.remote_addr
        direct = protocol.socket if isinstance(protocol, GuardedProtocol) else None
        protect, state = srtp.srtp_protect, self._state
        for run in runs:
            _bytes[: len(run.layout)] = run.layout
            for start, n_bytes in run.packets:
                _n_bytes[0] = n_bytes
                if protect(state, _memory + start, _n_bytes):
                    raise ConnectionError("SRTP encrypts no more")
            if direct is not None:
                self._send_directly(direct, run, address)
            else:
                for start, n_bytes in run.packets:
                    protocol.transport.sendto(bytes(_view[start : start + n_bytes + self.tag_bytes]), address)

    def report(self, packet: bytes) -> None:
        """Encrypt and send an RTCP packet. Raises ConnectionError once the connection is gone."""
        pair = self._pair()
        pair.protocol.transport.sendto(self._session.protect_rtcp(packet), pair.remote_addr)

    def _send_directly(self, direct: socket.socket, run: Run, address: tuple[str, int]) -> None:
        try:
            if self._kernel_cuts or not run.ancillary:
                direct.sendmsg((_view[: len(run.layout)],), run.ancillary, 0, address)
                return
        except OSError as error:
            if not run.ancillary or error.errno not in _CANNOT_CUT:
                self.dropped_packets += len(run.packets)
                return
            self._kernel_cuts = False
        for start, n_bytes in run.packets:
            try:
                direct.sendto(_view[start : start + n_bytes + self.tag_bytes], address)
            except OSError:
                self.dropped_packets += 1
