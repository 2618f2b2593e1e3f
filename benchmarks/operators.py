"""Operators of a daemon, as a program: `python -m benchmarks.operators ORIGIN` prints `asking` once all are there.

Some follow the events of its sessions, as pages do; some ask, two hundred times a second, for what pages, probes,
scrapers and hands on the broadcast ask for. At SIGTERM it prints one JSON object: what came since. Its HTTP is written
by hand: a client library would need as much CPU as the daemon that is measured.
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from benchmarks.report import percentile
from bridge.ops.logs import configure_logging
from bridge.signals import STOP_SIGNALS, on_signals

RATE_HZ = 200
N_FOLLOWERS = N_ASKERS = 20
# What takes longer is no answer any more.
PATIENCE_S = 10.0
_OFF = {"on": False}
# In turn, for each session: of 40 calls one is a scrape: five a second, where Prometheus makes one in fifteen.
_CALLS = (
    *(("GET", "/v1/sessions", None), ("GET", "/v1/sessions/{name}", None)) * 6,
    *(("POST", "/v1/sessions/{name}/mute", _OFF), ("POST", "/v1/sessions/{name}/slate", _OFF)) * 6,
    *(("GET", "/healthz", None), ("GET", "/readyz", None)) * 6,
    ("GET", "/", None),
    ("GET", "/page.js", None),
    ("GET", "/openapi.json", None),
    ("GET", "/metrics", None),
)


class Line:
    """A connection to the daemon, for one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, authority: str) -> None:
        self.reader = reader
        self._writer = writer
        self._authority = authority

    async def ask(self, method: str, path: str, body: object = None) -> bytes:
        """The answer's body; nothing of one that has no length. Raises RuntimeError for anything but success."""
        content = b"" if body is None else json.dumps(body).encode()
        headers = f"Host: {self._authority}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        self._writer.write(f"{method} {path} HTTP/1.1\r\n{headers}\r\n".encode() + content)
        async with asyncio.timeout(PATIENCE_S):
            status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            if status.split()[1][0] != "2":
                raise RuntimeError(f"{method} {path}: {status}")
            lengths = [int(line.partition(":")[2]) for line in lines if line.lower().startswith("content-length:")]
            return await self.reader.readexactly(sum(lengths))


@asynccontextmanager
async def line_to(authority: str) -> AsyncIterator[Line]:
    host, _, port = authority.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Line(reader, writer, authority)
    finally:
        writer.close()


class Operators:
    """All of them. n_events: that the followers have read; answers_s: how long each answer took."""

    def __init__(self, authority: str) -> None:
        self._authority = authority
        self.n_events = 0
        self.answers_s: list[float] = []

    async def run(self, is_ready: asyncio.Event) -> None:
        """Until cancelled."""
        async with line_to(self._authority) as line:
            names = [session["name"] for session in json.loads(await line.ask("GET", "/v1/sessions"))]
        # Each name is held while all calls are made, so that each call meets each session.
        calls = iter((*call, name) for name in itertools.cycle(names) for call in _CALLS)
        following = asyncio.Semaphore(0)
        async with asyncio.TaskGroup() as tasks:
            for name in itertools.islice(itertools.cycle(names), N_FOLLOWERS):
                tasks.create_task(self._follow(name, following))
            for _ in range(N_FOLLOWERS):
                await following.acquire()
            is_ready.set()
            began_s = asyncio.get_running_loop().time()
            for number in range(N_ASKERS):
                tasks.create_task(self._ask(began_s + number / RATE_HZ, calls))

    async def _follow(self, name: str, following: asyncio.Semaphore) -> None:
        async with line_to(self._authority) as line:
            await line.ask("GET", f"/v1/sessions/{name}/events")
            following.release()
            async for text in line.reader:
                self.n_events += text.startswith(b"data:")

    async def _ask(self, first_s: float, calls: Iterator[tuple[str, str, object, str]]) -> None:
        """Every `N_ASKERS / RATE_HZ` seconds; after a slow answer at once, until that is made up for."""
        loop = asyncio.get_running_loop()
        async with line_to(self._authority) as line:
            for number in itertools.count():
                await asyncio.sleep(first_s + number * N_ASKERS / RATE_HZ - loop.time())
                method, path, body, name = next(calls)
                began_s = time.monotonic()
                await line.ask(method, path.format(name=name), body)
                self.answers_s.append(time.monotonic() - began_s)


async def operate_until_stopped(origin: str) -> dict[str, float | None]:
    stopped, is_ready = asyncio.Event(), asyncio.Event()
    operators = Operators(urlsplit(origin).netloc)
    async with asyncio.TaskGroup() as tasks:
        operating = tasks.create_task(operators.run(is_ready))
        await is_ready.wait()
        with on_signals(STOP_SIGNALS, stopped.set):
            print("asking", flush=True)
            began_s, n_events = time.monotonic(), operators.n_events
            await stopped.wait()
        elapsed_s, answers_ms = time.monotonic() - began_s, [1000 * s for s in operators.answers_s]
        n_events = operators.n_events - n_events
        operating.cancel()
    return {
        "requests_per_s": len(answers_ms) / elapsed_s,
        "events_per_s": n_events / elapsed_s,
        "answer_p50_ms": percentile(answers_ms, 50),
        "answer_p99_ms": percentile(answers_ms, 99),
    }


if __name__ == "__main__":
    configure_logging("warning")  # standard output is for what it says itself
    print(json.dumps(asyncio.run(operate_until_stopped(sys.argv[1]))))
