"""Reads on where asyncio stops: its transports take one datagram off a socket for each turn of the event loop.

A picture is some ten datagrams that arrive together. asyncio's own way costs a poll of all sockets, a callback and a
buffer of 256 KiB for each of them, as much as decrypting it; this way costs one system call.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

# From one socket in one turn: a large keyframe at once. What a flood sends waits for the other sockets' turn.
MAX_DRAINED = 64


class Drain:
    """What waits on a non-blocking datagram socket, which it closes at its end."""

    def __init__(self, duplicate: socket.socket) -> None:
        self.socket = duplicate

    def read(self, take: Callable[[bytes, tuple[Any, ...]], bool], max_bytes: int) -> None:
        """Give each datagram and its source to `take`, cut after `max_bytes`, as long as it returns true.

        Raises OSError for what the network answered to datagrams that were sent.
        """
        receive = self.socket.recvfrom
        for _ in range(MAX_DRAINED):
            try:
                data, source = receive(max_bytes)
            except (BlockingIOError, InterruptedError):
                return
            if not take(data, source):
                return

    def close(self) -> None:
        self.socket.close()


def drain_of(transport: asyncio.BaseTransport) -> Drain | None:
    """For the socket of a datagram transport; None: it has none to give, and asyncio hands over every datagram.

    It reads a duplicate of the file descriptor, which is the same socket to the kernel, and touches nothing private. A
    TURN server's transport has no socket of its own, and another event loop may not give it away.
    """
    shown = transport.get_extra_info("socket")
    if getattr(shown, "type", None) != socket.SOCK_DGRAM:
        return None
    try:
        duplicate: socket.socket = shown.dup()
    except (AttributeError, TypeError, OSError):
        return None
    duplicate.setblocking(False)
    return Drain(duplicate)
