"""What encoding costs and keeps: one 720p session to RTMP at 3 Mb/s constant, x264 veryfast, 30 pictures a second.

Pictures of the same size, then upright ones between bars, then the first under a logo and a line of text. Keyframes and
bit rate are read from what nginx-rtmp has recorded of the first.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
from PIL import Image

from benchmarks.configuration import SESSION, write_configuration
from benchmarks.media import load_media
from benchmarks.processes import Child, cpu_cores, ending_properly, python
from benchmarks.report import Findings, median
from tests.interop.nginx_rtmp import NginxRtmp, why_unavailable

WARM_UP_S = 5.0
N_WINDOWS, WINDOW_S = 6, 2.5
BITS_PER_S = 3_000_000
KEYFRAME_S = 2.0
# The buffer is full, and the avatar's first keyframes are over.
SETTLED_S = 3.0
ENCODE = {"video": "encode", "size": "1280x720", "fps": 30, "bitrate": BITS_PER_S, "keyframe_s": KEYFRAME_S}

TITLE = "encode: one session to RTMP, encoded to 720p30 at 3 Mb/s constant"
BOUNDS = {"cpu_core": 0.35, "cpu_core_letterbox": 0.42, "cpu_core_overlay": 0.40, "keyframe_spacing_s": KEYFRAME_S}
BOUNDS |= {
    "keyframe_error_ms": 0.0,
    "bitrate_error_2s_pct": 5.0,
    "bitrate_error_1s_pct": 30.0,
    "added_latency_p95_ms": 120.0,
}


class Coded(NamedTuple):
    """A picture in a recording."""

    time_s: float
    n_bytes: int
    is_keyframe: bool


@dataclass(frozen=True, slots=True)
class Case:
    """What one session has cost, what it says of itself, and its recording."""

    cores: Sequence[float]
    status: dict[str, Any]
    pictures: Sequence[Coded]


def measure() -> Findings:
    if reason := why_unavailable():
        return Findings.missing(TITLE, BOUNDS, reason)
    plain = _run(is_upright=False)
    letterbox = _run(is_upright=True)
    overlaid = _run(is_upright=False, has_overlay=True)
    settled = [picture for picture in plain.pictures if picture.time_s >= SETTLED_S]
    spacings_s = keyframe_spacings_s(settled)
    errors_ms = [round(1000 * abs(spacing_s - KEYFRAME_S)) for spacing_s in spacings_s]
    latency_s = plain.status["added_latency_p95_s"]
    return Findings(
        title=TITLE,
        figures={
            "cpu_core": median(plain.cores),
            "cpu_core_letterbox": median(letterbox.cores),
            "cpu_core_overlay": median(overlaid.cores),
            "keyframe_spacing_s": max(spacings_s, default=None),
            # Those that come too early count too.
            "keyframe_error_ms": max(errors_ms, default=None),
            "bitrate_error_2s_pct": rate_error_pct(settled, 2.0),
            "bitrate_error_1s_pct": rate_error_pct(settled, 1.0),
            "added_latency_p95_ms": None if latency_s is None else 1000 * latency_s,
            "added_latency_p50_ms": None if latency_s is None else 1000 * plain.status["added_latency_s"],
            "pictures": len(plain.pictures),
        },
        at_most=BOUNDS,
        notes=[
            f"CPU of the whole process, receiving and sound included: median of {N_WINDOWS} windows of {WINDOW_S:g} s;"
            f" unscaled {min(plain.cores):.3f} to {max(plain.cores):.3f},"
            f" letterbox {min(letterbox.cores):.3f} to {max(letterbox.cores):.3f},"
            f" overlay {min(overlaid.cores):.3f} to {max(overlaid.cores):.3f} core.",
            f"{len(spacings_s)} distances of keyframes, {min(spacings_s, default=0):.3f} to"
            f" {max(spacings_s, default=0):.3f} s.",
        ],
    )


def keyframe_spacings_s(pictures: Sequence[Coded]) -> list[float]:
    """The distances of neighbouring keyframes, to the millisecond, which is what RTMP counts."""
    keyframes_s = [picture.time_s for picture in pictures if picture.is_keyframe]
    return [round(later_s - earlier_s, 3) for earlier_s, later_s in pairwise(keyframes_s)]


def rate_error_pct(pictures: Sequence[Coded], window_s: float) -> float | None:
    """By how much the bit rate of any window differs from what was asked for, at most."""
    errors = []
    last, n_bytes = 0, 0
    for first, picture in enumerate(pictures):
        while last < len(pictures) and pictures[last].time_s < picture.time_s + window_s - 0.001:
            n_bytes += pictures[last].n_bytes
            last += 1
        if last == len(pictures):
            break
        duration_s = pictures[last].time_s - picture.time_s
        errors.append(abs(8 * n_bytes / duration_s / BITS_PER_S - 1))
        n_bytes -= pictures[first].n_bytes
    return 100 * max(errors) if errors else None


def _run(*, is_upright: bool, has_overlay: bool = False) -> Case:
    load_media(is_upright=is_upright)  # encoded before anything is measured
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="encode-")))
        nginx = stack.enter_context(NginxRtmp(directory / "nginx"))
        source = stack.enter_context(Child(python("benchmarks.source", *(["upright"] if is_upright else []))))
        overlay = {"overlay": _overlay(directory)} if has_overlay else {}
        outputs = {"rtmp": {"url": f"{nginx.rtmp_url}/encoded", **ENCODE, **overlay}}
        config = write_configuration(directory, source.first_line(), outputs)
        bridge = stack.enter_context(Child(python("benchmarks.bridge_child", str(config))))
        time.sleep(WARM_UP_S)
        (cores,) = cpu_cores([bridge], N_WINDOWS, WINDOW_S)
        status = json.loads(bridge.finish())[SESSION]
        return Case(cores, status, _pictures(nginx.finished_recording("encoded")))


def _overlay(directory: Path) -> dict[str, object]:
    """A logo that is half transparent, and a line of text."""
    logo = directory / "logo.png"
    Image.new("RGBA", (256, 128), (200, 40, 40, 128)).save(logo)
    return {"logo_file": str(logo), "text": "Live from the studio"}


def _pictures(recording: Path) -> list[Coded]:
    with av.open(str(recording)) as container:
        return [
            Coded(float(packet.pts * packet.time_base), packet.size, packet.is_keyframe)
            for packet in container.demux(video=0)
            if packet.pts is not None and packet.time_base is not None
        ]


if __name__ == "__main__":
    with ending_properly():
        measure().show()
