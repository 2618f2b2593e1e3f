"""Clips of NavTalk's video generation, as its client: ordered, waited for, downloaded, and kept in files."""

import asyncio
import contextlib
import os
import random
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin
from weakref import WeakValueDictionary

import httpx
import structlog

from bridge.errors import ProviderRejected, ProviderUnavailable, RemoteProtocolError, SourceError, SourceLost
from bridge.net.backoff import Backoff
from bridge.net.clip_receipt import Receipt
from bridge.net.http_body import HttpBody, origin
from bridge.net.rest import GONE, Rest, line_of, words_of
from bridge.net.tls import Trust
from bridge.net.url_policy import UrlPolicy
from bridge.protocols import navtalk_clips
from bridge.protocols.navtalk_clips import Order, Status, Task
from bridge.redact import Secret, redact_url

REQUEST_TIMEOUT_S = 30.0
# Who is told to end while an order is on its way waits so long for its answer, which names what has to be paid.
ANSWER_TIMEOUT_S = 5.0
# The documents ask every 2 to 3 s for what takes 5 to 30 s: a short clip is seen soon, a long one asked for rarely.
FIRST_POLL_S, LONGEST_POLL_S = 1.0, 5.0
# A download goes on where it broke off, so that each attempt gets further; five in a row that do not are enough.
MOST_FRUITLESS = 5
FIRST_RESUME_S, LONGEST_RESUME_S = 0.5, 8.0
# An order costs money: one that did not come through is repeated rarely.
FIRST_REORDER_S, LONGEST_REORDER_S = 15.0, 900.0
_CHUNK_BYTES = 256 * 1024
# Who makes the clip at a path: an input and a slate may want the same one, and it is to be paid once.
_makers: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()
_ADVICE = {401: "check the licence", 402: "top up the account of this licence", 403: "check the licence"}

log = structlog.get_logger()

# What is told on the way: how the order is doing, and how many bytes of how many are there (0: not known).
OnTask = Callable[[Task], None]
OnBytes = Callable[[int, int], None]


class ClipService:
    """The service at `url`; `status_url` is where it is asked about its tasks, the same unless it is given.

    What it leads to elsewhere has to pass the policy. Proxies and .netrc of the environment are not read.

    deadline_s  from the order, or from the first question about one that was placed before, to the rendered clip; and
                as long again for its download.
    """

    def __init__(
        self,
        url: str,
        license: Secret,
        policy: UrlPolicy,
        *,
        status_url: str | None = None,
        deadline_s: float,
        max_bytes: int,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._url = url.rstrip("/")
        self._status_url = (status_url or url).rstrip("/")
        self._license = license
        self._policy = policy
        self._deadline_s = deadline_s
        self._max_bytes = max_bytes
        self._sleep = sleep
        self._where = f"NavTalk's video generation at {redact_url(url)}"
        self._rest = Rest(self._where, REQUEST_TIMEOUT_S, _ADVICE, "check the URL and what is ordered")

    def receipt(self, order: Order, path: Path) -> Receipt:
        """For what is ordered here, to be kept at `path`."""
        return Receipt(path, f"{self._url} {order.digest}")

    async def render(self, order: Order, receipt: Receipt, on_task: OnTask = lambda task: None) -> str:
        """Order a clip, unless the receipt tells that it is ordered, and wait for it: its URL.

        Raises ProviderRejected, ProviderUnavailable, RemoteProtocolError.
        """
        try:
            async with asyncio.timeout(self._deadline_s), await self._rest.client() as client:
                task = await self._resumed(client, receipt) or await self._ordered(client, order, receipt)
                on_task(task)
                return await self._wait(client, task, receipt, on_task)
        except TimeoutError:
            task_id = receipt.task.task_id if receipt.task else "not begun"
            what = f"{self._where} has not rendered the clip within {self._deadline_s:g} s (task {task_id})"
            raise ProviderUnavailable(what, reason="deadline") from None

    async def _resumed(self, client: httpx.AsyncClient, receipt: Receipt) -> Task | None:
        """What was ordered before; None: nothing, or nothing that the service knows of any more."""
        await asyncio.to_thread(receipt.load)
        task = receipt.task
        if task is None or not task.task_id:
            return task
        log.info("clip_resumed", task_id=task.task_id)
        try:
            return await self._poll(client, task.task_id)
        except ProviderRejected as error:
            if error.reason != GONE:
                raise
            log.warning("clip_task_gone", task_id=task.task_id, error=str(error))
            await asyncio.to_thread(receipt.drop)
            return None

    async def _ordered(self, client: httpx.AsyncClient, order: Order, receipt: Receipt) -> Task:
        # A task of its own: who is cancelled meanwhile waits for the answer, for without it the order is paid in vain.
        ordering = asyncio.create_task(self._order(client, order, receipt), name="clip-order")
        try:
            return await asyncio.shield(ordering)
        finally:
            try:
                await asyncio.wait({ordering}, timeout=ANSWER_TIMEOUT_S)
            finally:
                ordering.cancel()
                await asyncio.gather(ordering, return_exceptions=True)

    async def _order(self, client: httpx.AsyncClient, order: Order, receipt: Receipt) -> Task:
        body = order.body(self._license.reveal())
        task = await self._ask(client, "POST", f"{self._url}{navtalk_clips.SUBMIT_PATH}", json=body)
        if not task.task_id and task.status is not Status.DONE:
            raise RemoteProtocolError(f"{self._where} gave no task_id", reason="protocol")
        await asyncio.to_thread(receipt.keep, task)
        return task

    async def _wait(self, client: httpx.AsyncClient, task: Task, receipt: Receipt, on_task: OnTask) -> str:
        backoff = Backoff(FIRST_POLL_S, LONGEST_POLL_S, random.Random())
        while True:
            match task.status:
                case Status.DONE:
                    return urljoin(f"{self._url}/", task.video_url)
                case Status.FAILED:
                    await asyncio.to_thread(receipt.drop)
                    said = f' ("{words}")' if (words := line_of(task.message)) else ""
                    what = f"{self._where} could not render the clip{said}"
                    raise ProviderRejected(f"{what}: see that it can fetch and use what is ordered", reason="failed")
            await self._sleep(backoff.next_delay_s())
            try:
                task = await self._poll(client, task.task_id)
                on_task(task)
            except (ProviderUnavailable, RemoteProtocolError) as error:
                # The task goes on meanwhile, and the deadline is what ends it.
                log.info("clip_status_unknown", error=str(error))

    async def _poll(self, client: httpx.AsyncClient, task_id: str) -> Task:
        query = {"license": self._license.reveal(), "task_id": task_id}
        task = await self._ask(client, "GET", f"{self._status_url}{navtalk_clips.STATUS_PATH}", params=query)
        return replace(task, task_id=task_id)

    async def _ask(self, client: httpx.AsyncClient, method: str, url: str, **content: object) -> Task:
        text = await self._rest.ask(client, method, url, **content)
        try:
            return navtalk_clips.parse_task(text)
        except RemoteProtocolError as error:
            why, words = line_of(str(error)) or "the answer cannot be read", words_of(text) or "no JSON"
            raise RemoteProtocolError(f"{self._where}: {why} ({words})", reason="protocol") from None

    async def download(self, url: str, path: Path, on_bytes: OnBytes = lambda done, size: None) -> None:
        """Download a clip; what breaks off goes on where it did. Raises ProviderRejected, ProviderUnavailable."""
        # A file of its own: another bridge may want the same clip.
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                async with asyncio.timeout(self._deadline_s):
                    await self._fill(url, file, on_bytes)
            os.replace(part, path)
        except TimeoutError:
            what = f"{self._where}: the clip at {redact_url(url)} was not downloaded within {self._deadline_s:g} s"
            raise ProviderUnavailable(what, reason="deadline") from None
        except OSError as error:
            raise ProviderRejected(f"the clip cannot be kept in {path}: {error.strerror}", reason="disk") from None
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    async def _fill(self, url: str, file: BinaryIO, on_bytes: OnBytes) -> None:
        tls = await asyncio.to_thread(Trust().context)
        label = f"{self._where}: the clip at {redact_url(url)}"
        is_strange = origin(url) not in (origin(self._url), origin(self._status_url))
        backoff = Backoff(FIRST_RESUME_S, LONGEST_RESUME_S, random.Random())
        at, version, fruitless = 0, "", 0
        while True:
            began_at = at
            try:
                async with HttpBody(label, url, tls, self._policy, is_strange=is_strange, first_byte=at) as body:
                    version, before = body.headers.get("etag", ""), version
                    if at and version != before:
                        raise SourceLost(f"{label} is another one than before")
                    self._check_size(label, body.size_bytes)
                    while data := await body.read(_CHUNK_BYTES):
                        self._check_size(label, at + len(data))
                        await asyncio.to_thread(_write, file, at, data)
                        at += len(data)
                        on_bytes(at, body.size_bytes)
                    await asyncio.to_thread(_complete, file, at)
                    return
            except SourceLost as error:
                fruitless = fruitless + 1 if at == began_at else 0
                if fruitless == MOST_FRUITLESS:
                    raise ProviderUnavailable(str(error), reason="download") from None
                log.info("clip_download_broke_off", at_bytes=at, error=str(error))
                if at == began_at:
                    at = 0  # the server gives no parts, or not of what it gave before
            except SourceError as error:
                raise ProviderRejected(str(error), reason="download") from None
            await self._sleep(backoff.next_delay_s())

    def _check_size(self, label: str, n_bytes: int) -> None:
        if n_bytes > self._max_bytes:
            raise ProviderRejected(f"{label} is larger than {self._max_bytes} bytes", reason="download")


def _write(file: BinaryIO, at: int, data: bytes) -> None:
    # Through the file object, which waits for this call when it is closed: a bare descriptor could be another file's.
    file.seek(at)
    file.write(data)


def _complete(file: BinaryIO, n_bytes: int) -> None:
    file.truncate(n_bytes)
    file.flush()
    os.fsync(file.fileno())


class Clip:
    """A clip that is rendered once, and then kept at `path`; what is ordered is paid once, over restarts too."""

    def __init__(self, service: ClipService, order: Order, path: Path) -> None:
        self.path = path
        self._service = service
        self._order = order
        self._receipt = service.receipt(order, path)
        self._maker = _makers.setdefault(path.absolute(), asyncio.Lock())

    async def fetch(self, on_task: OnTask = lambda task: None, on_bytes: OnBytes = lambda done, size: None) -> None:
        """See that it is there. Raises ProviderRejected, ProviderUnavailable, RemoteProtocolError."""
        async with self._maker:
            if not self.path.exists():
                url = await self._service.render(self._order, self._receipt, on_task)
                await self._service.download(url, self.path, on_bytes)
            await asyncio.to_thread(self._receipt.drop)

    async def keep(self) -> None:
        """The same, however long it takes. Raises ProviderRejected."""
        backoff = Backoff(FIRST_REORDER_S, LONGEST_REORDER_S, random.Random())
        while True:
            try:
                await self.fetch()
                return
            except (ProviderUnavailable, RemoteProtocolError) as error:
                delay_s = backoff.next_delay_s()
                log.warning("clip_unavailable", error=str(error), retry_in_s=round(delay_s))
            await asyncio.sleep(delay_s)
