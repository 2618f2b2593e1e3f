"""How many sessions one process carries, and what a session costs beside others.

Each session takes 720p30 of 2.5 Mb/s and publishes it as FLV tags with AAC, over RTMP, to a server that throws them
away; the source replays to all of them. Both have the last core; the daemon goes where the system puts it. There are
more sessions from run to run until the added latency of the pictures of one has a 99th percentile above 10 ms, by the
daemon's own histogram. The prototype does the same job from the same source, but for the way up to the avatar; mute
sessions have none either.
"""

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.configuration import SESSION, free_port, write_sessions
from benchmarks.media import FPS, load_media
from benchmarks.processes import Child, cpu_cores, ending_properly, python
from benchmarks.report import Findings, median

N_AT_REST = 8
# Bound, aim, and on from there; the first that is too many ends it. Between it and the last that was not, one more.
STEPS = (20, 30, 40, 50)
LIMIT_S = 0.010
# A daemon draws the slate of each session, half a second to a second of CPU long, one after another.
WARM_UP_S, WARM_UP_PER_SESSION_S = 7.0, 1.0
N_WINDOWS, WINDOW_S = 6, 2.0
PROTOTYPE_WARM_UP_S = 5.0
# Of the pictures that the source has sent; fewer mean that the process does not keep up, whatever its percentile says.
COMPLETE = 0.98
# Recordings that measure the daemon and not a disk.
MEMORY = Path("/dev/shm")
PROTOTYPE = Path(__file__).parents[2] / "shared" / "prototypes" / "rtc"

TITLE = "capacity: 720p30 sessions of 2.5 Mb/s in one process, published as FLV with AAC"
AT_LEAST = {"sessions_at_p99_10ms": 20}
AT_MOST = {"prototype_ratio": 1.2, "memory_per_session_mib": 12.0, "whip_cpu_per_session_at_8_core": 0.03}


class Sink(Enum):
    """Where a session publishes."""

    RTMP = "RTMP"
    FILE = "FLV file"
    WHIP = "WHIP"


@dataclass(frozen=True, slots=True)
class Run:
    """Figures of N sessions side by side. cores: CPU of each window in all; source_cores: the source's.

    p99_s  of added latency, from the histogram; None: no picture came, or only some.
    """

    n_sessions: int
    cores: list[float]
    source_cores: list[float]
    rss_bytes: int
    p99_s: float | None

    @property
    def is_carried(self) -> bool:
        return self.p99_s is not None and self.p99_s <= LIMIT_S

    def __str__(self) -> str:
        latency = "pictures are missing" if self.p99_s is None else f"p99 {1000 * self.p99_s:.2f} ms"
        return f"{self.n_sessions} sessions: {latency}, {median(self.cores):.3f} core"


def measure(prototype: Path = PROTOTYPE) -> Findings:
    load_media()  # encoded before anything is measured
    at_rest, mute = _run(N_AT_REST), _run(N_AT_REST, is_mute=True)
    prototype_cores, why_no_prototype = _measure_prototype(prototype)
    whip, files = _run(N_AT_REST, Sink.WHIP), _run(N_AT_REST, Sink.FILE)
    runs = [_run(STEPS[0])]
    for n_sessions in STEPS[1:]:
        if not runs[-1].is_carried:
            break
        runs.append(_run(n_sessions))
    if not runs[-1].is_carried:
        fewest = runs[-2].n_sessions if len(runs) > 1 else N_AT_REST
        runs.append(_run((fewest + runs[-1].n_sessions) // 2))
    carried = [run.n_sessions for run in (at_rest, *runs) if run.is_carried]
    ours, theirs = median(at_rest.cores), median(prototype_cores)
    return Findings(
        title=TITLE,
        figures={
            "sessions_at_p99_10ms": max(carried, default=0),
            "cpu_per_session_at_8_core": ours / N_AT_REST if ours else None,
            "prototype_cpu_per_session_at_8_core": theirs / N_AT_REST if theirs else None,
            "prototype_ratio": ours / theirs if ours and theirs else None,
            "mute_cpu_per_session_at_8_core": (median(mute.cores) or 0.0) / N_AT_REST,
            "mute_prototype_ratio": (median(mute.cores) or 0.0) / theirs if theirs else None,
            "memory_per_session_mib": _memory_per_session_mib(at_rest, runs[0]),
            "whip_cpu_per_session_at_8_core": (median(whip.cores) or 0.0) / N_AT_REST,
            "file_cpu_per_session_at_8_core": (median(files.cores) or 0.0) / N_AT_REST,
            "source_cpu_per_session_core": (median(runs[0].source_cores) or 0.0) / runs[0].n_sessions,
            "added_latency_p99_at_8_ms": None if at_rest.p99_s is None else 1000 * at_rest.p99_s,
        },
        at_most=AT_MOST,
        at_least=AT_LEAST,
        notes=[
            f"{'; '.join(map(str, (at_rest, *runs)))}.",
            f"CPU: median of {N_WINDOWS} windows of {WINDOW_S:g} s; at {N_AT_REST} sessions"
            f" {min(at_rest.cores):.3f} to {max(at_rest.cores):.3f} core.",
            f"Mute: nothing is sent to the avatar; {min(mute.cores):.3f} to {max(mute.cores):.3f} core.",
            f"Memory: resident at {runs[0].n_sessions} sessions less that at {N_AT_REST}, for each session more.",
            f"Prototype: {why_no_prototype}."
            if why_no_prototype
            else f"Prototype: its drain pump, the same source, the same RTMP server;"
            f" {min(prototype_cores):.3f} to {max(prototype_cores):.3f} core.",
        ],
    )


def _run(n_sessions: int, sink: Sink = Sink.RTMP, *, is_mute: bool = False) -> Run:
    """One daemon with so many sessions, from start to end. is_mute: their avatars are sent nothing at all."""
    speech = dict[str, Any](inputs={"nobody": {"url": "ws:"}}, idle_audio="none") if is_mute else {}
    memory = MEMORY if MEMORY.is_dir() else None
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="capacity-", dir=memory)))
        source = _other_core(stack, "benchmarks.source")
        avatar_url = source.first_line()
        match sink:
            case Sink.RTMP:
                url = f"{_other_core(stack, 'benchmarks.rtmp_sink').first_line()}/{{session}}"
            case Sink.WHIP:
                url = _other_core(stack, "benchmarks.whip_server").first_line()
            case Sink.FILE:
                url = "file:{session}.flv"
        names = [f"{SESSION}-{number}" for number in range(n_sessions)]
        outputs = {name: {"out": url.replace("{session}", name)} for name in names}
        port = free_port()
        config = write_sessions(directory, avatar_url, outputs, listen=f"127.0.0.1:{port}", **speech)
        bridge = stack.enter_context(Child(python("benchmarks.bridge_child", str(config))))
        time.sleep(WARM_UP_S + WARM_UP_PER_SESSION_S * n_sessions)
        began_s, before = time.monotonic(), _scrape(port)
        cores, source_cores = cpu_cores([bridge, source], N_WINDOWS, WINDOW_S)
        elapsed_s, after = time.monotonic() - began_s, _scrape(port)
        rss_bytes = bridge.rss_bytes()
        seen = after - before
        is_complete = seen[float("inf")] >= COMPLETE * n_sessions * FPS * elapsed_s
        p99_s = quantile(seen, 0.99) if is_complete else None
        return Run(n_sessions, cores, source_cores, rss_bytes, p99_s)


def _other_core(stack: ExitStack, module: str, *arguments: str) -> Child:
    """A program on the last core."""
    child = stack.enter_context(Child(python(module, *arguments)))
    child.run_on(max(os.sched_getaffinity(0)))
    return child


def _measure_prototype(directory: Path) -> tuple[list[float], str]:
    """CPU of each window, or none and why not."""
    if not (directory / "rcv_enc.py").is_file():
        return [], f"not measured, there is no rcv_enc.py in {directory}"
    port = free_port()
    try:
        with ExitStack() as stack:
            url = f"{_other_core(stack, 'benchmarks.rtmp_sink').first_line()}/prototype"
            # It measures by itself, and ends then; longer than anybody waits it never does.
            arguments = f"--port {port} --mode flv --pump drain --n {N_AT_REST} --win 3600 --out {url}".split()
            receiver = stack.enter_context(Child(python("benchmarks.prototype_child", str(directory), *arguments)))
            receiver.first_line()
            _other_core(stack, "benchmarks.offerer", str(port), str(N_AT_REST)).first_line()
            time.sleep(PROTOTYPE_WARM_UP_S)
            (cores,) = cpu_cores([receiver], N_WINDOWS, WINDOW_S)
            return cores, ""
    except RuntimeError as error:
        return [], f"not measured, it failed: {error}"


def _scrape(port: int) -> Counter[float]:
    """Pictures of all sessions so far with at most so much added latency, by the bounds of the histogram."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        return cumulated(response.read().decode())


def cumulated(metrics: str) -> Counter[float]:
    """The buckets of added latency in a text of metrics, over all its series."""
    found: Counter[float] = Counter()
    for family in text_string_to_metric_families(metrics):
        if family.name == "avatar_bridge_added_latency_seconds":
            for sample in family.samples:
                if sample.name.endswith("_bucket"):
                    found[float(sample.labels["le"])] += int(sample.value)
    return found


def quantile(buckets: Mapping[float, int], share: float) -> float | None:
    """The value that this share does not exceed, in its bucket as if values lay evenly there; None of nothing.

    buckets  values up to each bound, cumulated. Beyond the last finite bound there is no telling: infinity.
    """
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0
    if not total:
        return None
    rank, low, below = share * total, 0.0, 0
    for bound in bounds:
        if buckets[bound] >= rank:
            return low + (bound - low) * (rank - below) / (buckets[bound] - below)
        low, below = bound, buckets[bound]
    return None


def _memory_per_session_mib(few: Run, many: Run) -> float:
    return (many.rss_bytes - few.rss_bytes) / (many.n_sessions - few.n_sessions) / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prototype", type=Path, default=PROTOTYPE, help="directory of the prototype's rcv_enc.py")
    with ending_properly():
        measure(parser.parse_args().prototype).show()
