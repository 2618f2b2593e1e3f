"""Random faults for minutes on end: of the avatar service, of its network, and of the server of one output of three.

`python -m benchmarks.soak [--minutes 10] [--seed N]`: a fault every 12 s; `make bench` takes 2 minutes of it. What two
healthy outputs, an RTMP server and a Matroska file, recorded is read back, and the daemon's memory is watched. Faults
are planned ahead; those that the local avatar commits travel in the URL of whatever connection is to have them.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from benchmarks.beats import write_tone
from benchmarks.configuration import free_port
from benchmarks.processes import ending_properly, python
from benchmarks.report import Findings
from benchmarks.stretches import Picture, Stretch, is_near, offsets, read_recording, stretches
from bridge.media.clock import NS_PER_S
from tests.e2e.processes import Daemon, Program, Setting
from tests.e2e.service import FaultRelay, StampedAvatar
from tests.interop.nginx_rtmp import NginxRtmp, why_unavailable

MINUTES, BENCH_MINUTES = 10.0, 2.0
EVERY_S = 12.0
# Everybody is live by then; and the last fault is over.
LEAD_S, REST_S = 8.0, 12.0
# A new connection gets no fault before it has been live for a while.
GRACE_S = 5.0
SERVICE_AWAY_S = (1.0, 5.0)
SERVER_AWAY_S = 3.0
# An output that moves nothing for 10 s is given up.
WEDGED_S = 14.0
SAMPLE_S = 0.5

# Whatever ends a connection comes first in every round, so that a connection has each of the others once at most.
ENDS = ("service-killed", "ws-drop", "ws-close", "media-stall")
# Within a live stretch, sound and picture are aligned anew. What the avatar leaves out while its media connection is
# down it does not deliver, nor what it sends on a new SSRC before it is asked for a keyframe.
INTERRUPTIONS = ("media-close", "timestamp-reset", "ssrc-change")
SERVER_FAULTS = ("server-killed", "server-wedged", "server-reset")
COMMITTED_BY_AVATAR = {*ENDS, *INTERRUPTIONS} - {"service-killed"}

TITLE = "soak: {faults} random faults in {minutes:g} minutes, two healthy outputs and one that is tormented"
BOUNDS = {
    "memory_growth_pct": 2.0,
    "healthy_output_gap_max_ms": 80.0,
    "timestamps_back": 0,
    "av_offset_max_abs_ms": 10.0,
    "disconnects_healthy": 0,
    "exceptions": 0,
    "to_slate_max_ms": 1200.0,
}
HEALTHY_KEY, TORMENTED_KEY = "healthy", "tormented"


@dataclass(slots=True)
class Fault:
    """at_s: since the start, as planned.  struck_ns: `time.monotonic_ns` at which it struck; 0: it has not."""

    at_s: float
    name: str
    struck_ns: int = 0


def plan(rng: random.Random, minutes: float) -> list[Fault]:
    """One fault every `EVERY_S`, give or take a third; each kind as often as the others."""
    n_faults = max(1, round(minutes * 60 / EVERY_S))
    step_s = (minutes * 60 - LEAD_S - REST_S) / n_faults
    names: list[str] = []
    while len(names) < n_faults:
        first, *ends = rng.sample(ENDS, len(ENDS))
        names += [first, *rng.sample((*ends, *INTERRUPTIONS, *SERVER_FAULTS), len(ends) + 6)]
    return [Fault(LEAD_S + (i + rng.uniform(-0.3, 0.3)) * step_s, name) for i, name in enumerate(names[:n_faults])]


class Service:
    """The avatar service and what befalls it and its connections."""

    def __init__(self, avatar: StampedAvatar, faults: Sequence[Fault], began_s: float) -> None:
        self.relay = FaultRelay(avatar.url, self._on_open, self._on_close)
        self._avatar = avatar
        self._faults = [fault for fault in faults if fault.name in COMMITTED_BY_AVATAR]
        self._began_s = began_s
        self._carried: dict[str, tuple[Fault, float]] = {}

    async def kill(self, away_s: float) -> None:
        await self._avatar.kill()
        await asyncio.sleep(away_s)
        await self._avatar.start()

    def _on_open(self) -> Iterable[str]:
        now_s = asyncio.get_running_loop().time() - self._began_s
        for fault in self._faults:
            if not fault.struck_ns and fault.name not in self._carried:
                self._carried[fault.name] = (fault, max(fault.at_s, now_s + GRACE_S))
        return [f"{name}:{at_s - now_s:.2f}" for name, (_, at_s) in self._carried.items()]

    def _on_close(self) -> None:
        """Note which faults of the connection have struck; its end may be one, a moment before its time."""
        now_s = asyncio.get_running_loop().time() - self._began_s
        for fault, at_s in self._carried.values():
            if at_s <= now_s + 0.1:
                fault.struck_ns = time.monotonic_ns() - round((now_s - at_s) * NS_PER_S)
        self._carried.clear()


class Wire:
    """A TCP relay before a server: it can stop reading for a while, and reset whoever is connected."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._clients: set[asyncio.StreamWriter] = set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """Its port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=4096)
        async with server:
            yield server.sockets[0].getsockname()[1]

    async def wedge(self) -> None:
        self._may_read.clear()
        await asyncio.sleep(WEDGED_S)
        self._may_read.set()

    def reset(self) -> None:
        for client in self._clients:
            client.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
            copies = [asyncio.create_task(self._copy(*ends)) for ends in ((reader, far_writer), (far_reader, writer))]
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
            for copy in copies:
                copy.cancel()
            await asyncio.wait(copies)
            far_writer.transport.abort()
        except OSError:
            pass  # the server is not there
        finally:
            self._clients.discard(writer)
            writer.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while await self._may_read.wait() and (data := await reader.read(4096)):
                writer.write(data)
                await writer.drain()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What is left of a run. rss_bytes: of the daemon, one every `SAMPLE_S`.  arrivals: each picture's arrival at the
    healthy RTMP server, in `monotonic_ns`, with its stamp."""

    faults: list[Fault]
    rss_bytes: list[int]
    recordings: list[Path]
    arrivals: list[tuple[int, int | None]]
    disconnects_healthy: int
    disconnects_tormented: int
    exceptions: int


async def run(directory: Path, minutes: float, seed: int) -> Outcome:
    rng = random.Random(seed)
    faults = plan(rng, minutes)
    loop = asyncio.get_running_loop()
    healthy, tormented = NginxRtmp(directory / "healthy"), NginxRtmp(directory / "tormented")
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(healthy)
        await stack.enter_async_context(tormented)
        tap = await stack.enter_async_context(Program(*python("benchmarks.tap", str(healthy.rtmp_port))))
        wire = Wire(tormented.rtmp_port)
        wire_port = await stack.enter_async_context(wire.listening())
        avatar = await stack.enter_async_context(StampedAvatar(directory, free_port()))
        began_s = loop.time()
        service = Service(avatar, faults, began_s)
        setting = Setting(directory, await stack.enter_async_context(service.relay.listening()))
        setting.input(write_tone(directory / "tone.wav"))
        setting.rtmp("healthy", f"rtmp://127.0.0.1:{await tap.said()}/live", key=HEALTHY_KEY)
        setting.rtmp("tormented", f"rtmp://127.0.0.1:{wire_port}/live", key=TORMENTED_KEY)
        setting.recording("recording", url="file:soak.mkv")
        daemon = await stack.enter_async_context(setting.daemon())
        rss_bytes: list[int] = []
        sampling = asyncio.create_task(_sample_rss(daemon.pid, rss_bytes))
        async with asyncio.TaskGroup() as striking:
            for fault in faults:
                await asyncio.sleep(began_s + fault.at_s - loop.time())
                print(f"{fault.at_s:7.1f} s  {fault.name}", file=sys.stderr, flush=True)
                if fault.name not in COMMITTED_BY_AVATAR:
                    fault.struck_ns = time.monotonic_ns()
                    striking.create_task(_strike(fault.name, rng.uniform(*SERVICE_AWAY_S), service, wire, tormented))
        await asyncio.sleep(began_s + minutes * 60 - loop.time())
        metrics = await daemon.metrics()
        sampling.cancel()
        if status := await daemon.stop():
            raise RuntimeError(f"the daemon ended with {status}:\n{daemon.everything()}")
        await tap.stop()
        (connection,) = json.loads(tap.stdout[-1])
        recording = await asyncio.to_thread(healthy.finished_recording, HEALTHY_KEY)
        disconnects = [metrics.total("output_reconnects_total", output=name) for name in ("healthy", "tormented")]
        return Outcome(
            faults=faults,
            rss_bytes=rss_bytes,
            recordings=[recording, *setting.recordings.glob("*.mkv")],
            arrivals=[(read_ns, stamp_ns) for read_ns, stamp_ns, *_ in connection["pictures"]],
            disconnects_healthy=int(disconnects[0]) + len(healthy.recordings(HEALTHY_KEY)) - 1,
            disconnects_tormented=int(disconnects[1]),
            exceptions=_n_exceptions(daemon),
        )


async def _strike(name: str, away_s: float, service: Service, wire: Wire, server: NginxRtmp) -> None:
    match name:
        case "service-killed":
            await service.kill(away_s)
        case "server-killed":
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(SERVER_AWAY_S)
            await asyncio.to_thread(server.restart)
        case "server-wedged":
            await wire.wedge()
        case "server-reset":
            wire.reset()


async def _sample_rss(pid: int, rss_bytes: list[int]) -> None:
    while True:
        await asyncio.sleep(SAMPLE_S)
        rss_bytes.append(_rss_bytes(pid))


def _rss_bytes(pid: int) -> int:
    # proc(5): the second number is the resident set, in pages.
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def _n_exceptions(daemon: Daemon) -> int:
    return sum('"exception"' in line or "Traceback" in line for line in daemon.stderr)


def findings(outcome: Outcome, minutes: float, seed: int) -> Findings:
    interruptions_ns = [f.struck_ns for f in outcome.faults if f.name in INTERRUPTIONS]
    recorded = [read_recording(path) for path in outcome.recordings]
    parts = [stretches(one.pictures) for one in recorded]
    numbers = {p.stamp[1]: p.stamp[0] for one in recorded for p in one.pictures if p.stamp}
    arrived = stretches(
        Picture(read_ns / NS_PER_S, None if ns is None else (numbers[ns], ns)) for read_ns, ns in outcome.arrivals
    )
    offsets_ms = [
        1000 * abs(offset_s)
        for path, its in zip(outcome.recordings, parts, strict=True)
        for offset_s in offsets(path, its, interruptions_ns)
    ]
    to_slate_s = [
        later.start_s - earlier.end_s for its in parts for earlier, later in pairwise(its) if not later.is_live
    ]
    gaps = [longest_gap(its, interruptions_ns) for its in parts]
    arrival_gap = longest_gap(arrived, interruptions_ns)
    n_struck = sum(fault.struck_ns > 0 for fault in outcome.faults)
    figures = {
        "faults": n_struck,
        "memory_growth_pct": growth_pct(outcome.rss_bytes),
        "healthy_output_gap_max_ms": 1000 * max(gaps).gap_s,
        "healthy_arrival_gap_max_ms": 1000 * arrival_gap.gap_s,
        "sound_gap_max_ms": 1000 * max(one.longest_silence_s for one in recorded),
        "timestamps_back": sum(one.timestamps_back for one in recorded),
        "av_offset_max_abs_ms": max(offsets_ms, default=None),
        "beats": len(offsets_ms),
        "disconnects_healthy": outcome.disconnects_healthy + len(outcome.recordings) - 2,
        "disconnects_tormented": outcome.disconnects_tormented,
        "exceptions": outcome.exceptions,
        "to_slate_max_ms": 1000 * max(to_slate_s, default=0.0),
        "live_stretches": sum(part.is_live for part in parts[0]),
        "slates": sum(not part.is_live for part in parts[0]),
        "rss_end_mib": statistics.fmean(outcome.rss_bytes[-20:]) / 2**20,
    }
    kinds = sorted({fault.name for fault in outcome.faults})
    struck = (f"{sum(f.name == kind and f.struck_ns > 0 for f in outcome.faults)} {kind}" for kind in kinds)
    return Findings(
        title=TITLE.format(faults=n_struck, minutes=minutes),
        figures=figures,
        at_most=BOUNDS,
        notes=[
            f"Seed {seed}. Faults: {', '.join(struck)}.",
            "Gaps are within stretches in which the avatar delivers or a slate stands; by presentation time in both"
            " recordings, and by arrival at the RTMP server.",
            f"The longest ones: {'; '.join(map(str, (*gaps, arrival_gap)))}.",
        ],
    )


@dataclass(frozen=True, slots=True, order=True)
class Gap:
    """Two pictures in a row that are far apart."""

    gap_s: float
    earlier: Picture = field(compare=False)
    later: Picture = field(compare=False)

    def __str__(self) -> str:
        text = f"{1000 * self.gap_s:.0f} ms at {self.earlier.time_s:.2f} s"
        if self.earlier.stamp and self.later.stamp:
            (number, ns), (later_number, later_ns) = self.earlier.stamp, self.later.stamp
            text += f" between pictures {number} and {later_number}, encoded {(later_ns - ns) / 1e6:.0f} ms apart"
        return text


def longest_gap(of: Iterable[Stretch], interruptions_ns: Sequence[int]) -> Gap:
    """Between two pictures, but for those that an interruption of its network kept the avatar from sending."""

    def is_delivered(earlier: Picture, later: Picture) -> bool:
        if earlier.stamp is None or later.stamp is None or later.stamp[0] == earlier.stamp[0] + 1:
            return True
        return not any(is_near(later, ns, 0.0) for ns in interruptions_ns)

    pairs = (pair for stretch in of for pair in pairwise(stretch.pictures) if is_delivered(*pair))
    return max(Gap(later.time_s - earlier.time_s, earlier, later) for earlier, later in pairs)


def growth_pct(rss_bytes: Sequence[int]) -> float:
    """How much more the last third has than the middle one, on average."""
    third = len(rss_bytes) // 3
    middle, last = statistics.fmean(rss_bytes[third : 2 * third]), statistics.fmean(rss_bytes[-third:])
    return 100 * (last / middle - 1)


def measure(minutes: float = BENCH_MINUTES, seed: int = 1) -> Findings:
    if reason := why_unavailable():
        return Findings.missing(TITLE.format(faults="no", minutes=minutes), BOUNDS, reason)
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        return findings(asyncio.run(run(Path(directory), minutes, seed)), minutes, seed)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--seed", type=int, default=None, help="to repeat a run; drawn and shown otherwise")
    options = parser.parse_args()
    measure(options.minutes, random.randrange(10**6) if options.seed is None else options.seed).show()


if __name__ == "__main__":
    with ending_properly():
        main()
