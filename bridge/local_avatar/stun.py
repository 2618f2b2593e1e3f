"""A STUN server (RFC 8489) as far as ICE needs one: it tells who asks under which address that came."""

import asyncio
import ipaddress
from struct import Struct
from typing import Any, cast

_HEADER = Struct("!HHI12s")
_BINDING_REQUEST, _BINDING_SUCCESS = 0x0001, 0x0101
_MAGIC_COOKIE = 0x2112A442
_XOR_MAPPED_ADDRESS = 0x0020


def answer_binding(request: bytes, host: str, port: int) -> bytes:
    """The answer to a binding request from this address; empty for anything else."""
    if len(request) < _HEADER.size:
        return b""
    kind, length, cookie, transaction = _HEADER.unpack_from(request)
    if (kind, cookie, length) != (_BINDING_REQUEST, _MAGIC_COOKIE, len(request) - _HEADER.size):
        return b""
    address = ipaddress.ip_address(host)
    # §14.2: the cookie, and behind it the transaction, hide the address from routers that rewrite what they know.
    key = _MAGIC_COOKIE.to_bytes(4, "big") + transaction
    hidden = bytes(a ^ b for a, b in zip(address.packed, key, strict=False))
    value = bytes([0, 1 if address.version == 4 else 2]) + (port ^ _MAGIC_COOKIE >> 16).to_bytes(2, "big") + hidden
    attribute = _XOR_MAPPED_ADDRESS.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value
    return _HEADER.pack(_BINDING_SUCCESS, len(attribute), _MAGIC_COOKIE, transaction) + attribute


class StunServer(asyncio.DatagramProtocol):
    """Answers every binding request that reaches its socket."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The loop's own transport is one by its methods, not by its type.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        answer = answer_binding(data, addr[0].partition("%")[0], addr[1])
        if answer:
            self._transport.sendto(answer, addr)
