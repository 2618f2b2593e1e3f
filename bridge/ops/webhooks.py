"""Tells the operator's HTTP servers what happens, and asks them: signed, with deadlines, in order.

Messages have the headers of Standard Webhooks 1.0 (webhook-id, webhook-timestamp, webhook-signature), so that any of
its libraries verifies them.
"""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import random
import time
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx
import structlog

from bridge.config import EventWebhookConfig, WebhookConfig
from bridge.errors import BridgeError
from bridge.events import EventLog
from bridge.net.backoff import Backoff
from bridge.net.tls import Trust
from bridge.net.url_policy import UrlPolicy, UrlRefused
from bridge.redact import Secret, mask

FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 30.0
# An event that its server has not taken for so long is given up: those behind it are of more use. The log of events
# remembers enough meanwhile.
GIVE_UP_S = 300.0
# What a function may answer: a model's context holds no more.
MAX_ANSWER_BYTES = 64 << 10
# Standard Webhooks writes keys so; anything else is taken as it is.
_KEY_PREFIX = "whsec_"
# What may be different next time; every other answer is the operator's to mend.
_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}

log = structlog.get_logger()


class WebhookFailed(BridgeError):
    """may_pass: it may go better later."""

    def __init__(self, message: str, *, may_pass: bool) -> None:
        super().__init__(message)
        self.may_pass = may_pass


def sign(key: Secret, message_id: str, timestamp: int, body: bytes) -> str:
    """The signature of a message: HMAC-SHA256 of `ID.TIMESTAMP.BODY`, in base64 (Standard Webhooks, version 1)."""
    value = key.reveal()
    try:
        raw = base64.b64decode(value.removeprefix(_KEY_PREFIX), validate=True) if value.startswith(_KEY_PREFIX) else b""
    except binascii.Error:
        raw = b""
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.new(raw or value.encode(), signed, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


class Webhook:
    """One server of the operator's. Redirects are not followed: they would lead where the operator has not pointed."""

    def __init__(
        self,
        config: WebhookConfig,
        transport: httpx.AsyncBaseTransport | None = None,
        policy: UrlPolicy | None = None,
    ) -> None:
        """`policy`: judges where the URL leads, at every message; None: it came from the operator's file."""
        self._config = config
        self._policy = policy
        self._transport = transport
        self._client: httpx.AsyncClient | None = None

    async def deliver(self, message_id: str, message: Mapping[str, object], within_s: float) -> bytes:
        """Send until it is taken, with growing pauses; the body of the answer. Raises WebhookFailed."""
        # Others make it, and it stands in a header.
        message_id = quote(message_id, safe="")
        backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S, random.Random())
        body = json.dumps(message, ensure_ascii=False).encode()
        why = "it does not answer"
        try:
            async with asyncio.timeout(within_s):
                while True:
                    try:
                        return await self._send(message_id, body)
                    except WebhookFailed as failure:
                        if not failure.may_pass:
                            raise
                        why = str(failure)
                    await asyncio.sleep(backoff.next_delay_s())
        except TimeoutError:
            raise WebhookFailed(f"not delivered within {within_s:g} s: {why}", may_pass=True) from None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def _opened(self) -> httpx.AsyncClient:
        """Raises OSError: the system's certificates cannot be read."""
        if self._client is None:
            transport = self._transport
            if transport is None:
                # In a thread, for it reads files.
                transport = httpx.AsyncHTTPTransport(verify=await asyncio.to_thread(Trust().context), trust_env=False)
            # Neither proxies nor .netrc of the environment.
            timeout = httpx.Timeout(self._config.timeout_s)
            self._client = httpx.AsyncClient(trust_env=False, timeout=timeout, transport=transport)
        return self._client

    async def _send(self, message_id: str, body: bytes) -> bytes:
        timestamp = int(time.time())
        headers = {"content-type": "application/json", "webhook-id": message_id, "webhook-timestamp": str(timestamp)}
        if self._config.key is not None:
            headers["webhook-signature"] = sign(self._config.key, message_id, timestamp, body)
        try:
            client = await self._opened()
            async with asyncio.timeout(self._config.timeout_s), self._post(client, body, headers) as response:
                if not response.is_success:
                    may_pass = response.is_server_error or response.status_code in _PASSING
                    raise WebhookFailed(f"HTTP {response.status_code}", may_pass=may_pass)
                return await _read(response)
        except (TimeoutError, httpx.TimeoutException):
            raise WebhookFailed(f"no answer within {self._config.timeout_s:g} s", may_pass=True) from None
        except UrlRefused as error:
            raise WebhookFailed(f"the URL: {error}", may_pass=False) from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise WebhookFailed(mask(f"{type(error).__name__}: {error}"), may_pass=True) from None

    @contextlib.asynccontextmanager
    async def _post(
        self, client: httpx.AsyncClient, body: bytes, headers: dict[str, str]
    ) -> AsyncIterator[httpx.Response]:
        """Raises UrlRefused, OSError where the policy has to judge; what was judged is what is connected to."""
        url, extensions = httpx.URL(self._config.address.reveal()), dict[str, Any]()
        if self._policy is not None:
            pinned = await self._policy.check(str(url), schemes=frozenset({"http", "https"}))
            headers["host"] = url.netloc.decode("ascii")
            url, extensions = url.copy_with(host=pinned.addresses[0]), {"sni_hostname": pinned.host}
        async with client.stream("POST", url, content=body, headers=headers, extensions=extensions) as response:
            yield response


async def _read(response: httpx.Response) -> bytes:
    answer = bytearray()
    async for piece in response.aiter_bytes():
        answer += piece
        if len(answer) > MAX_ANSWER_BYTES:
            raise WebhookFailed(f"it answers with more than {MAX_ANSWER_BYTES} bytes", may_pass=False)
    return bytes(answer)


class EventWebhook:
    """Tells a server of a session's events, one after the other; what it does not take is logged and left out."""

    def __init__(
        self, session: str, config: EventWebhookConfig, events: EventLog, webhook: Webhook | None = None
    ) -> None:
        self._session = session
        self._wanted = frozenset({*config.events, "lost"})
        self._events = events
        self._webhook = webhook or Webhook(config)
        self._log = log.bind(webhook=str(config.address))

    async def run(self) -> None:
        """Until the session's events have ended."""
        try:
            async for event in self._events.follow():
                if event.type not in self._wanted:
                    continue
                message = {"type": event.type, "session": self._session, "at_s": event.at_s, "data": dict(event.data)}
                try:
                    await self._webhook.deliver(event.id, message, GIVE_UP_S)
                except WebhookFailed as failure:
                    self._log.warning("webhook_failed", type=event.type, error=str(failure))
        finally:
            await self._webhook.close()
