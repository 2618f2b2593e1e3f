"""Viewers of one output, as a program: `python -m benchmarks.viewers URL N` prints `watching` once all are connected.

At SIGTERM it prints one JSON object: pictures that each viewer has got since, and for the pictures of all of them
milliseconds from their stamp to when their last packet was read. Reading 15 000 packets a second takes a while, too:
what the last viewer's picture waited for here is in these figures, and no fault of the sender's.
"""

import asyncio
import json
import sys

import httpx

from benchmarks.report import percentile
from benchmarks.whip_server import Pictures, Sound
from bridge.net.ice import IceSettings
from bridge.net.peer import ReceivingPeer
from bridge.ops.logs import configure_logging
from bridge.ports import RemoteTrack, TrackSink
from bridge.signals import STOP_SIGNALS, on_signals

# A daemon that has just begun has no picture yet.
PATIENCE_S = 60.0
# Hand-shakes wait for one another's answers.
AT_ONCE = 8
_OFFER = {"Content-Type": "application/sdp"}


class Viewer:
    """One viewer, and its pictures. is_watching: its connection is up."""

    def __init__(self) -> None:
        self.pictures = Pictures()
        self.is_watching = asyncio.Event()

    async def run(self, client: httpx.AsyncClient, url: str, door: asyncio.Semaphore) -> None:
        async with ReceivingPeer(IceSettings(("lo",)), self._on_track) as peer:
            async with door:
                await self._enter(peer, client, url)
            await peer.run()

    async def _enter(self, peer: ReceivingPeer, client: httpx.AsyncClient, url: str) -> None:
        offer = await peer.offer()
        while (answer := await client.post(url, content=offer, headers=_OFFER)).status_code == 503:  # noqa: ASYNC110
            await asyncio.sleep(float(answer.headers["retry-after"]))
        await peer.accept(answer.raise_for_status().text)
        await peer.connected()
        self.is_watching.set()

    def _on_track(self, track: RemoteTrack) -> TrackSink:
        return self.pictures if track.kind == "video" else Sound()


async def watch_until_stopped(url: str, n_viewers: int) -> dict[str, object]:
    stopped = asyncio.Event()
    viewers = [Viewer() for _ in range(n_viewers)]
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as client, asyncio.TaskGroup() as tasks:
        door = asyncio.Semaphore(AT_ONCE)
        watching = [tasks.create_task(viewer.run(client, url, door)) for viewer in viewers]
        async with asyncio.timeout(PATIENCE_S):
            for viewer in viewers:
                await viewer.is_watching.wait()
        before = [len(viewer.pictures.seen) for viewer in viewers]
        with on_signals(STOP_SIGNALS, stopped.set):
            print("watching", flush=True)
            await stopped.wait()
        seen = [viewer.pictures.seen[first:] for viewer, first in zip(viewers, before, strict=True)]
        for task in watching:
            task.cancel()
    paths_ms = [(read_ns - stamp_ns) / 1e6 for each in seen for read_ns, stamp_ns in each if stamp_ns is not None]
    return {
        "pictures": [len(each) for each in seen],
        "path_p50_ms": percentile(paths_ms, 50),
        "path_p99_ms": percentile(paths_ms, 99),
    }


if __name__ == "__main__":
    configure_logging("warning")  # standard output is for what it says itself
    print(json.dumps(asyncio.run(watch_until_stopped(sys.argv[1], int(sys.argv[2])))))
