"""The bad cable: what crosses it is late and lost as its conditions say."""

import itertools
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.conftest import unavailable
from tests.net.conditions import Conditions
from tests.net.namespace import BadCable, why_unavailable

ECHO = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as echo:
    echo.bind((sys.argv[1], 7))
    print("ready", flush=True)
    while True:
        echo.sendto(*echo.recvfrom(2048))
"""


@pytest.fixture
def cable() -> Iterator[BadCable]:
    if reason := why_unavailable():
        unavailable(reason)
    with BadCable(down=Conditions(delay_ms=20, loss=0.2), up=Conditions(delay_ms=20), seed=3) as laid:
        yield laid


def test_what_crosses_it_is_late_and_lost(cable: BadCable) -> None:
    command = cable.command(sys.executable, "-c", ECHO, cable.far)
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as echo,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending,
    ):
        try:
            assert echo.stdout is not None and echo.stdout.readline() == b"ready\n"
            sending.settimeout(0.5)
            sent_ns: list[int] = []
            for number in range(100):
                sent_ns.append(time.monotonic_ns())
                sending.sendto(bytes([number]), (cable.far, 7))
            round_trips_ms = []
            try:
                for _ in itertools.count():
                    number = sending.recv(16)[0]
                    round_trips_ms.append((time.monotonic_ns() - sent_ns[number]) / 1e6)
            except TimeoutError:
                pass
        finally:
            echo.kill()
    assert min(round_trips_ms) >= 40.0
    assert cable.up.lost == 0 and cable.down.lost == 100 - len(round_trips_ms)
    assert 5 <= cable.down.lost <= 40
