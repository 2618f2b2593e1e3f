"""A real coturn on loopback: TURN over UDP, TCP and TLS, with one user."""

import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

USER, PASSWORD = "bridge", "turn-password"
READY_S = 10.0

# It refuses peers on loopback unless told otherwise, and that only without its command line. No more threads than one
# client needs, no database, nothing outside of its directory.
_CONFIG = """
listening-ip=127.0.0.1
relay-ip=127.0.0.1
listening-port={port}
tls-listening-port={tls_port}
min-port={first_relay}
max-port={last_relay}
allow-loopback-peers
no-cli
no-dtls
no-stdout-log
simple-log
log-file={directory}/turnserver.log
pidfile={directory}/turnserver.pid
userdb={directory}/users.sqlite
relay-threads=1
lt-cred-mech
user={user}:{password}
realm=test
fingerprint
cert={certificate}
pkey={certificate}
"""


def why_unavailable() -> str | None:
    """The reason why coturn cannot be run here; None if it can."""
    return None if shutil.which("turnserver") else "coturn is not installed (Debian: apt-get install coturn)"


class Coturn:
    """Alive inside its `with`. `certificate`: PEM with its key, for TLS."""

    def __init__(self, directory: Path, certificate: Path) -> None:
        self._directory = directory
        self.certificate = certificate
        self._process: subprocess.Popen[bytes] | None = None
        self.port = self.tls_port = 0

    @property
    def urls(self) -> dict[str, str]:
        """By transport."""
        return {
            "udp": f"turn:127.0.0.1:{self.port}?transport=udp",
            "tcp": f"turn:127.0.0.1:{self.port}?transport=tcp",
            "tls": f"turns:127.0.0.1:{self.tls_port}?transport=tcp",
        }

    def __enter__(self) -> Self:
        self.port, self.tls_port, first_relay = _free_port(), _free_port(), _free_port()
        config = self._directory / "turnserver.conf"
        config.write_text(
            _CONFIG.format(
                port=self.port,
                tls_port=self.tls_port,
                first_relay=first_relay,
                last_relay=first_relay + 40,
                directory=self._directory,
                user=USER,
                password=PASSWORD,
                certificate=self.certificate,
            )
        )
        log = (self._directory / "stdout.log").open("wb")
        with log:
            self._process = subprocess.Popen(
                ["turnserver", "-c", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        end_s = time.monotonic() + READY_S
        while time.monotonic() < end_s and self._process.poll() is None:
            try:
                for port in (self.port, self.tls_port):
                    socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            except OSError:
                time.sleep(0.02)  # coturn has no way to say that it is ready
            else:
                return self
        self.__exit__()
        raise RuntimeError(f"coturn did not start: {(self._directory / 'stdout.log').read_text()[-2000:]}")

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(READY_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _free_port() -> int:
    """A port that is free for TCP on loopback, with room for a range above it."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return min(port, 65_000)
