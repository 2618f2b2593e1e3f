"""A real stunnel in front of a server on loopback: RTMPS, as operators put it before nginx-rtmp."""

import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

STUNNEL = shutil.which("stunnel4") or "/usr/bin/stunnel4"
READY_S = 10.0

_CONFIG = """
foreground = yes
pid =
[rtmps]
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{target_port}
cert = {certificate}
{options}
"""


def why_unavailable() -> str | None:
    """The reason why stunnel cannot be run here; None if it can."""
    return None if Path(STUNNEL).exists() else "stunnel is not installed (Debian: apt-get install stunnel4)"


class Stunnel:
    """Takes TLS at `port` and passes it on; alive inside its `with`. `options`: further lines of its configuration."""

    def __init__(self, run_dir: Path, certificate: Path, target_port: int, options: str = "") -> None:
        self._run_dir = run_dir
        self._fields = {"certificate": certificate, "target_port": target_port, "options": options}
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def __enter__(self) -> Self:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        config = self._run_dir / "stunnel.conf"
        config.write_text(_CONFIG.format(port=self.port, **self._fields))
        log = (self._run_dir / "stunnel.log").open("wb")
        with log:
            self._process = subprocess.Popen([STUNNEL, str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end_s = time.monotonic() + READY_S
        while time.monotonic() < end_s and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
            except OSError:
                time.sleep(0.02)  # stunnel has no way to say that it is ready
            else:
                return self
        self.__exit__()
        raise RuntimeError(f"stunnel did not start: {(self._run_dir / 'stunnel.log').read_text()[-2000:]}")

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(READY_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
