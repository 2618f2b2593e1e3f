"""A real node-media-server on loopback: RTMP and RTMPS by another hand than nginx-rtmp's, recording what it gets."""

import json
import shutil
import signal
import subprocess
import time
import urllib.request
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

MODULE = Path(__file__).parents[1] / "peers/node_modules/node-media-server"
READY_S = 15.0
POLL_S = 0.02
# What it has read, it writes within its next turns: 0.4 s are many.
SETTLED_POLLS = 20


def why_unavailable() -> str | None:
    """The reason why node-media-server cannot be run here; None if it can."""
    if shutil.which("node") is None:
        return "Node.js is not installed"
    return None if MODULE.exists() else "node-media-server is not installed (tests/install_npm_peers.sh)"


class NodeMediaServer:
    """One server, alive inside its `with`: RTMP at `rtmp_port`, with `certificate` (a PEM file with its key) RTMPS at
    `rtmps_port`. `run_dir` holds configuration, log and recordings; it is created.
    """

    def __init__(self, run_dir: Path, certificate: Path, free_ports: Callable[[int], list[int]]) -> None:
        self.run_dir = run_dir
        self.rtmp_port, self.rtmps_port, self._http_port = free_ports(3)
        tls = {"key": str(certificate), "cert": str(certificate)}
        self._config: dict[str, Any] = {
            "bind": "127.0.0.1",
            "store": {"path": str(run_dir / "data")},
            "rtmp": {"port": self.rtmp_port},
            "rtmps": {"port": self.rtmps_port, **tls},
            "http": {"port": self._http_port},
            "record": {"auto": True, "path": str(run_dir / "rec")},
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.run_dir.mkdir(parents=True)
        config = self.run_dir / "config.json"
        config.write_text(json.dumps(self._config))
        with (self.run_dir / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["node", str(MODULE / "bin/app.js"), "-c", str(config), "--no-admin"],
                cwd=self.run_dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        # Its listeners announce themselves in its log.
        try:
            self._await(lambda: self.log().count("listening on port") >= 3, "did not start")
        except TimeoutError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(READY_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def log(self) -> str:
        return (self.run_dir / "server.log").read_text(errors="replace")

    def finished_recording(self, name: str) -> Path:
        """The recording of a stream of the application `live`, once its publisher has gone and all of it is written.

        The server keeps it open for another while, in case that the publisher comes back.
        """
        self._await(lambda: "close" in self.log().partition(f"start push /live/{name}")[2], f"does not let {name} go")
        (path,) = (self.run_dir / "rec/live" / name).glob("*.flv")
        sizes = deque([-1], maxlen=SETTLED_POLLS)

        def is_settled() -> bool:
            sizes.append(path.stat().st_size)
            return len(sizes) == SETTLED_POLLS and len(set(sizes)) == 1

        self._await(is_settled, "goes on writing the recording")
        return path

    def play(self, name: str) -> Any:
        """HTTP-FLV, as players get it, while the stream is published."""
        return urllib.request.urlopen(f"http://127.0.0.1:{self._http_port}/live/{name}.flv", timeout=READY_S)

    def _await(self, is_so: Callable[[], bool], what: str) -> None:
        end_s = time.monotonic() + READY_S
        while not is_so():
            assert self._process is not None
            if time.monotonic() > end_s or self._process.poll() is not None:
                raise TimeoutError(f"node-media-server {what}: {self.log()[-2000:]}")
            time.sleep(POLL_S)
