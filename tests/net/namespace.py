"""A network namespace of the test's own, for peers that know no loopback: one cable leads there, and none further."""

import os
import secrets
import shutil
import subprocess
from typing import Self


def why_unavailable() -> str | None:
    """The reason why namespaces cannot be made here; None if they can."""
    if shutil.which("ip") is None:
        return "ip is not installed (Debian: apt-get install iproute2)"
    return None if os.geteuid() == 0 else "network namespaces take root"


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
            _ip("link", "add", self.interface, "type", "veth", "peer", "name", "cable", "netns", self._name)
            _ip("address", "add", f"{self.near}/30", "dev", self.interface)
            _ip("link", "set", self.interface, "up")
            _ip("-n", self._name, "address", "add", f"{self.far}/30", "dev", "cable")
            _ip("-n", self._name, "link", "set", "cable", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        _ip("netns", "delete", self._name)

    def command(self, *command: str) -> list[str]:
        """The same, run inside; the process that it starts becomes the program."""
        return ["ip", "netns", "exec", self._name, *command]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=10)
