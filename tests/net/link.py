"""A bad network between an avatar service and its clients: a relay for their WebSockets and for their media.

In a benchmark, as a process of its own:

    link = stack.enter_context(Child(python(*link_command(avatar_url, down=Conditions(delay_ms=25, loss=0.01)))))
    config = write_configuration(directory, link.first_line(), outputs)   # the bridge gets the link's URL
    ...
    counts = json.loads(link.finish())   # {"down": {"passed": n, "lost": n}, "up": …}, all clients together

In a test, inside its event loop:

    async with bad_network(avatar_url, down=Conditions(delay_ms=40)) as link: link.url ...

`down` is from the service to the client, `up` the way back. Only datagrams are impaired; signalling passes as it is,
but for the candidates in it: each end knows the other one only by an address of the link. The n-th client's link has
the seed `seed + n`. Candidates that are not of UDP over IPv4 are taken out.
"""

import argparse
import asyncio
import contextlib
import heapq
import itertools
import json
import queue
import re
import select
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, WebSocketException

from bridge.signals import STOP_SIGNALS, on_signals
from tests.net.conditions import Conditions, Direction

Address: TypeAlias = tuple[str, int]
End: TypeAlias = Literal["service", "client"]

_HOST = "127.0.0.1"
_MAX_DATAGRAM_BYTES = 65_536
_MAX_MESSAGE_BYTES = 16 * 2**20
# A second of a keyframe burst at any rate that a test sends; the default of 208 KiB loses some when a core is busy.
_SOCKET_BUFFER_BYTES = 4 * 2**20
# One candidate line inside a JSON text (RFC 8839 §5.1), its end of line escaped. Groups: what is before the address,
# transport, address, port, and the rest.
_CANDIDATE = re.compile(r"(?:a=)?candidate:(?:[^\"\\]*)(?:\\r\\n|\\n)?")
_FIELDS = re.compile(r"((?:a=)?candidate:\S+ \d+ (\w+) \d+ )(\S+) (\d+)( typ .*)", re.DOTALL)


class Pump:
    """The thread that moves datagrams: `select` waits to the microsecond, asyncio's `epoll` to the millisecond."""

    def __init__(self) -> None:
        self._handlers: dict[socket.socket, Callable[[bytes, Address], None]] = {}
        self._due: list[tuple[int, int, socket.socket, bytes, Address]] = []
        self._order = itertools.count()
        self._requests: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake, self._woken = socket.socketpair()
        self._is_running = True
        self._thread = threading.Thread(target=self._run, name="link pump")

    def __enter__(self) -> "Pump":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ask(self._stop)
        self._thread.join()
        for each in (*self._handlers, self._wake, self._woken):
            each.close()

    def add(self, on: socket.socket, handler: Callable[[bytes, Address], None]) -> None:
        self._ask(lambda: self._handlers.__setitem__(on, handler))

    def remove(self, sockets: list[socket.socket]) -> None:
        self._ask(lambda: self._close(sockets))

    def send_at(self, due_ns: int, by: socket.socket, data: bytes, to: Address) -> None:
        """For handlers, which run in the thread."""
        heapq.heappush(self._due, (due_ns, next(self._order), by, data, to))

    def _ask(self, request: Callable[[], None]) -> None:
        self._requests.put(request)
        if threading.current_thread() is not self._thread:
            self._wake.send(b"!")

    def _stop(self) -> None:
        self._is_running = False

    def _close(self, sockets: list[socket.socket]) -> None:
        for each in sockets:
            self._handlers.pop(each, None)
            each.close()

    def _run(self) -> None:
        while self._is_running:
            timeout_s = max(0.0, (self._due[0][0] - time.monotonic_ns()) / 1e9) if self._due else None
            ready, _, _ = select.select([self._woken, *self._handlers], [], [], timeout_s)
            for each in ready:
                if each is self._woken:
                    each.recv(4096)
                else:
                    self._receive(each)
            while not self._requests.empty():
                self._requests.get()()
            while self._due and self._due[0][0] <= time.monotonic_ns():
                _, _, by, data, to = heapq.heappop(self._due)
                with contextlib.suppress(OSError):  # one end has gone
                    by.sendto(data, to)

    def _receive(self, on: socket.socket) -> None:
        handler = self._handlers[on]
        while True:
            try:
                data, source = on.recvfrom(_MAX_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except ConnectionRefusedError:
                continue  # an end that is gone says so once
            handler(data, source)


class Line:
    """The media of one client. Each address of one end has a stand-in that the other end sends to and hears from."""

    def __init__(self, pump: Pump, down: Direction, up: Direction) -> None:
        self._pump = pump
        self._directions: dict[End, Direction] = {"client": down, "service": up}  # by who receives
        self._stand_ins: dict[End, dict[Address, socket.socket]] = {"client": {}, "service": {}}
        self._began_ns: int | None = None
        self._lock = threading.Lock()  # the event loop adds addresses, and so does the pump

    def stand_in(self, end: End, address: Address) -> socket.socket:
        """The socket that stands for an address of one end."""
        with self._lock:
            found = self._stand_ins[end].get(address)
            if found is None:
                found = self._stand_ins[end][address] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
                found.bind((_HOST, 0))
                found.setblocking(False)
                self._pump.add(found, lambda data, source: self._pass(end, address, data, source))
        return found

    def close(self) -> None:
        self._pump.remove([each for end in self._stand_ins.values() for each in end.values()])

    def _pass(self, end: End, to: Address, data: bytes, source: Address) -> None:
        now_ns = time.monotonic_ns()
        if self._began_ns is None:
            self._began_ns = now_ns
        # An address that no candidate has named, as behind a NAT, is one of the other end's all the same.
        by = self.stand_in("service" if end == "client" else "client", source)
        for due_ns in self._directions[end].pass_on(now_ns - self._began_ns, len(data)):
            self._pump.send_at(self._began_ns + due_ns, by, data, to)


class Link:
    """All clients of one service. `url` is where they connect to."""

    def __init__(self, service_url: str, pump: Pump, down: Conditions, up: Conditions, seed: int) -> None:
        self.url = ""
        self._service = urlsplit(service_url)
        self._pump = pump
        self._conditions = down, up
        self._seeds = itertools.count(seed)
        self._directions: list[tuple[Direction, Direction]] = []

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Server]:
        async with serve(
            self._handle, _HOST, 0, compression=None, close_timeout=1.0, max_size=_MAX_MESSAGE_BYTES
        ) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            self.url = f"ws://{_HOST}:{port}{self._service.path}"
            yield server

    def counts(self) -> dict[str, dict[str, int]]:
        """Datagrams passed and lost, by direction, of all clients so far."""
        return {
            name: {
                "passed": sum(pair[index].passed for pair in self._directions),
                "lost": sum(pair[index].lost for pair in self._directions),
            }
            for index, name in enumerate(("down", "up"))
        }

    async def _handle(self, client: ServerConnection) -> None:
        assert client.request is not None
        seed = next(self._seeds)
        # The two directions of one link lose different datagrams.
        directions = Direction(self._conditions[0], 2 * seed), Direction(self._conditions[1], 2 * seed + 1)
        self._directions.append(directions)
        line = Line(self._pump, *directions)
        url = f"{self._service.scheme}://{self._service.netloc}{client.request.path}"
        try:
            async with connect(url, compression=None, close_timeout=1.0, max_size=_MAX_MESSAGE_BYTES) as service:
                async with asyncio.TaskGroup() as ways:
                    ways.create_task(_forward(service, client, "service", line))
                    ways.create_task(_forward(client, service, "client", line))
        except (OSError, WebSocketException):
            await client.close(1011, "the service cannot be reached")
        finally:
            line.close()


async def _forward(
    source: ClientConnection | ServerConnection, target: ClientConnection | ServerConnection, end: End, line: Line
) -> None:
    try:
        async for message in source:
            await target.send(rewritten(message, end, line) if isinstance(message, str) else message)
    except ConnectionClosed:
        pass
    # RFC 6455 §7.4.1: 1005 and 1006 are for those that heard no code, and are never sent.
    code = source.close_code if source.close_code not in (None, 1005, 1006) else 1000
    await target.close(code, source.close_reason or "")


def rewritten(message: str, end: End, line: Line) -> str:
    """A signalling message of one end, its candidates replaced by the link's own."""

    def replace(match: re.Match[str]) -> str:
        fields = _FIELDS.fullmatch(match[0])
        if fields is None or fields[2].lower() != "udp" or ":" in fields[3]:
            return ""
        host, port = line.stand_in(end, (fields[3], int(fields[4]))).getsockname()
        return f"{fields[1]}{host} {port}{fields[5]}"

    return _CANDIDATE.sub(replace, message)


@asynccontextmanager
async def bad_network(
    service_url: str, *, down: Conditions | None = None, up: Conditions | None = None, seed: int = 0
) -> AsyncIterator[Link]:
    """A link that serves until its context ends."""
    with Pump() as pump:
        link = Link(service_url, pump, down or Conditions(), up or Conditions(), seed)
        async with link.serving():
            yield link


def link_command(
    service_url: str, *, down: Conditions | None = None, up: Conditions | None = None, seed: int = 0
) -> list[str]:
    """Module and arguments for `python -m`: prints the URL for clients, at SIGTERM the counts as a line of JSON."""
    ways = (json.dumps(asdict(conditions or Conditions())) for conditions in (down, up))
    return ["tests.net.link", service_url, *ways, str(seed)]


async def serve_until_stopped(service_url: str, down: Conditions, up: Conditions, seed: int) -> None:
    stopped = asyncio.Event()
    async with bad_network(service_url, down=down, up=up, seed=seed) as link:
        print(link.url, flush=True)
        with on_signals(STOP_SIGNALS, stopped.set):
            await stopped.wait()
        counts = link.counts()
    print(json.dumps(counts), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="A bad network in front of an avatar service.")
    parser.add_argument("url")
    parser.add_argument("down", help="Conditions as JSON")
    parser.add_argument("up", help="Conditions as JSON")
    parser.add_argument("seed", type=int)
    arguments = parser.parse_args()
    ways = (Conditions(**json.loads(way)) for way in (arguments.down, arguments.up))
    asyncio.run(serve_until_stopped(arguments.url, *ways, arguments.seed))


if __name__ == "__main__":
    main()
