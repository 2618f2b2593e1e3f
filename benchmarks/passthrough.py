"""Added latency and CPU of one 720p30 session to RTMP, beside stock aiortc that decodes and encodes again.

Both run at the same time, receive the same media from the same source and publish to the same nginx-rtmp; the
bridge's connection passes a tap, which says when the server's side had the last byte of each picture. Then stock aiortc
ends, and the bridge is alone for a while; GStreamer, which copies pictures as the bridge does, has its turn alone after
it, through a tap too, and then the bridge to a WHIP server.
"""

import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import gst_session
from benchmarks.configuration import SESSION, write_configuration
from benchmarks.media import load_media
from benchmarks.processes import Child, cpu_cores, ending_properly, python
from benchmarks.report import Findings, median, percentile
from benchmarks.tap import path_latencies_ms
from tests.interop.nginx_rtmp import NginxRtmp, why_unavailable

WARM_UP_S = 5.0
N_WINDOWS, WINDOW_S = 12, 2.5
N_GST_WINDOWS = N_WHIP_WINDOWS = 6

TITLE = "passthrough: one 720p30 session of 2.5 Mb/s to RTMP with AAC"
BOUNDS = {"added_latency_p50_ms": 1.0, "added_latency_p99_ms": 5.0, "cpu_ratio": 0.2, "gst_cpu_ratio": 0.8}
BOUNDS |= {"whip_latency_p50_ms": 2.0, "whip_cpu_per_session_core": 0.05}


def measure() -> Findings:
    if reason := why_unavailable():
        return Findings.missing(TITLE, BOUNDS, reason)
    load_media()  # encoded before anything is measured
    gst_session.install()
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
        stock_ms = path_latencies_ms(json.loads(stock.finish()))
        (alone_cores,) = cpu_cores([bridge], N_GST_WINDOWS, WINDOW_S)
        status = json.loads(bridge.finish())[SESSION]
        (connection,) = json.loads(tap.finish())
        gst = gst_session.measure_session(
            avatar_url, nginx.rtmp_port, warm_up_s=WARM_UP_S, n_windows=N_GST_WINDOWS, window_s=WINDOW_S
        )
        whip_status, whip_cores, whip_ms = _measure_whip(directory, avatar_url)
    path_ms = path_latencies_ms(connection["pictures"])
    ours, theirs = median(bridge_cores), median(stock_cores)
    alone, gst_alone = median(alone_cores), median(gst.cores)
    return Findings(
        title=TITLE,
        figures={
            "added_latency_p50_ms": _ms(status["added_latency_s"]),
            "added_latency_p99_ms": _ms(status["added_latency_p99_s"]),
            "path_latency_p50_ms": percentile(path_ms, 50),
            "path_latency_p99_ms": percentile(path_ms, 99),
            "stock_latency_p50_ms": percentile(stock_ms, 50),
            "cpu_per_session_core": ours,
            "stock_cpu_per_session_core": theirs,
            "cpu_ratio": ours / theirs if ours and theirs else None,
            "gst_latency_p50_ms": percentile(gst.path_ms, 50),
            "alone_cpu_per_session_core": alone,
            "gst_cpu_per_session_core": gst_alone,
            "gst_cpu_ratio": alone / gst_alone if alone and gst_alone else None,
            "whip_latency_p50_ms": _ms(whip_status["added_latency_s"]),
            "whip_latency_p99_ms": _ms(whip_status["added_latency_p99_s"]),
            "whip_path_latency_p50_ms": percentile(whip_ms, 50),
            "whip_cpu_per_session_core": median(whip_cores),
            "pictures": len(path_ms),
        },
        at_most=BOUNDS,
        notes=[
            f"CPU: median of {N_WINDOWS} windows of {WINDOW_S:g} s, both processes in the same windows;"
            f" bridge {min(bridge_cores):.4f} to {max(bridge_cores):.4f},"
            f" stock {min(stock_cores):.4f} to {max(stock_cores):.4f} core."
            f" Alone: {N_GST_WINDOWS} windows, {min(alone_cores):.4f} to {max(alone_cores):.4f} core.",
            _about(gst),
            f"whip: alone, last; stamp to the server's socket. CPU: median of {N_WHIP_WINDOWS} windows,"
            f" {min(whip_cores):.4f} to {max(whip_cores):.4f} core.",
        ],
    )


def _measure_whip(directory: Path, avatar_url: str) -> tuple[dict[str, Any], list[float], list[float]]:
    """The session's status, CPU for each window, and milliseconds from the stamp to the server for each picture."""
    with ExitStack() as stack:
        server = stack.enter_context(Child(python("benchmarks.whip_server")))
        config = write_configuration(directory, avatar_url, {"whip": server.first_line()})
        bridge = stack.enter_context(Child(python("benchmarks.bridge_child", str(config))))
        time.sleep(WARM_UP_S)
        (cores,) = cpu_cores([bridge], N_WHIP_WINDOWS, WINDOW_S)
        status: dict[str, Any] = json.loads(bridge.finish())[SESSION]
        return status, cores, path_latencies_ms(json.loads(server.finish()))


def _about(gst: gst_session.GstSession) -> str:
    if gst.why_not:
        return f"gst: not measured, {gst.why_not}."
    return (
        f"gst: alone, after the others; stamp to tap, as path_latency. CPU: median of {N_GST_WINDOWS} windows,"
        f" {min(gst.cores):.4f} to {max(gst.cores):.4f} core."
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


if __name__ == "__main__":
    with ending_properly():
        measure().show()
