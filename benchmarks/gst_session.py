"""One session of the GStreamer peer, measured as the bridge's is: signalled from here, published through a tap."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import sleep

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from benchmarks.processes import START_S, Child, cpu_cores, python
from benchmarks.tap import path_latencies_ms
from bridge.protocols import navtalk
from bridge.protocols.navtalk_json import dump, parse_event

# Debian's own: the one that its python3-gi is for.
PYTHON = Path("/usr/bin/python3")
PROGRAM = Path(__file__).with_name("gstreamer.py")
INSTALL = Path(__file__).parents[1] / "tests" / "install_peers.sh"
PACKAGES = (
    "python3-gi",
    "gir1.2-gst-plugins-bad-1.0",
    "gstreamer1.0-plugins-base",
    "gstreamer1.0-plugins-good",
    "gstreamer1.0-plugins-bad",
    "gstreamer1.0-libav",
    "gstreamer1.0-nice",
)
# 60 MB to fetch and unpack.
INSTALL_S = 120.0
# A peer that fails on this machine must not take the bridge's figures with it.
FAILURES = (RuntimeError, OSError, WebSocketException)


@dataclass(frozen=True, slots=True)
class GstSession:
    """cores: CPU for each window. path_ms: for each picture from its stamp to the tap. Both empty if `why_not`."""

    cores: list[float]
    path_ms: list[float]
    why_not: str = ""


def install() -> None:
    """Bring GStreamer where that can be done: as root, with apt."""
    with Child([str(INSTALL), *PACKAGES]) as installing:
        installing.ends_within(INSTALL_S)


def measure_session(
    avatar_url: str, rtmp_port: int, *, warm_up_s: float, n_windows: int, window_s: float
) -> GstSession:
    """Connect to the avatar, publish to the RTMP server of that port, and look on."""
    try:
        with ExitStack() as stack:
            tap = stack.enter_context(Child(python("benchmarks.tap", str(rtmp_port))))
            url = f"rtmp://127.0.0.1:{tap.first_line()}/live/gstreamer"
            gstreamer = stack.enter_context(running("fast", avatar_url, url))
            sleep(warm_up_s)
            (cores,) = cpu_cores([gstreamer], n_windows, window_s)
            gstreamer.finish()
            (connection,) = json.loads(tap.finish())
    except FAILURES as error:
        return GstSession([], [], str(error))
    path_ms = path_latencies_ms(connection["pictures"])
    return GstSession(cores, path_ms) if path_ms else GstSession([], [], "it published no picture")


@contextmanager
def running(pipeline: str, avatar_url: str, rtmp_url: str) -> Iterator[Child]:
    """One session of a pipeline of `benchmarks.gstreamer`. Raises one of `FAILURES` where that cannot be."""
    if not PYTHON.exists():
        raise RuntimeError(f"there is no {PYTHON}")
    with ExitStack() as stack:
        gstreamer = stack.enter_context(Child([str(PYTHON), "-I", str(PROGRAM), pipeline, rtmp_url]))
        if missing := json.loads(gstreamer.first_line())["missing"]:
            advice = f"Debian: apt-get install {' '.join(PACKAGES)}"
            raise RuntimeError(f"{', '.join(missing)} ({advice})")
        socket = stack.enter_context(connect(avatar_url, compression=None, close_timeout=1.0))
        _signal(socket, gstreamer)
        yield gstreamer


def _signal(socket: ClientConnection, gstreamer: Child) -> None:
    while True:
        match parse_event(str(socket.recv(START_S))):
            case navtalk.Offer(sdp):
                gstreamer.tell(json.dumps({"offer": sdp}))
                answer = json.loads(gstreamer.first_line())["answer"]
                return socket.send(dump(navtalk.Answer(answer)))
