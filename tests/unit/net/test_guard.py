import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aioice import stun

from bridge.net.guard import MAX_BYTES, MAX_QUEUED, MAX_VERIFIED, STUN_BURST, DatagramGuard

PEER = ("192.0.2.1", 4000)
STRANGER = ("203.0.113.9", 666)
MEDIA = b"\x80\x60" + bytes(100)
LOCAL_PASSWORD = "l" * 22
REMOTE_PASSWORD = "r" * 22


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Queue:
    size = 0

    def qsize(self) -> int:
        return self.size


class Transport(asyncio.BaseTransport):
    is_closed = False

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guard(clock: Clock) -> DatagramGuard:
    return DatagramGuard(clock)


@pytest.fixture
def protocol() -> Any:
    connection = SimpleNamespace(local_password=LOCAL_PASSWORD, remote_password=REMOTE_PASSWORD, _queue=Queue())
    return SimpleNamespace(receiver=connection, transactions={})


def check(password: str, kind: stun.Class = stun.Class.REQUEST, transaction: bytes = b"t" * 12) -> bytes:
    message = stun.Message(stun.Method.BINDING, kind, transaction_id=transaction)
    message.attributes["USERNAME"] = "a:b"
    message.add_message_integrity(password.encode())
    return bytes(message)


@pytest.mark.parametrize("first_byte", [0x80, 0xBF, 20, 63])
def test_media_passes_after_a_check_with_the_right_password(
    guard: DatagramGuard, protocol: Any, first_byte: int
) -> None:
    assert guard.admits(check(LOCAL_PASSWORD), PEER, protocol)
    assert guard.admits(bytes([first_byte]) + bytes(50), PEER, protocol)
    assert not guard.rejected


def test_media_from_an_address_without_a_check_is_dropped(guard: DatagramGuard, protocol: Any) -> None:
    guard.admits(check(LOCAL_PASSWORD), PEER, protocol)
    assert not guard.admits(MEDIA, STRANGER, protocol)
    assert not guard.admits(MEDIA, (PEER[0], PEER[1] + 1), protocol)
    assert guard.rejected == {"unverified": 2}


def test_the_shortest_of_our_checks_is_the_round_trip(guard: DatagramGuard, protocol: Any, clock: Clock) -> None:
    assert guard.round_trip_ns == 0
    for transaction, takes_s in ((b"a" * 12, 0.08), (b"b" * 12, 0.05), (b"c" * 12, 0.06)):
        protocol.transactions[transaction] = object()
        guard.note_request(transaction)
        clock.now_s += takes_s
        assert guard.admits(check(REMOTE_PASSWORD, stun.Class.RESPONSE, transaction), PEER, protocol)
    assert guard.round_trip_ns == pytest.approx(50_000_000, abs=10)


def test_a_check_that_was_repeated_says_nothing_about_the_round_trip(
    guard: DatagramGuard, protocol: Any, clock: Clock
) -> None:
    transaction = b"a" * 12
    protocol.transactions[transaction] = object()
    for _ in range(3):
        guard.note_request(transaction)
        clock.now_s += 0.5
    assert guard.admits(check(REMOTE_PASSWORD, stun.Class.RESPONSE, transaction), PEER, protocol)
    assert guard.round_trip_ns == 0


def test_an_answer_without_the_peers_password_says_nothing_either(
    guard: DatagramGuard, protocol: Any, clock: Clock
) -> None:
    transaction = b"a" * 12
    protocol.transactions[transaction] = object()
    guard.note_request(transaction)
    assert guard.admits(check("x" * 22, stun.Class.RESPONSE, transaction), PEER, protocol)
    assert guard.round_trip_ns == 0


def test_checks_that_nobody_answers_are_forgotten(guard: DatagramGuard) -> None:
    for number in range(10 * MAX_VERIFIED):
        guard.note_request(number.to_bytes(12, "big"))
    assert len(guard._asked_s) <= MAX_VERIFIED


def test_a_check_with_a_wrong_password_proves_nothing(guard: DatagramGuard, protocol: Any) -> None:
    assert not guard.admits(check("x" * 22), STRANGER, protocol)
    assert not guard.admits(check(REMOTE_PASSWORD), STRANGER, protocol)
    assert not guard.admits(MEDIA, STRANGER, protocol)
    assert guard.rejected == {"stun_unauthenticated": 2, "unverified": 1}


def test_an_answer_to_our_check_with_the_right_password_lets_media_pass(guard: DatagramGuard, protocol: Any) -> None:
    protocol.transactions[b"t" * 12] = object()
    assert guard.admits(check(REMOTE_PASSWORD, stun.Class.RESPONSE), PEER, protocol)
    assert guard.admits(MEDIA, PEER, protocol)


def test_an_answer_to_nothing_we_asked_is_dropped(guard: DatagramGuard, protocol: Any) -> None:
    assert not guard.admits(check(REMOTE_PASSWORD, stun.Class.RESPONSE), PEER, protocol)
    assert guard.rejected == {"stun_unexpected": 1}


def test_a_stun_servers_answer_passes_and_proves_nothing(guard: DatagramGuard, protocol: Any) -> None:
    protocol.transactions[b"t" * 12] = object()
    answer = bytes(stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, transaction_id=b"t" * 12))
    assert guard.admits(answer, STRANGER, protocol)
    assert not guard.admits(MEDIA, STRANGER, protocol)


def test_before_the_far_ends_password_is_known_no_answer_proves_anything(guard: DatagramGuard, protocol: Any) -> None:
    protocol.transactions[b"t" * 12] = object()
    protocol.receiver.remote_password = None
    guard.admits(check(REMOTE_PASSWORD, stun.Class.RESPONSE), PEER, protocol)
    assert not guard.admits(MEDIA, PEER, protocol)


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (b"", "empty"),
        (b"\x80", "short"),
        (b"\x80" * 11, "short"),
        (b"\x80" * (MAX_BYTES + 1), "oversized"),
        (b"\x7f" * 50, "unknown_protocol"),
        (b"\xff" * 50, "unknown_protocol"),
        (b"\x04" * 50, "unknown_protocol"),
        (b"\x00" * 50, "stun_malformed"),
        (b"\x00\x01\x00\x08" + bytes(16) + b"\x00\x24\x00\x01" + bytes(4), "stun_malformed"),
    ],
)
def test_what_nobody_sends_is_dropped_even_from_the_peer(
    guard: DatagramGuard, protocol: Any, datagram: bytes, reason: str
) -> None:
    guard.admits(check(LOCAL_PASSWORD), PEER, protocol)
    assert not guard.admits(datagram, PEER, protocol)
    assert guard.rejected == {reason: 1}


def test_a_flood_of_stun_from_strangers_is_cut_to_its_rate(guard: DatagramGuard, protocol: Any, clock: Clock) -> None:
    for _ in range(int(STUN_BURST) + 7):
        guard.admits(check("x" * 22), STRANGER, protocol)
    assert guard.rejected == {"stun_unauthenticated": STUN_BURST, "stun_rate": 7}
    clock.now_s += 1
    assert guard.admits(check(LOCAL_PASSWORD), PEER, protocol)


def test_the_peers_own_checks_are_not_limited(guard: DatagramGuard, protocol: Any) -> None:
    assert all(guard.admits(check(LOCAL_PASSWORD), PEER, protocol) for _ in range(2 * int(STUN_BURST)))


def test_a_peer_cannot_make_us_remember_ever_more_addresses(guard: DatagramGuard, protocol: Any) -> None:
    guard.admits(check(LOCAL_PASSWORD), STRANGER, protocol)
    for port in range(MAX_VERIFIED):
        guard.admits(check(LOCAL_PASSWORD), (PEER[0], port), protocol)
    assert guard.admits(MEDIA, (PEER[0], 0), protocol)
    assert not guard.admits(MEDIA, STRANGER, protocol)


def test_a_peer_whose_address_keeps_changing_is_heard_at_every_one(
    guard: DatagramGuard, protocol: Any, clock: Clock
) -> None:
    for port in range(3 * MAX_VERIFIED):
        clock.now_s += 1
        guard.admits(check(LOCAL_PASSWORD), (PEER[0], port), protocol)
        assert guard.admits(MEDIA, (PEER[0], port), protocol)


def test_an_address_that_is_checked_again_and_again_is_not_forgotten(
    guard: DatagramGuard, protocol: Any, clock: Clock
) -> None:
    for port in range(3 * MAX_VERIFIED):
        clock.now_s += 1
        guard.admits(check(LOCAL_PASSWORD), PEER, protocol)
        guard.admits(check(LOCAL_PASSWORD), (PEER[0], port), protocol)
    assert guard.admits(MEDIA, PEER, protocol)


def test_a_socket_that_opens_after_the_end_is_closed(guard: DatagramGuard) -> None:
    early, late = Transport(), Transport()
    guard.watch(early)
    guard.close_sockets()
    guard.watch(late)
    assert early.is_closed and late.is_closed


def test_media_that_nobody_reads_is_dropped_before_it_piles_up(guard: DatagramGuard, protocol: Any) -> None:
    guard.admits(check(LOCAL_PASSWORD), PEER, protocol)
    protocol.receiver._queue.size = MAX_QUEUED
    assert not guard.admits(MEDIA, PEER, protocol)
    assert guard.rejected == {"overrun": 1}
