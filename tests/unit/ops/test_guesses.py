import tracemalloc
from hashlib import sha256

import pytest

from bridge.ops import guesses
from bridge.ops.guesses import BURST, REGAIN_S, Guesses


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counted(clock: Clock) -> Guesses:
    return Guesses(clock)


def exhaust(counted: Guesses, host: str) -> None:
    for number in range(BURST):
        assert counted.wait_s(host) == 0
        counted.count(host, bytes([number]))


def test_after_a_burst_a_client_waits_and_then_has_one_more_each_time(counted: Guesses, clock: Clock) -> None:
    exhaust(counted, "203.0.113.9")
    assert counted.wait_s("203.0.113.9") == REGAIN_S
    clock.now_s += REGAIN_S
    assert counted.wait_s("203.0.113.9") == 0
    counted.count("203.0.113.9", b"another")
    assert counted.wait_s("203.0.113.9") == REGAIN_S


def test_what_is_long_ago_is_forgotten(counted: Guesses, clock: Clock) -> None:
    exhaust(counted, "203.0.113.9")
    clock.now_s += BURST * REGAIN_S
    exhaust(counted, "203.0.113.9")


@pytest.mark.parametrize(
    ("host", "neighbour"),
    [
        ("2001:db8:1:2::3", "2001:db8:1:2:ffff::4"),
        ("203.0.113.9", "::ffff:203.0.113.9"),
        ("fe80::1%eth0", "fe80::2%eth1"),
    ],
)
def test_one_client_has_many_spellings(counted: Guesses, host: str, neighbour: str) -> None:
    exhaust(counted, host)
    assert counted.wait_s(neighbour) > 0


@pytest.mark.parametrize("host", ["203.0.113.10", "2001:db8:1:3::3", "", "a socket"])
def test_others_wait_for_nobody(counted: Guesses, host: str) -> None:
    exhaust(counted, "203.0.113.9")
    exhaust(counted, "2001:db8:1:2::3")
    assert counted.wait_s(host) == 0


def test_the_same_wrong_token_again_is_no_guess(counted: Guesses) -> None:
    for _ in range(2 * BURST):
        counted.count("203.0.113.9", b"an old one")
    assert counted.wait_s("203.0.113.9") == 0


def test_however_many_clients_come_they_take_a_megabyte_and_a_half(counted: Guesses) -> None:
    tracemalloc.start()
    try:
        for number in range(guesses.MOST_CLIENTS + 500):
            counted.count(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", sha256(bytes(number & 255)).digest())
        taken_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken_bytes < 1.5e6


def test_who_failed_last_is_remembered_longest(counted: Guesses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses, "MOST_CLIENTS", 2)
    exhaust(counted, "203.0.113.1")
    exhaust(counted, "203.0.113.2")
    counted.count("203.0.113.1", b"another")
    counted.count("203.0.113.3", b"another")
    assert counted.wait_s("203.0.113.2") == 0
    assert counted.wait_s("203.0.113.1") > 0
