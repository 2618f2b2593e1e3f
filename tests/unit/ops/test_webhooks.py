"""Webhooks: signed, again after what may pass, in order, and never led elsewhere."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Callable

import httpx
import pytest
from structlog.testing import capture_logs

from bridge.config import EventWebhookConfig, WebhookConfig
from bridge.events import EventLog
from bridge.net.url_policy import UrlPolicy
from bridge.ops import webhooks
from bridge.ops.webhooks import MAX_ANSWER_BYTES, EventWebhook, Webhook, WebhookFailed, sign
from bridge.redact import Secret
from tests.unit.ops.fakes import PUBLIC, resolve

URL = Secret.url("https://hooks.example.com/leo")

Answer = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "FIRST_RETRY_S", 0.001)


def webhook(answer: Answer, **keys: object) -> Webhook:
    config = WebhookConfig(url=URL, **keys)  # type: ignore[arg-type]
    return Webhook(config, httpx.MockTransport(answer))


async def test_a_message_is_json_and_signed() -> None:
    seen: list[httpx.Request] = []

    def take(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, text="from nine")

    answer = await webhook(take, secret=Secret("canary-key")).deliver("call_1", {"type": "tool_call"}, 1.0)

    assert answer == b"from nine"
    (request,) = seen
    assert json.loads(request.content) == {"type": "tool_call"}
    headers = request.headers
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + request.content
    digest = hmac.new(b"canary-key", signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
    assert headers["webhook-id"] == "call_1"


def test_a_key_of_standard_webhooks_is_decoded() -> None:
    # The example of its specification.
    key = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    assert sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


async def test_what_may_pass_is_tried_again() -> None:
    answers = iter((httpx.Response(500), httpx.Response(429), httpx.ConnectError("refused"), httpx.Response(204)))

    def flap(request: httpx.Request) -> httpx.Response:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert await webhook(flap).deliver("1", {}, 5.0) == b""


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (httpx.Response(404), "HTTP 404"),
        (httpx.Response(302, headers={"Location": "http://169.254.169.254/"}), "HTTP 302"),
        (httpx.Response(200, content=bytes(MAX_ANSWER_BYTES + 1)), "more than 65536 bytes"),
    ],
    ids=["refused", "led elsewhere", "too much"],
)
async def test_what_will_not_pass_is_told_at_once(answer: httpx.Response, why: str) -> None:
    n_requests = 0

    def refuse(request: httpx.Request) -> httpx.Response:
        nonlocal n_requests
        n_requests += 1
        return answer

    with pytest.raises(WebhookFailed, match=why):
        await webhook(refuse).deliver("1", {}, 5.0)
    assert n_requests == 1


async def test_a_server_that_hangs_is_given_up() -> None:
    async def hang(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    hook = Webhook(WebhookConfig(url=URL, timeout_s=0.1), httpx.MockTransport(hang))
    with pytest.raises(WebhookFailed, match=r"no answer within 0\.1 s"):
        await hook.deliver("1", {}, 0.5)


async def test_events_come_in_order_and_only_those_that_are_wanted() -> None:
    seen: list[dict[str, object]] = []

    def take(request: httpx.Request) -> httpx.Response:
        seen.append(json.loads(request.content))
        return httpx.Response(400 if len(seen) == 1 else 200)

    events = EventLog(lambda: 5.0)
    config = EventWebhookConfig(url=URL, events=("state", "output"))
    hook = EventWebhook("leo", config, events, Webhook(config, httpx.MockTransport(take)))
    running = asyncio.create_task(hook.run())
    await asyncio.sleep(0)
    events.note("state", state="live")
    events.note("user_transcript", text="a word that was spoken")
    events.note("output", output="twitch", state="publishing")
    events.close()
    with capture_logs() as logs:
        await running

    assert [message["type"] for message in seen] == ["state", "output"]
    assert seen[1] == {
        "type": "output",
        "session": "leo",
        "at_s": 5.0,
        "data": {"output": "twitch", "state": "publishing"},
    }
    assert [(entry["event"], entry["error"]) for entry in logs] == [("webhook_failed", "HTTP 400")]


async def test_a_webhook_of_strangers_goes_to_the_address_that_was_judged() -> None:
    taken: list[httpx.Request] = []

    def take(request: httpx.Request) -> httpx.Response:
        taken.append(request)
        return httpx.Response(200)

    config = WebhookConfig(url=Secret.url("https://live.example.com:8443/x"))
    hook = Webhook(config, httpx.MockTransport(take), UrlPolicy(resolve=resolve))
    await hook.deliver("1", {}, 1.0)
    assert (taken[0].url.host, taken[0].headers["host"]) == (PUBLIC, "live.example.com:8443")
    assert taken[0].extensions["sni_hostname"] == "live.example.com"


async def test_a_webhook_of_strangers_reaches_no_neighbour() -> None:
    def take(request: httpx.Request) -> httpx.Response:
        raise AssertionError("it was connected to")

    config = WebhookConfig(url=Secret.url("http://inside.example.com/x"))
    hook = Webhook(config, httpx.MockTransport(take), UrlPolicy(resolve=resolve))
    with pytest.raises(WebhookFailed, match="is private"):
        await hook.deliver("1", {}, 1.0)


async def test_an_id_that_no_header_can_hold_is_quoted_and_signed_so() -> None:
    seen: list[httpx.Request] = []

    def take(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    await webhook(take).deliver("call\r\n_\u00e9", {}, 1.0)
    assert seen[0].headers["webhook-id"] == "call%0D%0A_%C3%A9"


async def test_certificates_that_cannot_be_read_are_a_failure_and_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(trust: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(webhooks.Trust, "context", refuse)
    with pytest.raises(WebhookFailed, match="Permission denied"):
        await Webhook(WebhookConfig(url=URL)).deliver("1", {}, 0.2)
