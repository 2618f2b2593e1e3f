"""An avatar service and a client that connects to it again and again; each counts what its process holds.

    python -m tests.e2e.counted service     prints its URL, then its counts for every line on standard input
    python -m tests.e2e.counted client URL  connects as often as a line says, then prints its counts

Both are processes of their own: pytest's would count whatever other tests have left.
"""

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator

from bridge.local_avatar.options import LocalAvatarOptions
from bridge.local_avatar.server import LocalAvatar
from bridge.media.access_unit import AccessUnit
from bridge.net.ice import IceSettings
from bridge.ops.logs import configure_logging
from bridge.ports import AvatarEvent, AvatarLink, RemoteTrack, ToolCall, TrackSink
from bridge.providers.navtalk import NavTalkProvider
from bridge.providers.navtalk_options import NavTalkOptions
from bridge.reception import Reception
from bridge.redact import Secret
from tests.e2e.processes import LICENSE, PATIENCE_S


def counts() -> dict[str, int]:
    """What this process holds now: tasks, open descriptors by kind, threads, and KiB of memory of its own."""
    gc.collect()
    # What is free goes back to the system, so that it is not taken for held.
    ctypes.CDLL(None).malloc_trim(0)
    kinds: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        try:
            kinds[os.readlink(f"/proc/self/fd/{fd}").partition(":")[0]] += 1
        except FileNotFoundError:
            pass  # the directory's own
    with open("/proc/self/smaps_rollup") as rollup:
        (dirty_kib,) = (int(line.split()[1]) for line in rollup if line.startswith("Private_Dirty:"))
    return {
        "tasks": len(asyncio.all_tasks()),
        "sockets": kinds.pop("socket", 0),
        "other files": kinds.total(),
        "threads": len(os.listdir("/proc/self/task")),
        "KiB of memory": dirty_kib,
    }


class Viewer:
    """Waits for the first picture."""

    def __init__(self) -> None:
        self.reception = Reception(time.monotonic_ns(), self._on_unit, {})
        self.has_seen = asyncio.Event()

    def on_track(self, track: RemoteTrack) -> TrackSink:
        return self.reception.on_track(track)

    def on_ready(self, link: AvatarLink) -> None:
        pass

    def on_limit(self, left_s: float) -> None:
        pass

    def on_event(self, event: AvatarEvent) -> None:
        pass

    def on_tool_call(self, call: ToolCall) -> None:
        pass

    def _on_unit(self, unit: AccessUnit) -> None:
        if unit.codec.kind == "video":
            self.has_seen.set()


async def connect_once(url: str) -> None:
    options = NavTalkOptions(url=Secret.url(url), license=Secret(LICENSE), name="navtalk.Leo", role="speak")
    viewer = Viewer()
    serving = asyncio.create_task(NavTalkProvider(options, IceSettings(interfaces=("lo",))).run(viewer))
    seeing = asyncio.create_task(viewer.has_seen.wait())
    await asyncio.wait((serving, seeing), timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    for task in (serving, seeing):
        task.cancel()
    await asyncio.wait((serving, seeing))
    viewer.reception.close()
    if not viewer.has_seen.is_set():
        raise SystemExit(f"no picture: {serving}")


async def client(url: str) -> None:
    async for line in commands():
        for _ in range(int(line)):
            await connect_once(url)
        print(json.dumps(counts()), flush=True)


async def service() -> None:
    options = LocalAvatarOptions(listen_port=0, size_px=(180, 320))
    running = asyncio.create_task(LocalAvatar(options, lambda url: print(url, flush=True)).run())
    n_idle_tasks: int | None = None
    async for _ in commands():
        n_idle_tasks = n_idle_tasks or len(asyncio.all_tasks())
        # Who left a moment ago is being seen off.
        deadline_s = time.monotonic() + PATIENCE_S
        while len(asyncio.all_tasks()) > n_idle_tasks and time.monotonic() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        print(json.dumps(counts()), flush=True)
    running.cancel()
    await asyncio.wait({running})


async def commands() -> AsyncIterator[bytes]:
    """The lines on standard input."""
    lines = asyncio.StreamReader()
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    with contextlib.closing(pipe):
        async for line in lines:
            yield line


if __name__ == "__main__":
    configure_logging("warning")  # on standard error
    roles = {"service": service, "client": client}
    asyncio.run(roles[sys.argv[1]](*sys.argv[2:]))
