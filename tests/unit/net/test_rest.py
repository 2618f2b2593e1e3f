"""Requests to a service's REST interface end, whatever the service does."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from bridge.errors import ProviderRejected, ProviderUnavailable
from bridge.net.rest import GONE, Rest
from tests.unit.inputs.web import Request, web


class Text(httpx.AsyncByteStream):
    """A body that is read from a socket, as far as anybody can tell."""

    def __init__(self, text: str) -> None:
        self._text = text

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._text.encode()


class Trickle(httpx.AsyncByteStream):
    """A body that never ends and never pauses for long, of which hardly anything comes."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0)
            yield b""


async def test_an_answer_that_trickles_is_given_up() -> None:
    rest = Rest("the service", 0.05, {}, "look")
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Trickle()))
    async with httpx.AsyncClient(transport=transport) as client, asyncio.timeout(5):
        with pytest.raises(ProviderUnavailable, match=r"did not answer within 0\.05 s"):
            await rest.ask(client, "GET", "https://service.example.com/")


@pytest.mark.parametrize(
    "head", [b"", b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"]
)
async def test_a_server_that_drips_is_given_up_wherever_it_is_in_its_answer(head: bytes) -> None:
    async def answer(request: Request) -> None:
        await request.send(head)
        while True:
            await request.send(b"H")
            await asyncio.sleep(0.05)

    rest = Rest("the service", 0.4, {}, "look")
    async with web(answer) as site, asyncio.timeout(10), await rest.client() as client:
        with pytest.raises(ProviderUnavailable, match=r"did not answer within 0\.4 s"):
            await rest.ask(client, "GET", site.url("/"))


async def test_what_is_sent_along_has_the_time_that_a_slow_line_needs_for_it() -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.1)
        return httpx.Response(200, stream=Text(str(len(request.content))))

    rest = Rest("the service", 0.05, {}, "look")
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        assert await rest.ask(client, "POST", "https://service.example.com/", content=bytes(1_000_000)) == "1000000"


@pytest.mark.parametrize(("status", "reason"), [(404, GONE), (410, GONE), (400, "refused")])
async def test_a_refusal_tells_what_is_gone_from_what_is_wrong(status: int, reason: str) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, stream=Text("no")))
    async with httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(ProviderRejected) as caught:
            await Rest("the service", 5, {}, "look").ask(client, "GET", "https://service.example.com/")
    assert caught.value.reason == reason
