import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from bridge.net.drain import MAX_DRAINED, Drain, drain_of

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two connected datagram sockets, the first of them not blocking."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


def read(drain: Drain, max_bytes: int = 100, stop_at: bytes = b"") -> list[bytes]:
    seen: list[bytes] = []

    def take(data: bytes, source: Any) -> bool:
        seen.append(data)
        return data != stop_at

    drain.read(take, max_bytes)
    return seen


def test_all_that_waits_is_read_and_then_nothing(pair: Pair) -> None:
    ours, theirs = pair
    for data in (b"one", b"two", b"three"):
        theirs.send(data)
    assert read(Drain(ours)) == [b"one", b"two", b"three"]
    assert read(Drain(ours)) == []


def test_reading_ends_where_the_taker_says_so(pair: Pair) -> None:
    ours, theirs = pair
    for data in (b"one", b"two", b"three"):
        theirs.send(data)
    assert read(Drain(ours), stop_at=b"two") == [b"one", b"two"]
    assert read(Drain(ours)) == [b"three"]


def test_what_is_too_long_is_cut_so_that_it_shows(pair: Pair) -> None:
    ours, theirs = pair
    theirs.send(bytes(500))
    assert read(Drain(ours), max_bytes=101) == [bytes(101)]


def test_a_flood_is_left_to_the_next_turn(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pair
    monkeypatch.setattr("bridge.net.drain.MAX_DRAINED", 3)
    assert MAX_DRAINED > 3
    for number in range(5):
        theirs.send(bytes([number]))
    assert len(read(Drain(ours))) == 3
    assert len(read(Drain(ours))) == 2


class Shown(asyncio.BaseTransport):
    """A transport that shows this as its socket."""

    def __init__(self, shown: object) -> None:
        super().__init__({"socket": shown} if shown is not None else {})


class Sealed:
    """What an event loop that gives no socket away shows in its place."""

    type = socket.SOCK_DGRAM

    def dup(self) -> socket.socket:
        raise TypeError("transport sockets do not support dup()")


@pytest.mark.parametrize("shown", [None, Sealed(), object()], ids=["none", "another loop's", "no socket"])
def test_where_there_is_no_socket_to_read_there_is_no_drain(shown: object) -> None:
    assert drain_of(Shown(shown)) is None


def test_a_stream_is_not_read() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream:
        assert drain_of(Shown(stream)) is None


def test_the_duplicate_reads_the_same_socket_and_outlives_it(pair: Pair) -> None:
    ours, theirs = pair
    drain = drain_of(Shown(ours))
    assert drain is not None
    theirs.send(b"one")
    assert read(drain) == [b"one"]
    theirs.send(b"two")
    ours.close()
    assert read(drain) == [b"two"]
    drain.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        read(drain)
