import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bridge.ops.systemd import Notifier, Watchdog


class Manager:
    """The other end of the socket."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        """Messages so far, each once."""
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.close()


@pytest.fixture
def notifier(manager: Manager, tmp_path: Path) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "10000000"})


def test_without_a_service_manager_there_is_nobody_to_tell() -> None:
    notifier = Notifier({})
    assert not notifier.is_there and notifier.watchdog_s is None
    notifier.ready()


def test_a_watchdog_that_waits_for_another_process_is_not_ours() -> None:
    usec = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "3000000"}
    assert Notifier(usec | {"WATCHDOG_PID": "1"}).watchdog_s is None
    assert Notifier(usec | {"WATCHDOG_PID": str(os.getpid())}).watchdog_s == 3.0


def test_an_abstract_socket_is_spelt_with_an_at_sign() -> None:
    name = f"avatar-bridge-test-{os.getpid()}"
    manager = Manager(f"\0{name}")
    Notifier({"NOTIFY_SOCKET": f"@{name}"}).tell(READY=1)
    assert manager.heard() == ["READY=1"]
    manager.close()


def test_stopping_asks_for_the_time_it_takes(manager: Manager, notifier: Notifier) -> None:
    notifier.stopping(25.0)
    assert manager.heard() == ["STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=25000000"]


def test_a_reload_begins_at_a_time_and_ends_ready(manager: Manager, notifier: Notifier) -> None:
    before_us = time.monotonic_ns() // 1000
    notifier.reloading()
    notifier.ready()
    reloading, ready = manager.heard()
    state, _, began_us = reloading.partition("\nMONOTONIC_USEC=")
    assert (state, ready) == ("RELOADING=1", "READY=1")
    assert before_us <= int(began_us) <= time.monotonic_ns() // 1000


def test_a_manager_that_is_gone_ends_nothing(tmp_path: Path) -> None:
    with capture_logs() as logged:
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).tell(READY=1)
    assert [entry["event"] for entry in logged] == ["systemd_not_told"]


def test_the_watchdog_is_fed_while_every_timeline_advances(manager: Manager, notifier: Notifier) -> None:
    timelines = {"leo": 1, "mia": 1}
    watchdog = Watchdog(notifier, lambda: dict(timelines), lambda: "leo: live")
    watchdog.look()
    timelines |= {"leo": 2, "mia": 2}
    watchdog.look()
    assert manager.heard() == ["WATCHDOG=1\nSTATUS=leo: live", "WATCHDOG=1"]


def test_one_timeline_that_stands_still_is_enough_to_let_it_starve(manager: Manager, notifier: Notifier) -> None:
    timelines = {"leo": 1, "mia": 1}
    watchdog = Watchdog(notifier, lambda: dict(timelines), lambda: "")
    watchdog.look()
    with capture_logs() as logged:
        for leo in (2, 3):
            timelines["leo"] = leo
            watchdog.look()
    assert manager.heard() == ["WATCHDOG=1"]
    assert [(entry["event"], entry["sessions"]) for entry in logged] == [("watchdog_not_fed", ["mia"])]
    timelines["mia"] = 2
    timelines["leo"] = 4
    watchdog.look()
    assert manager.heard() == ["WATCHDOG=1"]


def test_without_sessions_the_loop_alone_feeds_it(manager: Manager, notifier: Notifier) -> None:
    watchdog = Watchdog(notifier, dict, lambda: "")
    watchdog.look()
    watchdog.look()
    assert manager.heard() == ["WATCHDOG=1"] * 2


def test_a_session_that_has_ended_starves_nothing(manager: Manager, notifier: Notifier) -> None:
    timelines = {"leo": 1, "mia": 1}
    watchdog = Watchdog(notifier, lambda: dict(timelines), lambda: "")
    watchdog.look()
    timelines = {"leo": 2}
    watchdog.look()
    assert manager.heard() == ["WATCHDOG=1"] * 2


def test_without_a_watchdog_only_changes_are_told(manager: Manager, tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    watchdog = Watchdog(notifier, lambda: {"leo": 1}, lambda: "leo: slate")
    for _ in range(3):
        watchdog.look()
    assert manager.heard() == ["STATUS=leo: slate"]


def test_it_looks_often_enough_for_a_look_to_fail(notifier: Notifier) -> None:
    assert Watchdog(notifier, dict, str).interval_s == 1.0
    hasty = Notifier({"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "2000000"})
    assert Watchdog(hasty, dict, str).interval_s == 0.5
