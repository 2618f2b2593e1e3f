"""How many sessions one process carries, and what a session costs beside others.

Each session takes 720p30 of 2.5 Mb/s and publishes it as FLV tags with AAC, over RTMP, to a server that throws them
away; the source replays to all of them. Both have the last core; the daemon goes where the system puts it. There are
more sessions from run to run until the added latency of the pictures of one has a 99th percentile above 10 ms, by the
daemon's own histogram. The prototype does the same job from the same source, but for the way up to the avatar; mute
sessions have none either.

With `--viewers N` it is one session that so many viewers watch, who are on the last core with the source. With `--api`
it is eight sessions, in turns alone and while operators (`benchmarks.operators`, on the last core too) use the API.
"""

import argparse
import json
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

from benchmarks import operators
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


VIEWERS_TITLE = "capacity: viewers (WHEP) of one 720p30 session of 2.5 Mb/s"
VIEWERS_AT_MOST = {"viewers_cpu_core": 0.6, "viewers_latency_p99_ms": 20.0}
# Each shakes hands, one after another, and is in the present a moment later.
VIEWERS_SETTLE_S = 3.0

API_TITLE = f"capacity: {N_AT_REST} sessions of 720p30 to RTMP while the API is used"
API_AT_MOST = {"api_latency_p99_extra_ms": 2.0}
API_AT_LEAST = {"api_requests_per_s": COMPLETE * operators.RATE_HZ}
# In turns: what the machine does by itself in these minutes is in both.
API_ROUNDS, API_ROUND_S = 4, 10.0


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
            "added_latency_p99_at_8_ms": _ms(at_rest.p99_s),
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
    with ExitStack() as stack:
        bridge, source, port = _begin(stack, n_sessions, sink, is_mute=is_mute)
        began_s, before = time.monotonic(), _scrape(port)
        cores, source_cores = cpu_cores([bridge, source], N_WINDOWS, WINDOW_S)
        elapsed_s, after = time.monotonic() - began_s, _scrape(port)
        rss_bytes = bridge.rss_bytes()
        seen = after - before
        is_complete = seen[float("inf")] >= COMPLETE * n_sessions * FPS * elapsed_s
        p99_s = quantile(seen, 0.99) if is_complete else None
        return Run(n_sessions, cores, source_cores, rss_bytes, p99_s)


def _begin(
    stack: ExitStack, n_sessions: int, sink: Sink = Sink.RTMP, *, is_mute: bool = False, is_talking: bool = False
) -> tuple[Child, Child, int]:
    """A daemon whose sessions are on air, their source, and the port of its API. is_talking: avatars send words."""
    speech = dict[str, Any](inputs={"nobody": {"url": "ws:"}}, idle_audio="none") if is_mute else {}
    memory = MEMORY if MEMORY.is_dir() else None
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="capacity-", dir=memory)))
    source = _other_core(stack, "benchmarks.source", *(["talking"] if is_talking else []))
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
    return bridge, source, port


def measure_api() -> Findings:
    """One daemon, in turns alone and while its API is used."""
    load_media()
    quiet, busy = Counter[float](), Counter[float]()
    quiet_cores, busy_cores, seen = list[float](), list[float](), list[dict[str, float]]()
    measured_s = 0.0
    with ExitStack() as stack:
        bridge, _, port = _begin(stack, N_AT_REST, is_talking=True)

        def watch(latencies: Counter[float], cores: list[float]) -> None:
            nonlocal measured_s
            began_s, before = time.monotonic(), _scrape(port)
            cores += cpu_cores([bridge], 1, API_ROUND_S)[0]
            latencies += _scrape(port) - before
            measured_s += time.monotonic() - began_s

        for _ in range(API_ROUNDS):
            watch(quiet, quiet_cores)
            with ExitStack() as using:
                others = _other_core(using, "benchmarks.operators", f"http://127.0.0.1:{port}")
                others.first_line()
                watch(busy, busy_cores)
                seen.append(json.loads(others.finish()))
    n_pictures = quiet[float("inf")] + busy[float("inf")]
    is_complete = n_pictures >= COMPLETE * N_AT_REST * FPS * measured_s
    quiet_p99_s, busy_p99_s = (quantile(latencies, 0.99) if is_complete else None for latencies in (quiet, busy))
    extra_s = None if quiet_p99_s is None or busy_p99_s is None else busy_p99_s - quiet_p99_s
    return Findings(
        title=API_TITLE,
        figures={
            "api_latency_p99_extra_ms": _ms(extra_s),
            "api_quiet_latency_p99_ms": _ms(quiet_p99_s),
            "api_latency_p99_ms": _ms(busy_p99_s),
            "api_requests_per_s": min(each["requests_per_s"] for each in seen),
            "api_events_per_s": min(each["events_per_s"] for each in seen),
            "api_answer_p50_ms": max(each["answer_p50_ms"] for each in seen),
            "api_answer_p99_ms": max(each["answer_p99_ms"] for each in seen),
            "api_cpu_core": (median(busy_cores) or 0.0) - (median(quiet_cores) or 0.0),
        },
        at_most=API_AT_MOST,
        at_least=API_AT_LEAST,
        notes=[
            f"{API_ROUNDS} rounds of {API_ROUND_S:g} s alone and as long with {operators.RATE_HZ} requests a second and"
            f" {operators.N_FOLLOWERS} event streams; of requests and answers the worst round. Latency: a picture's"
            " last packet received to its last byte written, by the daemon's histogram.",
            "" if is_complete else f"Pictures are missing: {n_pictures} came in {measured_s:.0f} s.",
        ],
    )


def measure_viewers(n_viewers: int) -> Findings:
    """One daemon with one session, before and while so many watch."""
    load_media()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="capacity-")))
        source = _other_core(stack, "benchmarks.source")
        port = free_port()
        outputs = {SESSION: {"stage": "whep:"}}
        config = write_sessions(directory, source.first_line(), outputs, listen=f"127.0.0.1:{port}")
        bridge = stack.enter_context(Child(python("benchmarks.bridge_child", str(config))))
        time.sleep(WARM_UP_S + WARM_UP_PER_SESSION_S)
        (alone_cores,) = cpu_cores([bridge], N_WINDOWS, WINDOW_S)
        alone_bytes = bridge.rss_bytes()
        url = f"http://127.0.0.1:{port}/v1/sessions/{SESSION}/whep/stage"
        viewers = _other_core(stack, "benchmarks.viewers", url, str(n_viewers))
        viewers.first_line()
        watching_s = time.monotonic()
        time.sleep(VIEWERS_SETTLE_S)
        before = _scrape(port)
        cores, viewers_cores = cpu_cores([bridge, viewers], N_WINDOWS, WINDOW_S)
        latencies = _scrape(port) - before
        memory_bytes = bridge.rss_bytes() - alone_bytes
        watched_s = time.monotonic() - watching_s  # what they have got since is counted
        seen: dict[str, Any] = json.loads(viewers.finish())
    is_complete = min(seen["pictures"]) >= COMPLETE * FPS * watched_s
    p99_s = quantile(latencies, 0.99) if is_complete else None
    cpu_core, alone_core = median(cores) or 0.0, median(alone_cores) or 0.0
    return Findings(
        title=VIEWERS_TITLE,
        figures={
            "viewers_cpu_core": cpu_core,
            "viewers_latency_p99_ms": _ms(p99_s),
            "viewers_none_cpu_core": alone_core,
            "viewers_each_cpu_core": (cpu_core - alone_core) / n_viewers,
            "viewers_each_memory_mib": memory_bytes / n_viewers / 2**20,
            "viewers_path_p50_ms": seen["path_p50_ms"],
            "viewers_path_p99_ms": seen["path_p99_ms"],
        },
        at_most=VIEWERS_AT_MOST,
        notes=[
            f"{n_viewers} viewers; {min(cores):.3f} to {max(cores):.3f} core in {N_WINDOWS} windows of {WINDOW_S:g} s."
            f" Viewers themselves: {median(viewers_cores):.3f} core.",
            "Latency: a picture's last packet received to its last byte written to the last viewer, by the daemon's"
            " histogram. Path: from the source's stamp to when the viewers, all of one process, have read it.",
            "" if is_complete else f"Pictures are missing: {min(seen['pictures'])} to {max(seen['pictures'])} came.",
        ],
    )


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


def _ms(duration_s: float | None) -> float | None:
    return None if duration_s is None else 1000 * duration_s


def _memory_per_session_mib(few: Run, many: Run) -> float:
    return (many.rss_bytes - few.rss_bytes) / (many.n_sessions - few.n_sessions) / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prototype", type=Path, default=PROTOTYPE, help="directory of the prototype's rcv_enc.py")
    parser.add_argument("--viewers", type=int, metavar="N", help="measure N viewers of one session instead")
    parser.add_argument("--api", action="store_true", help="measure what use of the API adds instead")
    arguments = parser.parse_args()
    with ending_properly():
        if arguments.api:
            findings = measure_api()
        elif arguments.viewers:
            findings = measure_viewers(arguments.viewers)
        else:
            findings = measure(arguments.prototype)
        findings.show()
