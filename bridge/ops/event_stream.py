"""Server-sent events (WHATWG HTML §9.2): what happens in a session, told until the session or the follower ends."""

import asyncio
import json
from contextlib import aclosing
from datetime import UTC, datetime
from typing import NoReturn

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bridge.events import Event, EventLog

# What proxies and the kernel see of a follower while nothing happens: "every 15 seconds or so", §9.2.7.
PING_S = 15.0
_PING = b": ping\n\n"


class EventStream(Response):
    """Follows the events of a log, from after the one of that id, or from now on.

    Frameworks' own streams leave it to the garbage collector to end what a follower that has gone was reading; until
    then its place would be taken.
    """

    media_type = "text/event-stream"

    def __init__(self, events: EventLog, after: str | None) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        tasks = [asyncio.create_task(part) for part in (self._tell(send), _ping(send), _left(receive))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _tell(self, send: Send) -> None:
        async with aclosing(self._events.follow(self._after)) as following:
            async for event in following:
                await _write(send, _message(event))
        await _write(send, b"", more_body=False)


def _message(event: Event) -> bytes:
    at = datetime.fromtimestamp(event.at_s, UTC).isoformat(timespec="milliseconds")
    data = json.dumps({"at": at, **event.data})  # on one line
    return f"event: {event.type}\nid: {event.id}\ndata: {data}\n\n".encode()


async def _ping(send: Send) -> NoReturn:
    while True:
        await asyncio.sleep(PING_S)
        await _write(send, _PING)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _write(send: Send, body: bytes, *, more_body: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more_body})
