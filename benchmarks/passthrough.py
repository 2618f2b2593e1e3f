"""Added latency and CPU of one 720p30 session to RTMP, beside stock aiortc that decodes and encodes again.

Both run at the same time, receive the same media from the same source and publish to the same nginx-rtmp; the
bridge's connection passes a tap, which says when the server's side had the last byte of each picture.
"""

import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.configuration import SESSION, write_configuration
from benchmarks.media import FPS, load_media
from benchmarks.processes import Child, cpu_cores, ending_properly, python
from benchmarks.report import Findings, median, percentile
from tests.interop.nginx_rtmp import NginxRtmp, why_unavailable

WARM_UP_S = 5.0
N_WINDOWS, WINDOW_S = 12, 2.5
# Both ends settle: pictures of the first seconds wait for keyframes and imports.
SKIPPED_S = 3.0

TITLE = "passthrough: one 720p30 session of 2.5 Mb/s to RTMP with AAC"
BOUNDS = {"added_latency_p50_ms": 1.0, "added_latency_p99_ms": 5.0, "cpu_ratio": 0.25}


def measure() -> Findings:
    if reason := why_unavailable():
        return Findings.missing(TITLE, BOUNDS, reason)
    load_media()  # encoded before anything is measured
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="passthrough-")))
        nginx = stack.enter_context(NginxRtmp(directory / "nginx"))
        source = stack.enter_context(Child(python("benchmarks.source")))
        avatar_url = source.first_line()
        tap = stack.enter_context(Child(python("benchmarks.tap", str(nginx.rtmp_port))))
        outputs = {"rtmp": f"rtmp://127.0.0.1:{tap.first_line()}/live/copied"}
        config = write_configuration(directory, avatar_url, outputs)
        bridge = stack.enter_context(Child(python("benchmarks.bridge_child", str(config))))
        stock = stack.enter_context(Child(python("benchmarks.stock", avatar_url, f"{nginx.rtmp_url}/encoded")))
        time.sleep(WARM_UP_S)
        bridge_cores, stock_cores = cpu_cores([bridge, stock], N_WINDOWS, WINDOW_S)
        stock_ms = json.loads(stock.finish())
        status = json.loads(bridge.finish())[SESSION]
        (connection,) = json.loads(tap.finish())
    pictures = [(read_ns, stamp_ns) for read_ns, stamp_ns in connection["pictures"] if stamp_ns is not None]
    begin_ns = pictures[0][0] + SKIPPED_S * 1e9
    path_ms = [(read_ns - stamp_ns) / 1e6 for read_ns, stamp_ns in pictures if read_ns > begin_ns]
    ours, theirs = median(bridge_cores), median(stock_cores)
    return Findings(
        title=TITLE,
        figures={
            "added_latency_p50_ms": _ms(status["added_latency_s"]),
            "added_latency_p99_ms": _ms(status["added_latency_p99_s"]),
            "path_latency_p50_ms": percentile(path_ms, 50),
            "path_latency_p99_ms": percentile(path_ms, 99),
            "stock_latency_p50_ms": percentile(stock_ms[int(SKIPPED_S * FPS) :], 50),
            "cpu_per_session_core": ours,
            "stock_cpu_per_session_core": theirs,
            "cpu_ratio": ours / theirs if ours and theirs else None,
            "gst_cpu_per_session_core": None,
            "whip_latency_p50_ms": None,
            "whip_cpu_per_session_core": None,
            "pictures": len(path_ms),
        },
        at_most=BOUNDS,
        notes=[
            f"CPU: median of {N_WINDOWS} windows of {WINDOW_S:g} s, both processes in the same windows;"
            f" bridge {min(bridge_cores):.4f} to {max(bridge_cores):.4f},"
            f" stock {min(stock_cores):.4f} to {max(stock_cores):.4f} core.",
            "gst: not measured, this benchmark does not drive GStreamer yet. whip: there is no WHIP output yet.",
        ],
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


if __name__ == "__main__":
    with ending_properly():
        measure().show()
