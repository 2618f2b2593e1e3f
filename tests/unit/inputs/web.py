"""A web server of a few lines, which says what a test has it say, byte by byte."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Answer = Callable[["Request"], Awaitable[None]]


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    writer: asyncio.StreamWriter
    cut_at: int | None = None  # the connection breaks after so many bytes of the body

    @property
    def first_byte(self) -> int:
        return int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def say(self, status: str, *headers: str, body: bytes = b"", is_whole: bool = True) -> None:
        length = (f"Content-Length: {len(body)}",) if is_whole else ()
        await self.send("\r\n".join((status, *headers, *length, "", "")).encode() + body[: self.cut_at])


@dataclass
class Web:
    port: int = 0
    requests: list[Request] = field(default_factory=list)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"


@asynccontextmanager
async def web(answer: Answer) -> AsyncIterator[Web]:
    """Each connection is closed when `answer` returns."""
    site, busy = Web(), set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        busy.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            fields = (line.split(": ", 1) for line in lines)
            request = Request(first.split()[1], {name.lower(): value for name, value in fields}, writer)
            site.requests.append(request)
            await answer(request)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side has gone, or the test is over
        finally:
            writer.close()
            busy.discard(task)

    async with await asyncio.start_server(serve, "0.0.0.0", 0) as server:
        site.port = server.sockets[0].getsockname()[1]
        try:
            yield site
        finally:
            for task in busy:
                task.cancel()
            await asyncio.gather(*busy, return_exceptions=True)


def serving(body: bytes, *headers: str, gives_parts: bool = True) -> Answer:
    """Serves a file, in parts if asked for."""

    async def answer(request: Request) -> None:
        first = request.first_byte if gives_parts else 0
        parts = ("Accept-Ranges: bytes",) if gives_parts else ()
        status = "HTTP/1.1 206 Partial Content" if first else "HTTP/1.1 200 OK"
        await request.say(status, *headers, *parts, body=body[first:])

    return answer
