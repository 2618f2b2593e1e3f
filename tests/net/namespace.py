"""A network namespace of the test's own, for peers that know no loopback: one cable leads there, and none further."""

import contextlib
import fcntl
import heapq
import itertools
import os
import secrets
import select
import shutil
import struct
import subprocess
import threading
import time
from typing import Self

from tests.net.conditions import Conditions, Direction

FAR_END = "cable"
# <linux/if_tun.h>: TUNSETIFF, IFF_TUN | IFF_NO_PI
_TUNSETIFF, _TUN_WITHOUT_HEADER = 0x400454CA, 0x1001
_MAX_PACKET_BYTES = 65_536


def why_unavailable() -> str | None:
    """The reason why namespaces cannot be made here; None if they can."""
    if shutil.which("ip") is None:
        return "ip is not installed (Debian: apt-get install iproute2)"
    if os.geteuid() != 0:
        return "network namespaces take root"
    return None if os.path.exists("/dev/net/tun") else "there is no /dev/net/tun"


class Namespace:
    """Alive inside its `with`.

    interface  our end of the cable, with its address `near`; `far` is that of the other end, in the namespace.
    """

    def __init__(self) -> None:
        name = f"bridge{secrets.token_hex(3)}"
        self.interface = name  # 12 characters; 15 are allowed
        # A network of four addresses in the range for benchmarks (RFC 2544), which nobody has in use.
        net = f"198.18.{secrets.randbelow(256)}"
        fourth = 4 * secrets.randbelow(63)
        self.near, self.far = f"{net}.{fourth + 1}", f"{net}.{fourth + 2}"
        self._name = name

    def __enter__(self) -> Self:
        _ip("netns", "add", self._name)
        try:
            self._lay_cable(self._name)
            _ip("address", "add", f"{self.near}/30", "dev", self.interface)
            _ip("link", "set", self.interface, "up")
            _ip("-n", self._name, "address", "add", f"{self.far}/30", "dev", FAR_END)
            _ip("-n", self._name, "link", "set", FAR_END, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        _ip("netns", "delete", self._name)

    def _lay_cable(self, name: str) -> None:
        """Make both ends: `interface` here, and `FAR_END` in the namespace of this name."""
        _ip("link", "add", self.interface, "type", "veth", "peer", "name", FAR_END, "netns", name)

    def command(self, *command: str) -> list[str]:
        """The same, run inside; the process that it starts becomes the program."""
        return ["ip", "netns", "exec", self._name, *command]


class BadCable(Namespace):
    """A namespace at the other end of a network with conditions: `down` towards us, `up` towards it.

    Both ends are TUN devices. Every IP packet is impaired, of whatever protocol; the kernel knows nothing of it.
    """

    def __init__(self, down: Conditions | None = None, up: Conditions | None = None, seed: int = 0) -> None:
        super().__init__()
        self.down, self.up = Direction(down or Conditions(), seed), Direction(up or Conditions(), seed + 1)
        self._ends: list[int] = []
        self._woken, self._wake = os.pipe()
        self._moving = threading.Thread(target=self._move, name="cable")

    def __enter__(self) -> Self:
        super().__enter__()
        self._moving.start()
        return self

    def __exit__(self, *error: object) -> None:
        os.write(self._wake, b"!")
        if self._moving.ident is not None:
            self._moving.join()
        super().__exit__(*error)
        for descriptor in (*self._ends, self._wake, self._woken):
            os.close(descriptor)

    def _lay_cable(self, name: str) -> None:
        self._ends += (_open_tun(self.interface), _open_tun(FAR_END))
        _ip("link", "set", FAR_END, "netns", name)

    def _move(self) -> None:
        near, far = self._ends
        ways = {near: (far, self.up), far: (near, self.down)}
        due: list[tuple[int, int, int, bytes]] = []
        order, began_ns = itertools.count(), time.monotonic_ns()
        while True:
            wait_s = max(0.0, (due[0][0] - time.monotonic_ns()) / 1e9) if due else None
            ready, _, _ = select.select([*ways, self._woken], [], [], wait_s)
            if self._woken in ready:
                return
            for end in ready:
                packet = os.read(end, _MAX_PACKET_BYTES)
                to, direction = ways[end]
                for due_ns in direction.pass_on(time.monotonic_ns() - began_ns, len(packet)):
                    heapq.heappush(due, (began_ns + due_ns, next(order), to, packet))
            while due and due[0][0] <= time.monotonic_ns():
                _, _, to, packet = heapq.heappop(due)
                with contextlib.suppress(OSError):  # the device is down already
                    os.write(to, packet)


def _open_tun(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", name.encode(), _TUN_WITHOUT_HEADER))
    return descriptor


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=10)
