"""How long viewers see no intact picture when the way from the avatar loses packets, beside GStreamer and stock aiortc.

Between the source and the bridge stands a link (`tests.net.link`) that loses datagrams in both directions. As many
sessions as there are seeds run side by side in one bridge, each over a link with a seed of its own; what they publish
passes a tap. A picture counts if a decoder would show it as it was encoded (`benchmarks.intact`).

Options: --seeds N (10), --seconds N (60).
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import gst_session
from benchmarks.configuration import write_sessions
from benchmarks.intact import intact, longest_gap_ms, source_checksums
from benchmarks.lipsync import write_tone
from benchmarks.media import load_media
from benchmarks.processes import Child, ending_properly, python
from benchmarks.report import Findings, median, percentile
from benchmarks.tap import SKIPPED_S, Picture
from tests.interop.nginx_rtmp import NginxRtmp, why_unavailable
from tests.net.conditions import Conditions
from tests.net.link import link_command

N_SEEDS, SECONDS = 10, 60.0
# Connections come up one after another, each with its imports done: a second of CPU for ten of them.
START_S = 6.0
# Loss begins once they are up; what has happened by the time a tap counts is forgotten.
CLEAR_S = 2.0
OUTAGE_S = 0.6
OUTAGES_AT_S = (12.0, 20.0, 28.0)
# Four processes of stock aiortc decode beside the source on two cores; more would measure the machine.
N_STOCK = 4

TITLE = "loss: longest time without an intact picture"
BOUNDS = {
    "freeze_1pct_median_ms": 150.0,
    "freeze_1pct_worst_ms": 260.0,
    "gst_ratio": 1 / 3,
    "freeze_burst_median_ms": 450.0,
    "freeze_burst_worst_ms": 700.0,
    "outage_extra_ms": 250.0,
    "path_latency_1pct_p99_ms": 130.0,
}


@dataclass(frozen=True, slots=True)
class Case:
    """A link that is the same both ways."""

    round_trip_ms: float
    loss: float = 0.0
    burst: int = 1
    outages_s: tuple[tuple[float, float], ...] = ()

    def link(self, avatar_url: str) -> list[str]:
        way = Conditions(
            delay_ms=self.round_trip_ms / 2,
            loss=self.loss,
            burst=self.burst,
            outages_s=self.outages_s,
            clear_s=CLEAR_S,
        )
        return python(*link_command(avatar_url, down=way, up=way))


RANDOM = Case(50.0, loss=0.01)
BURSTS = Case(80.0, loss=0.05, burst=5)
OUTAGE = Case(50.0, outages_s=tuple((at_s, OUTAGE_S) for at_s in OUTAGES_AT_S))


@dataclass(frozen=True, slots=True)
class Result:
    """gaps_ms: the longest of each session. path_ms: stamp to tap without the link's delay, of all pictures."""

    gaps_ms: list[float]
    path_ms: list[float]
    why_not: str = ""

    @property
    def worst_ms(self) -> float | None:
        return max(self.gaps_ms, default=None)


class Stage:
    """What all cases share: the source, the RTMP server, and what was sent."""

    def __init__(self, stack: ExitStack) -> None:
        self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loss-")))
        self.nginx = stack.enter_context(NginxRtmp(self.directory / "nginx"))
        self.avatar_url = stack.enter_context(Child(python("benchmarks.source"))).first_line()
        self.tone = write_tone(self.directory / "tone.wav")
        self.whole = source_checksums()

    def bridge(self, case: Case, n_sessions: int, seconds: float) -> Result:
        """Sessions of one bridge."""
        with ExitStack() as stack:
            link = stack.enter_context(Child(case.link(self.avatar_url)))
            tap = stack.enter_context(Child(python("benchmarks.tap", str(self.nginx.rtmp_port))))
            url = f"rtmp://127.0.0.1:{tap.first_line()}/live"
            sessions = {f"session{index}": {"rtmp": f"{url}/bridge{index}"} for index in range(n_sessions)}
            config = write_sessions(
                self.directory, link.first_line(), sessions, speech=self.tone, loop=False, idle_audio="none"
            )
            bridge = stack.enter_context(Child(python("benchmarks.bridge_child", str(config))))
            return self._look_on(case, [bridge], tap, n_sessions, seconds)

    def gstreamer(self, case: Case, n_sessions: int, seconds: float) -> Result:
        """One process for each session."""
        try:
            with ExitStack() as stack:
                link = stack.enter_context(Child(case.link(self.avatar_url)))
                tap = stack.enter_context(Child(python("benchmarks.tap", str(self.nginx.rtmp_port))))
                avatar_url, url = link.first_line(), f"rtmp://127.0.0.1:{tap.first_line()}/live"
                running = [
                    stack.enter_context(gst_session.running("robust", avatar_url, f"{url}/gstreamer{index}"))
                    for index in range(n_sessions)
                ]
                return self._look_on(case, running, tap, n_sessions, seconds)
        except gst_session.FAILURES as error:
            return Result([], [], str(error))

    def stock(self, case: Case, n_sessions: int, seconds: float) -> Result:
        """One process for each session, which decodes and does nothing with the pictures: all of them count."""
        with ExitStack() as stack:
            link = stack.enter_context(Child(case.link(self.avatar_url)))
            avatar_url = link.first_line()
            running = [stack.enter_context(Child(python("benchmarks.stock", avatar_url))) for _ in range(n_sessions)]
            time.sleep(START_S + seconds)
            end_ns = time.monotonic_ns()
            gaps_ms = []
            for one in running:
                times_ns = [read_ns for read_ns, _ in json.loads(one.finish())]
                begin_ns = times_ns[0] + round(SKIPPED_S * 1e9)
                gaps_ms.append(longest_gap_ms(times_ns, begin_ns, end_ns))
            return Result(gaps_ms, [])

    def _look_on(self, case: Case, running: Sequence[Child], tap: Child, n_sessions: int, seconds: float) -> Result:
        time.sleep(START_S + seconds)
        end_ns = time.monotonic_ns()
        for one in running:
            one.finish()
        published = [[Picture(*row) for row in one["pictures"]] for one in json.loads(tap.finish())]
        if len(published) != n_sessions or not all(published):
            raise RuntimeError(f"{len(published)} connections for {n_sessions} sessions")
        result = Result([], [])
        for pictures in published:
            begin_ns = pictures[0].read_ns + round(SKIPPED_S * 1e9)
            shown = [picture for picture in intact(pictures, self.whole) if picture.read_ns <= end_ns]
            result.gaps_ms.append(longest_gap_ms([picture.read_ns for picture in shown], begin_ns, end_ns))
            result.path_ms.extend(
                (picture.read_ns - picture.stamp_ns) / 1e6 - case.round_trip_ms / 2
                for picture in shown
                if picture.stamp_ns is not None and picture.read_ns > begin_ns
            )
        return result


def measure(n_seeds: int = N_SEEDS, seconds: float = SECONDS) -> Findings:
    if reason := why_unavailable():
        return Findings.missing(TITLE, BOUNDS, reason)
    load_media()  # encoded before anything is measured
    gst_session.install()
    with ExitStack() as stack:
        stage = Stage(stack)
        ours = stage.bridge(RANDOM, n_seeds, seconds)
        bursts = stage.bridge(BURSTS, n_seeds, seconds)
        outage = stage.bridge(OUTAGE, n_seeds, OUTAGES_AT_S[-1])
        gst = stage.gstreamer(RANDOM, n_seeds, seconds)
        stock = stage.stock(RANDOM, min(n_seeds, N_STOCK), seconds)
    ours_ms, gst_ms = median(ours.gaps_ms), median(gst.gaps_ms)
    return Findings(
        title=TITLE,
        figures={
            "freeze_1pct_median_ms": ours_ms,
            "freeze_1pct_worst_ms": ours.worst_ms,
            "gst_freeze_1pct_median_ms": gst_ms,
            "gst_ratio": ours_ms / gst_ms if ours_ms is not None and gst_ms else None,
            "stock_freeze_1pct_median_ms": median(stock.gaps_ms),
            "freeze_burst_median_ms": median(bursts.gaps_ms),
            "freeze_burst_worst_ms": bursts.worst_ms,
            "outage_extra_ms": outage.worst_ms - OUTAGE_S * 1000 if outage.worst_ms is not None else None,
            "path_latency_1pct_p50_ms": percentile(ours.path_ms, 50),
            "path_latency_1pct_p99_ms": percentile(ours.path_ms, 99),
        },
        at_most=BOUNDS,
        notes=[
            f"{n_seeds} seeds of {seconds:g} s side by side in one bridge; each loses other packets, both ways.",
            f"1 % at {RANDOM.round_trip_ms:g} ms round trip: {_list(ours)}. Path latency is without the link's delay.",
            f"5 % in bursts of 5 at {BURSTS.round_trip_ms:g} ms: {_list(bursts)}.",
            f"Outages of {OUTAGE_S:g} s, {len(OUTAGES_AT_S)} in each session, at {OUTAGE.round_trip_ms:g} ms:"
            f" {_list(outage)}; the worst less {OUTAGE_S:g} s is the figure.",
            f"gst: not measured, {gst.why_not}." if gst.why_not else f"gst, a process each, 1 %: {_list(gst)}.",
            f"stock aiortc, {len(stock.gaps_ms)} processes that decode, 1 %: {_list(stock)}; damaged pictures count"
            " as shown there.",
        ],
    )


def _list(result: Result) -> str:
    return f"{' '.join(f'{gap_ms:.0f}' for gap_ms in sorted(result.gaps_ms))} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=TITLE)
    parser.add_argument("--seeds", type=int, default=N_SEEDS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    arguments = parser.parse_args()
    measure(arguments.seeds, arguments.seconds).show()


if __name__ == "__main__":
    with ending_properly():
        main()
