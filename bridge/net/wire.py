"""The way out of media: packets are encrypted in place and sent many at a time.

Where the kernel cuts datagrams itself (UDP_SEGMENT, udp(7), since Linux 4.18) one system call hands it all packets of a
slice. One unit for many far ends is laid out once: what every one has of its own are its keys and its address, and the
rest of what sending costs is spent for all of them together: numbers, headers, one copy of the payload.
"""

import errno
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from struct import pack
from typing import Any, NamedTuple

from aioice.ice import CandidatePair
from aiortc import RTCDtlsTransport
from pylibsrtp import Session
from pylibsrtp._binding import ffi
from pylibsrtp._binding import lib as srtp

from bridge.net.guard import GuardedProtocol
from bridge.net.packetize import rtp_header

PRIVATE_NAMES = (
    "aioice.ice:Connection._nominated",
    "aiortc.rtcdtlstransport:RTCDtlsTransport._ssl",
    "aiortc.rtcdtlstransport:RTCDtlsTransport._tx_srtp",
    "aiortc.rtcicetransport:RTCIceTransport._connection",
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
    last = len(payloads) - 1 if marks_end else -1

    def header(index: int) -> bytes:
        number = (first_number + index ^ format.flipped) & 0xFFFF
        return rtp_header(format.payload_type, index == last, number, timestamp, ssrc, format.extension)

    return gather(((header(index), payload) for index, payload in enumerate(payloads)), format.tag_bytes)


def gather(packets: Iterable[tuple[bytes, ...]], tag_bytes: int) -> list[Run]:
    """Packets, each of some parts, with `tag_bytes` of room behind it, in as few runs as keep their order."""
    room = bytes(tag_bytes)
    runs: list[Run] = []
    parts: list[bytes] = []
    places: list[tuple[int, int]] = []
    at = segment = 0
    is_open = False  # whether another packet may follow in the run

    def close() -> None:
        ancillary = [(socket.SOL_UDP, _UDP_SEGMENT, pack("=H", segment))] if len(places) > 1 else []
        runs.append(Run(b"".join(parts), places.copy(), ancillary))
        parts.clear()
        places.clear()

    for packet in packets:
        n_bytes = sum(map(len, packet))
        whole = n_bytes + tag_bytes
        if places and not (is_open and whole <= segment and at + whole <= MAX_RUN_BYTES):
            close()
        if not places:
            at, segment = 0, whole
        parts += packet
        parts.append(room)
        places.append((at, n_bytes))
        at += whole
        is_open = whole == segment and len(places) < MAX_SEGMENTS
    if places:
        close()
    return runs


class WireExit:
    """For one transport whose DTLS hand-shake is done: packets go from here to the socket, within the call.

    dropped_packets  of `send_runs`, that the socket could not take at once.
    """

    def __init__(self, transport: RTCDtlsTransport) -> None:
        self._transport = transport
        self._pairs = transport.transport._connection._nominated
        session: Session = transport._tx_srtp
        self._session = session  # frees what follows at its end
        self._state = session._srtp[0]
        assert transport._ssl is not None  # since the hand-shake
        is_gcm = b"GCM" in transport._ssl.get_selected_srtp_profile()
        self.tag_bytes = _GCM_TAG_BYTES if is_gcm else _SHA1_TAG_BYTES
        self.dropped_packets = 0
        self._kernel_cuts = True

    def send(self, packets: Iterable[bytes]) -> None:
        """Encrypt and send RTP packets; what the socket cannot take at once waits in asyncio's transport.

        Raises ConnectionError once the connection is gone.
        """
        pair = self._pair()
        transport: Any = pair.protocol.transport
        direct = _socket_of(pair)
        if direct is not None and transport.get_write_buffer_size():
            direct = None  # nothing overtakes what waits
        for run in gather(((packet,) for packet in packets), self.tag_bytes):
            self._encrypt(run)
            left = run.packets
            if direct is not None and (left := self._send_directly(direct, run, pair.remote_addr)):
                direct = None
            self._pass_on(pair, left)

    def send_runs(self, runs: Sequence[Run]) -> None:
        """Encrypt and send what was laid out for this exit; what the socket cannot take at once is dropped.

        Raises ConnectionError once the connection is gone.
        """
        pair = self._pair()
        direct = _socket_of(pair)
        for run in runs:
            self._encrypt(run)
            if direct is not None:
                self.dropped_packets += len(self._send_directly(direct, run, pair.remote_addr))
            else:
                self._pass_on(pair, run.packets)

    def report(self, packet: bytes) -> None:
        """Encrypt and send an RTCP packet. Raises ConnectionError once the connection is gone."""
        pair = self._pair()
        pair.protocol.transport.sendto(self._session.protect_rtcp(packet), pair.remote_addr)

    def _pair(self) -> CandidatePair:
        pair = self._pairs.get(1)  # the one component of bundled media (RFC 8445 §13)
        if pair is None or self._transport.state != "connected":
            raise ConnectionError("the media connection is gone")
        return pair

    def _encrypt(self, run: Run) -> None:
        """Into the memory. Raises ConnectionError."""
        _bytes[: len(run.layout)] = run.layout
        protect, state = srtp.srtp_protect, self._state
        for start, n_bytes in run.packets:
            _n_bytes[0] = n_bytes
            if protect(state, _memory + start, _n_bytes):
                raise ConnectionError("SRTP encrypts no more")

    def _send_directly(self, direct: socket.socket, run: Run, address: tuple[str, int]) -> list[tuple[int, int]]:
        """Send what is in the memory; the packets that the socket does not take."""
        try:
            if self._kernel_cuts or not run.ancillary:
                direct.sendmsg((_view[: len(run.layout)],), run.ancillary, 0, address)
                return []
        except OSError as error:
            if not run.ancillary or error.errno not in _CANNOT_CUT:
                return run.packets
            self._kernel_cuts = False
        for index, (start, n_bytes) in enumerate(run.packets):
            try:
                direct.sendto(_view[start : start + n_bytes + self.tag_bytes], address)
            except OSError:
                return run.packets[index:]
        return []

    def _pass_on(self, pair: CandidatePair, packets: Sequence[tuple[int, int]]) -> None:
        """Give packets in the memory to asyncio's transport, or a relay's."""
        for start, n_bytes in packets:
            pair.protocol.transport.sendto(bytes(_view[start : start + n_bytes + self.tag_bytes]), pair.remote_addr)


def _socket_of(pair: CandidatePair) -> socket.socket | None:
    """To send past the event loop's transport; None: there is a relay in its place."""
    return pair.protocol.socket if isinstance(pair.protocol, GuardedProtocol) else None
