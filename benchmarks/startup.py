"""How long viewers wait: from the start of the process, and from its WebSocket connection, to the first picture.

The local avatar service is up before. Both ends of the bridge pass a tap: one sees the WebSocket being opened, the
other the first coded picture on RTMP.
"""

import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.configuration import write_configuration
from benchmarks.processes import Child, ending_properly, python
from benchmarks.report import Findings, median
from tests.interop.nginx_rtmp import NginxRtmp, why_unavailable

N_RUNS = 3
N_IMPORTS = 5
# Longer than the bound: a start that takes more is measured too.
RUN_S = 5.0
NS_PER_MS = 1e6

TITLE = "startup: to the first picture on RTMP"
BOUNDS = {"first_picture_ms": 1500.0, "exec_to_first_picture_ms": 2500.0, "import_ms": 700.0}


def measure() -> Findings:
    if reason := why_unavailable():
        return Findings.missing(TITLE, BOUNDS, reason)
    runs = [_start_once(f"run-{number}") for number in range(N_RUNS)]
    first_ms = [from_connect_ms for from_connect_ms, _ in runs]
    exec_ms = [from_exec_ms for _, from_exec_ms in runs]
    return Findings(
        title=TITLE,
        figures={
            "first_picture_ms": median(first_ms),
            "first_picture_worst_ms": max(first_ms),
            "exec_to_first_picture_ms": median(exec_ms),
            "exec_to_first_picture_worst_ms": max(exec_ms),
            "import_ms": median([_import_ms() for _ in range(N_IMPORTS)]),
        },
        at_most=BOUNDS,
        notes=[f"Median of {N_RUNS} starts and {N_IMPORTS} imports; import_ms is CPU time of `import bridge.daemon`."],
    )


def _start_once(name: str) -> tuple[float, float]:
    """Milliseconds to the first picture, from the WebSocket connection and from the start of the process."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="startup-")))
        nginx = stack.enter_context(NginxRtmp(directory / "nginx"))
        avatar = stack.enter_context(Child(python("bridge", "avatar", "--listen", "127.0.0.1:0")))
        avatar_url = urlsplit(avatar.first_line())
        socket_tap = stack.enter_context(Child(python("benchmarks.tap", str(avatar_url.port))))
        rtmp_tap = stack.enter_context(Child(python("benchmarks.tap", str(nginx.rtmp_port))))
        url = avatar_url._replace(netloc=f"127.0.0.1:{socket_tap.first_line()}").geturl()
        outputs = {"rtmp": f"rtmp://127.0.0.1:{rtmp_tap.first_line()}/live/{name}"}
        config = write_configuration(directory, url, outputs)
        bridge = stack.enter_context(Child(python("bridge", "run", str(config))))
        time.sleep(RUN_S)
        bridge.finish()
        accepted_ns = json.loads(socket_tap.finish())[0]["accepted_ns"]
        pictures = json.loads(rtmp_tap.finish())[0]["pictures"]
    if not pictures:
        raise RuntimeError(f"no picture came within {RUN_S:g} s")
    first_ns = pictures[0][0]
    return (first_ns - accepted_ns) / NS_PER_MS, (first_ns - bridge.started_ns) / NS_PER_MS


def _import_ms() -> float:
    code = "import time; a = time.process_time(); import bridge.daemon; print(time.process_time() - a)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return 1000 * float(done.stdout)


if __name__ == "__main__":
    with ending_properly():
        measure().show()
