"""Bodies of requests: how large they may be, how long they may take, and what they may say."""

import asyncio
import contextlib
from http import HTTPStatus
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.media.utterance import MAX_CHARACTERS
from bridge.protocols.whip import FRAGMENT_TYPE, SDP_TYPE

MAX_JSON_BYTES = 1 << 20
MAX_IMAGE_BYTES = 8 << 20
# Descriptions of ten tracks with thirty codecs each stay below 32 KiB.
MAX_SDP_BYTES = 128 << 10
# What is too large is read to its end all the same, up to what any body may have: a connection that is closed with
# bytes unread is reset, and the answer is lost on the way.
MAX_DISCARDED_BYTES = MAX_JSON_BYTES
# An image at 2 Mbit/s, which is less than the broadcast itself needs.
READ_TIMEOUT_S = 30.0
# What an answer does not wait for has come with the head or right behind it: longer than a packet and its repeat take.
DISCARD_TIMEOUT_S = 0.5

# Of the pictures that a service can be shown, how each begins.
IMAGE_TYPES = {"image/jpeg": b"\xff\xd8\xff", "image/png": b"\x89PNG\r\n\x1a\n"}
_MOST_BYTES = {**dict.fromkeys(IMAGE_TYPES, MAX_IMAGE_BYTES), **dict.fromkeys((SDP_TYPE, FRAGMENT_TYPE), MAX_SDP_BYTES)}


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class SayBody(Body):
    text: Annotated[str, Field(min_length=1, description="What the avatar answers, or speaks, by its role.")]


class HistoryBody(Body):
    text: Annotated[
        str, Field(min_length=1, max_length=MAX_CHARACTERS, description="What a user said before the avatar heard any.")
    ]


class SlateBody(Body):
    on: bool
    reason: Annotated[str, Field(max_length=200, description="For the log and for whoever looks.")] = ""


class MuteBody(Body):
    on: bool


class ListeningBody(Body):
    on: Annotated[bool, Field(description="Whether it is to look so, while it has nothing to say.")]


class ToolBody(Body):
    output: Annotated[str, Field(description="The function's result, as the avatar's model reads it.")]


class BodyLimit:
    """Counts a body while it is read, and gives up on one that is too large (413) or too slow (408).

    What an answer does not wait for is read all the same, up to `MAX_DISCARDED_BYTES`; what is unread then ends the
    connection.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Limited(scope, receive)

        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start" and body.is_unread:
                await body.discard()
            if message["type"] == "http.response.start" and body.is_unread:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._app(scope, body, send_and_close)


class _Limited:
    """The `receive` of one request, within its limits."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        media_type = headers.get(b"content-type", "").partition(";")[0].strip().lower()
        self._most_bytes = _MOST_BYTES.get(media_type, MAX_JSON_BYTES)
        # Who waits for our word sends nothing before.
        self._is_waiting = b"expect" in headers
        announced = headers.get(b"content-length", "")
        self._n_bytes = 0
        self._announced_bytes = int(announced) if announced.isdecimal() else 0
        self._has_body = bool(self._announced_bytes) or b"transfer-encoding" in headers
        self._receive = receive
        self._ends_s: float | None = None
        self._is_complete = False

    @property
    def is_unread(self) -> bool:
        return self._has_body and not self._is_complete

    async def discard(self) -> None:
        """Read what nobody wants, if it is short and comes soon: an answer before it would be lost in a reset."""
        if self._is_waiting:
            return
        with contextlib.suppress(HTTPException, TimeoutError):
            async with asyncio.timeout(DISCARD_TIMEOUT_S):
                while self.is_unread and max(self._announced_bytes, self._n_bytes) <= MAX_DISCARDED_BYTES:
                    await self._next()

    async def __call__(self) -> Message:
        if self._is_complete:
            return await self._receive()
        message = None
        while (n_bytes := max(self._announced_bytes, self._n_bytes)) > self._most_bytes or message is None:
            if n_bytes > self._most_bytes and (self._is_complete or n_bytes > MAX_DISCARDED_BYTES):
                raise HTTPException(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                    f"the body has more than {self._most_bytes} bytes",
                )
            message = await self._next()
        return message

    async def _next(self) -> Message:
        loop = asyncio.get_running_loop()
        if self._ends_s is None:
            self._ends_s = loop.time() + READ_TIMEOUT_S
        try:
            async with asyncio.timeout_at(self._ends_s):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(
                HTTPStatus.REQUEST_TIMEOUT,
                f"the body did not come within {READ_TIMEOUT_S:g} s",
                {"Connection": "close"},
            ) from None
        self._n_bytes += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        return message
