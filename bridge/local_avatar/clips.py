"""The service's side of NavTalk's video generation: it takes orders, renders them in turn, and serves the clips."""

import asyncio
import base64
import binascii
import ipaddress
import secrets
import shutil
import tempfile
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import structlog

from bridge.errors import RemoteProtocolError
from bridge.local_avatar.faults import Faults
from bridge.local_avatar.rest import TEXTS, page_of, refused
from bridge.local_avatar.service import Handler, House
from bridge.local_avatar.speech import MAX_CHARACTERS, speak_text
from bridge.protocols.navtalk_clips import STATUS_PATH, SUBMIT_PATH, Order, Status, Task, dump_task, parse_order
from bridge.redact import mask

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

log = structlog.get_logger()

# What a client sends at most: ten MB of sound as base64, and an address.
MOST_ORDER_BYTES = 16 * 2**20
# The oldest finished clip is forgotten when there are more; while none is finished, no order is taken.
MOST_CLIPS = 32
FETCH_TIMEOUT_S = 10.0
CLIP_PATH = "/clips"


class NavTalkClipService:
    """Video generation. Everybody looks like the presenter; what is heard is what was ordered, spoken or fetched.

    It fetches from loopback alone: it stands in for a cloud on a machine that is nobody's gateway.
    """

    def __init__(self, house: House) -> None:
        self._house = house
        self._faults = Faults(house.options.faults)
        self._tasks: dict[str, Task] = {}
        self._turn = asyncio.Lock()
        self._folder = Path(tempfile.mkdtemp(prefix="local-avatar-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._n_broken = 0
        self.sockets: Mapping[str, Handler] = {}

    @property
    def routes(self) -> "Sequence[BaseRoute]":
        from starlette.routing import Route

        return (
            Route(SUBMIT_PATH, self._submit, methods=["POST"]),
            Route(STATUS_PATH, self._status),
            Route(f"{CLIP_PATH}/{{name}}", self._clip),
        )

    def urls(self, sockets: str, web: str) -> Sequence[str]:
        return (web,)

    # ------------------------------------------------------------------------------------------ its interface

    async def _submit(self, request: "Request") -> "Response":
        if (refusal := page_of(self._faults)) is not None:
            return refusal
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_ORDER_BYTES:
                return refused(413, "The order is too large")
        try:
            order, license = parse_order(body.decode(errors="replace"))
        except RemoteProtocolError as error:
            return refused(400, str(error))
        if not self._is_known(license):
            return refused(401, TEXTS[401])
        if len(self._tasks) >= MOST_CLIPS:
            finished = (task for task in self._tasks.values() if task.status in (Status.DONE, Status.FAILED))
            if (oldest := next(finished, None)) is None:
                return refused(429, TEXTS[429])
            self._forget(oldest.task_id)
        task_id = secrets.token_hex(8)
        self._tasks[task_id] = Task(Status.STARTED, task_id)
        self._house.tasks.create_task(self._render(task_id, order, str(request.base_url)), name="avatar-clip")
        return _answer(self._tasks[task_id])

    async def _status(self, request: "Request") -> "Response":
        if (refusal := page_of(self._faults)) is not None:
            return refusal
        if not self._is_known(request.query_params.get("license", "")):
            return refused(401, TEXTS[401])
        task = self._tasks.get(request.query_params.get("task_id", ""))
        if task is None:
            return refused(404, "No such task")
        if task.status is Status.PROCESSING and self._faults.strikes("clip-status"):
            from starlette.responses import JSONResponse

            return JSONResponse({"status": "queued_on_gpu", "task_id": task.task_id})
        return _answer(task)

    async def _clip(self, request: "Request") -> "Response":
        from starlette.responses import FileResponse, StreamingResponse

        path = self._path(request.path_params["name"].removesuffix(".mp4"))
        if not path.is_file():
            return refused(404, "No such clip")
        if self._n_broken < 2 and self._faults.strikes("clip-breaks"):
            self._n_broken += 1
            size = path.stat().st_size
            first = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
            headers = {
                "Content-Length": str(size - first),
                "Accept-Ranges": "bytes",
                "ETag": FileResponse(path, stat_result=path.stat()).headers["etag"],
            }
            return StreamingResponse(_some(path, first, size // 3), 206 if first else 200, headers, "video/mp4")
        return FileResponse(path, media_type="video/mp4")

    def _is_known(self, license: str) -> bool:
        expected = self._house.options.license
        return bool(license) and (expected is None or license == expected.reveal())

    # ------------------------------------------------------------------------------------------ its work

    async def _render(self, task_id: str, order: Order, base: str) -> None:
        async with self._turn:
            self._tasks[task_id] = Task(Status.PROCESSING, task_id)
            try:
                speech = await _sound(order)
                from bridge.local_avatar.rendering import render

                if self._faults.strikes("clip-fails"):
                    raise ValueError("no face was found")
                await asyncio.to_thread(render, self._house.options, speech, self._path(task_id))
            except (ValueError, httpx.HTTPError) as error:
                self._tasks[task_id] = Task(Status.FAILED, task_id, message=mask(str(error)) or type(error).__name__)
                log.info("avatar_clip_failed", error=mask(str(error)))
                return
        self._tasks[task_id] = Task(Status.DONE, task_id, f"{base.rstrip('/')}{CLIP_PATH}/{task_id}.mp4")
        log.info("avatar_clip_rendered", visual=order.visual, sound=order.sound)

    def _path(self, task_id: str) -> Path:
        return self._folder / f"{Path(task_id).name}.mp4"

    def _forget(self, task_id: str) -> None:
        del self._tasks[task_id]
        self._path(task_id).unlink(missing_ok=True)


async def _sound(order: Order) -> Any:
    """What is to be heard, at 24 kHz, mono. Raises ValueError, httpx.HTTPError."""
    import numpy as np

    from bridge.local_avatar.rendering import decode

    match order.sound:
        case "content":
            return np.frombuffer(await speak_text(order.said[:MAX_CHARACTERS]), "<i2")
        case "audio_base64":
            try:
                sound = base64.b64decode(order.said.rpartition(",")[2], validate=True)
            except binascii.Error:
                raise ValueError("audio_base64 is no base64") from None
        case "audio_url":
            sound = await _fetch(order.said)
    return await asyncio.to_thread(decode, sound)


async def _fetch(url: str) -> bytes:
    host = urlsplit(url).hostname or ""
    try:
        is_local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost"
    if not is_local:
        raise ValueError("audio_url: this service fetches from loopback alone")
    async with httpx.AsyncClient(trust_env=False, timeout=FETCH_TIMEOUT_S) as client:
        answer = await client.get(url)
        answer.raise_for_status()
        return answer.content


async def _some(path: Path, first: int, n_bytes: int) -> AsyncIterator[bytes]:
    """A piece of a file, and then not what was promised."""
    with path.open("rb") as file:
        file.seek(first)
        yield file.read(n_bytes)
    raise ConnectionResetError("fault clip-breaks")


def _answer(task: Task) -> "Response":
    from starlette.responses import JSONResponse

    return JSONResponse(dump_task(task))
