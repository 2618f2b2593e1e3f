"""A real nginx with its RTMP module, on loopback, for tests and benchmarks.

    with NginxRtmp(run_dir) as server:
        publish(f"{server.rtmp_url}/some-key")
        server.recordings("some-key")

Stream keys that begin with "wrong" are refused through `on_publish`. Needs Debian's nginx and libnginx-mod-rtmp.
"""

import asyncio
import http.server
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
RTMP_MODULE = Path("/usr/lib/nginx/modules/ngx_rtmp_module.so")
READY_S = 10.0
POLL_S = 0.02

_CONFIG = """
load_module {module};
worker_processes 1; master_process off; daemon off; {user} pid {run}/nginx.pid; error_log {run}/error.log info;
events {{ worker_connections 256; }}
rtmp {{ server {{ listen 127.0.0.1:{rtmp_port}; chunk_size 4096; ping 1s; ping_timeout {ping_timeout_s}s;
  application live {{ live on; wait_key on; drop_idle_publisher 10s;
    on_publish http://127.0.0.1:{callback_port}/on_publish; on_publish_done http://127.0.0.1:{callback_port}/on_done;
    record all; record_path {run}/rec; record_suffix .flv; record_unique on; {hls} }} }} }}
http {{ access_log off; client_body_temp_path {run}/tmp; proxy_temp_path {run}/tmp; fastcgi_temp_path {run}/tmp;
  uwsgi_temp_path {run}/tmp; scgi_temp_path {run}/tmp;
  server {{ listen 127.0.0.1:{http_port};
    location /stat {{ rtmp_stat all; }} location /control {{ rtmp_control all; }} }} }}
"""

_HLS = "hls on; hls_path {run}/hls; hls_fragment 1s; hls_playlist_length 10m; hls_cleanup off;"


def why_unavailable() -> str | None:
    """The reason why nginx-rtmp cannot be run here; None if it can."""
    if not Path(NGINX).exists():
        return "nginx is not installed (Debian: apt-get install nginx libnginx-mod-rtmp)"
    if not RTMP_MODULE.exists():
        return "nginx has no RTMP module (Debian: apt-get install libnginx-mod-rtmp)"
    return None


class NginxRtmp:
    """One server, alive inside its `with` or `async with`.

    run_dir         holds configuration, log and recordings; is created.
    rtmp_url        rtmp://127.0.0.1:PORT/live; a stream key goes behind it.
    requests        the fields of every on_publish and on_publish_done call, oldest first; "call" says which.
    is_refused      decides by stream name what on_publish answers with 403.
    ping_timeout_s  after 1 s without a message the server pings, and throws out who is still silent this much later.
    hls             cuts streams into segments for players, and keeps them all.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        is_refused: Callable[[str], bool] = lambda name: name.startswith("wrong"),
        ping_timeout_s: int = 5,
        hls: bool = False,
    ) -> None:
        self.run_dir = Path(run_dir)
        self.is_refused = is_refused
        self._ping_timeout_s = ping_timeout_s
        self._hls = _HLS.format(run=self.run_dir) if hls else ""
        self._called = threading.Condition()
        self.requests: list[dict[str, str]] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._callback: http.server.ThreadingHTTPServer | None = None
        self._ports: tuple[int, int] = (0, 0)

    @property
    def rtmp_port(self) -> int:
        return self._ports[0]

    @property
    def rtmp_url(self) -> str:
        return f"rtmp://127.0.0.1:{self.rtmp_port}/live"

    @property
    def pid(self) -> int:
        assert self._process is not None, "nginx is not running"
        return self._process.pid

    def __enter__(self) -> "NginxRtmp":
        if reason := why_unavailable():
            raise RuntimeError(reason)
        for name in ("rec", "hls", "tmp"):
            (self.run_dir / name).mkdir(parents=True, exist_ok=True)
        self._callback = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._callback.serve_forever, args=(0.05,), name="on-publish", daemon=True).start()
        try:
            self._start_on_free_ports()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._end(signal.SIGTERM)
        if self._callback is not None:
            self._callback.shutdown()
            self._callback.server_close()
            self._callback = None

    async def __aenter__(self) -> "NginxRtmp":
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.__exit__)

    # ------------------------------------------------------------------------------------------ what tests look at

    def stat(self) -> ElementTree.Element:
        """The module's status page."""
        return ElementTree.fromstring(self._get("/stat"))

    def publishing(self) -> list[str]:
        """Names of the streams that have a publisher now."""
        return [
            stream.findtext("name", "")
            for stream in self.stat().iter("stream")
            if stream.find("publishing") is not None
        ]

    def recordings(self, name: str = "*") -> list[Path]:
        """What was published under a stream name, one FLV file per publication, oldest first.

        The server names files by the second: publish under one name at most once a second.
        """
        return sorted((self.run_dir / "rec").glob(f"{name}-*.flv"))

    def finished_recording(self, name: str, timeout_s: float = READY_S) -> Path:
        """The newest recording of a stream, once it is whole: waits for the end of the publication."""

        def is_over() -> bool:
            # The file is closed before the callback is called.
            return any(fields.get("call") == "publish_done" and fields.get("name") == name for fields in self.requests)

        with self._called:
            if not self._called.wait_for(is_over, timeout_s):
                raise TimeoutError(f"{name} is still being published, or never was")
        return self.recordings(name)[-1]

    def hls_playlist(self, name: str) -> Path:
        """What players of HLS get of a stream: the playlist; its segments lie beside it."""
        return self.run_dir / "hls" / f"{name}.m3u8"

    def await_viewer(self, name: str) -> None:
        """Wait until somebody plays a stream that is published."""
        for _ in _polls(READY_S):
            streams = (stream for stream in self.stat().iter("stream") if stream.findtext("name") == name)
            if any(int(stream.findtext("nclients", "0")) > 1 for stream in streams):
                return
        raise TimeoutError(f"nobody plays {name}")

    def log(self) -> str:
        return (self.run_dir / "error.log").read_text(errors="replace")

    # ------------------------------------------------------------------------------------------ faults

    def drop(self, app: str, name: str) -> None:
        """Throw out the publisher of a stream, as an administrator would."""
        query = urllib.parse.urlencode({"app": app, "name": name})
        self._get(f"/control/drop/publisher?{query}")

    def kill(self) -> None:
        """End nginx at once, as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Run again on the same ports, after `kill` or instead of it."""
        if self._process is not None:
            self._end(signal.SIGKILL)
        self._start()

    # ------------------------------------------------------------------------------------------ the process

    def _start_on_free_ports(self) -> None:
        # Others may take a port between the look and the start.
        for attempt in range(5):
            self._ports = (_free_port(), _free_port())
            try:
                return self._start()
            except RuntimeError:
                if attempt == 4 or "Address already in use" not in self.log():
                    raise

    def _start(self) -> None:
        assert self._callback is not None
        rtmp_port, http_port = self._ports
        config = self.run_dir / "nginx.conf"
        config.write_text(
            _CONFIG.format(
                module=RTMP_MODULE,
                run=self.run_dir,
                user="user root;" if os.geteuid() == 0 else "",
                rtmp_port=rtmp_port,
                http_port=http_port,
                callback_port=self._callback.server_port,
                ping_timeout_s=self._ping_timeout_s,
                hls=self._hls,
            )
        )
        self._process = subprocess.Popen(
            [NGINX, "-p", str(self.run_dir), "-e", str(self.run_dir / "error.log"), "-c", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in _polls(READY_S):
            if self._process.poll() is not None:
                break
            if _answers(rtmp_port) and _answers(http_port):
                return
        self._end(signal.SIGKILL)
        raise RuntimeError(f"nginx did not start: {self.log()[-2000:]}")

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None, "nginx is not running"
        self._process.send_signal(how)
        try:
            self._process.wait(READY_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._ports[1]}{path}", timeout=READY_S) as answer:
            body: bytes = answer.read()
            return body

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        server = self

        class OnPublish(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
                fields = dict(urllib.parse.parse_qsl(body))
                with server._called:
                    server.requests.append(fields)
                    server._called.notify_all()
                is_refused = fields.get("call") == "publish" and server.is_refused(fields.get("name", ""))
                self.send_response(403 if is_refused else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        return OnPublish


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _polls(deadline_s: float) -> Iterator[None]:
    """Pauses between looks at a process that has no way to say that it is ready."""
    end_s = time.monotonic() + deadline_s
    while time.monotonic() < end_s:
        yield
        time.sleep(POLL_S)
