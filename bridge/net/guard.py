"""What may reach aiortc from the network.

One stray datagram closes a stock RTCPeerConnection: an empty one (IndexError in the DTLS transport) or one above
1500 bytes that looks like SRTP (ValueError from pylibsrtp), from anybody who finds the port. Importing this module puts
a guard before every ICE socket of the process: it replaces `aioice.ice.StunProtocol`, the one class that aioice makes
its sockets' protocols from, since aioice offers no hook of its own.
"""

import asyncio
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import aioice.ice
from aioice import Connection, stun

from bridge.media.clock import NS_PER_S
from bridge.net.drain import Drain, drain_of

PRIVATE_NAMES = (
    "aioice.ice:StunProtocol",
    "aioice.ice:StunProtocol.connection_made",
    "aioice.ice:StunProtocol.datagram_received",
    "aioice.ice:StunProtocol.receiver",
    "aioice.ice:StunProtocol.send_stun",
    "aioice.ice:StunProtocol.transactions",
    "aioice.ice:Connection._queue",
    "aioice.ice:Connection.data_received",
    "aioice.stun:Message.check_message_integrity",
    "aioice.stun:parse_message",
)

MIN_BYTES = 12  # the fixed RTP header (RFC 3550 §5.1); DTLS records and STUN messages start with more
MAX_BYTES = 1500  # pylibsrtp's buffer, and the Ethernet MTU
# Peers pace their checks by at least 5 ms and usually 50 ms (RFC 8445 §14.2); one burst covers all pairs of a
# check list (100, §6.1.2.5). Addresses that have passed a check are not limited.
STUN_PER_S = 50.0
STUN_BURST = 100.0
# A peer that is really there uses one address, and a few more while it roams; beyond that the oldest is forgotten.
MAX_VERIFIED = 64
# 2 s of a 10 Mb/s stream: more can only pile up while nobody reads.
MAX_QUEUED = 2048

Address = tuple[str, int]
UnguardedProtocol = aioice.ice.StunProtocol


class DatagramGuard:
    """Decides which datagrams of one ICE connection are handled; the rest is dropped and counted by reason.

    Media and DTLS pass when their sender has passed a STUN check whose MESSAGE-INTEGRITY is right, in either direction
    (RFC 8445 §7); a TURN server's relayed data shows the peer's address and follows the same rule. STUN from
    others is limited to `STUN_PER_S`, and a request without valid MESSAGE-INTEGRITY gets no answer.

    take_media     offered every admitted media packet; False sends it the long way. None: all go there.
    round_trip_ns  the shortest of our checks to its answer; 0: none has been answered yet.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.rejected: Counter[str] = Counter()
        self.take_media: Callable[[bytes], bool] | None = None
        self.round_trip_ns = 0
        self._asked_s: dict[bytes, float] = {}  # by transaction; 0 for those that were repeated
        self._sockets: list[asyncio.BaseTransport] = []
        self._is_closed = False
        self._clock = clock
        self._verified: dict[Address, None] = {}  # the one verified last stands last
        self._tokens = STUN_BURST
        self._tokens_at_s = clock()

    def watch(self, socket: asyncio.BaseTransport) -> None:
        """Know a socket of the connection; one that opens after its end is closed."""
        if self._is_closed:
            socket.close()
        else:
            self._sockets.append(socket)

    def close_sockets(self) -> None:
        """Close what the connection left open: cancelled while gathering, it has lost its sockets itself."""
        self._is_closed = True
        self.take_media = None
        for transport in self._sockets:
            transport.close()
        # A TURN socket refers to its connection, and `_guards` would keep both for good.
        self._sockets.clear()

    def note_request(self, transaction_id: bytes) -> None:
        """We send a STUN request, for the first time or again."""
        self._asked_s[transaction_id] = 0.0 if transaction_id in self._asked_s else self._clock()
        if len(self._asked_s) > MAX_VERIFIED:
            del self._asked_s[next(iter(self._asked_s))]

    def takes(self, data: bytes, source: Address) -> bool:
        """Whether this was media of a verified sender that `take_media` has taken: nearly every datagram is."""
        return (
            self.take_media is not None
            and MIN_BYTES <= len(data) <= MAX_BYTES
            and 127 < data[0] < 192
            and source in self._verified
            and self.take_media(data)
        )

    def admits(self, data: bytes, source: Address, protocol: UnguardedProtocol) -> bool:
        """Whether a datagram that came in on one of the connection's sockets may be handled."""
        reason = self._objection(data, source, protocol)
        if reason is not None:
            self.rejected[reason] += 1
        return reason is None

    def _objection(self, data: bytes, source: Address, protocol: UnguardedProtocol) -> str | None:
        size = len(data)
        if size < MIN_BYTES:
            return "short" if size else "empty"
        if size > MAX_BYTES:
            return "oversized"
        # First byte: RFC 7983 §7. 0 to 3 STUN, 20 to 63 DTLS, 128 to 191 RTP and RTCP.
        first = data[0]
        if first < 4:
            return self._objection_to_stun(data, source, protocol)
        if source not in self._verified:
            return "unverified"
        if not (127 < first < 192 or 19 < first < 64):
            return "unknown_protocol"
        if protocol.receiver._queue.qsize() >= MAX_QUEUED:
            return "overrun"
        return None

    def _objection_to_stun(self, data: bytes, source: Address, protocol: UnguardedProtocol) -> str | None:
        if source not in self._verified and not self._take_token():
            return "stun_rate"
        try:
            message = stun.parse_message(data)
        except (ValueError, struct.error):
            return "stun_malformed"
        if message.message_class == stun.Class.REQUEST:
            if not message.check_message_integrity(protocol.receiver.local_password.encode()):
                return "stun_unauthenticated"
            self._verify(source)
        elif message.message_class in (stun.Class.RESPONSE, stun.Class.ERROR):
            if message.transaction_id not in protocol.transactions:
                return "stun_unexpected"
            password = protocol.receiver.remote_password
            # A STUN server's answer carries no integrity: it is handled, and proves nothing about its sender.
            if password is not None and message.check_message_integrity(password.encode()):
                self._verify(source)
                if asked_s := self._asked_s.pop(message.transaction_id, 0.0):
                    sample_ns = max(1, round((self._clock() - asked_s) * NS_PER_S))
                    self.round_trip_ns = min(self.round_trip_ns or sample_ns, sample_ns)
        return None

    def _verify(self, source: Address) -> None:
        self._verified.pop(source, None)
        self._verified[source] = None
        if len(self._verified) > MAX_VERIFIED:
            del self._verified[next(iter(self._verified))]

    def _take_token(self) -> bool:
        now_s = self._clock()
        self._tokens = min(STUN_BURST, self._tokens + (now_s - self._tokens_at_s) * STUN_PER_S)
        self._tokens_at_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


_guards: "WeakKeyDictionary[Connection, DatagramGuard]" = WeakKeyDictionary()


def guard_of(connection: Connection) -> DatagramGuard:
    """The guard that all sockets of an ICE connection share."""
    guard = _guards.get(connection)
    if guard is None:
        guard = _guards[connection] = DatagramGuard()
    return guard


class GuardedProtocol(UnguardedProtocol):
    """aioice's protocol of one socket, behind the guard of its connection."""

    def __init__(self, receiver: Connection) -> None:
        super().__init__(receiver)
        self._guard = guard_of(receiver)
        self._drain: Drain | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._guard.watch(transport)
        self._drain = drain_of(transport)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._drain is not None:
            self._drain.close()
        super().connection_lost(exc)

    @property
    def socket(self) -> socket.socket | None:
        """To send past the event loop's transport, without waiting; None: there is a relay in its place."""
        return self._drain.socket if self._drain is not None else None

    def send_stun(self, message: stun.Message, addr: Address) -> None:
        if message.message_class == stun.Class.REQUEST:
            self._guard.note_request(message.transaction_id)
        super().send_stun(message, addr)

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        assert isinstance(data, bytes)
        if self._take(data, addr) and self._drain is not None:
            try:
                self._drain.read(self._take, MAX_BYTES + 1)
            except OSError as error:
                self.error_received(error)

    def _take(self, data: bytes, addr: tuple[Any, ...]) -> bool:
        """Handle one datagram; whether more are likely to wait. A picture ends with a packet that says so."""
        source = (addr[0], addr[1])
        if self._guard.takes(data, source):
            return data[1] < 0x80
        if self._guard.admits(data, source, self):
            if data[0] < 4:
                super().datagram_received(data, addr)
            else:
                # Straight on: looking for STUN in every media packet is what aioice would do first.
                self.receiver.data_received(data, self.local_candidate.component)
        return True


setattr(aioice.ice, "StunProtocol", GuardedProtocol)  # noqa: B010  mypy refuses to assign to a type
