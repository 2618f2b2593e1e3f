"""Avatars in rooms that API calls have defined: wherever they or their services lead, the URL policy is asked."""

import asyncio
from urllib.parse import urlsplit

import pytest

from bridge.config import HeyGenConfig
from bridge.demo import avatar_at
from bridge.errors import ProviderRejected, ProviderUnavailable
from bridge.net.url_policy import PinnedUrl, UrlPolicy
from bridge.providers import open_provider
from bridge.redact import Secret
from tests.e2e.listening import LO, PATIENCE_S, Listener, failure_of, local_avatar, running
from tests.e2e.test_heygen import Elsewhere

LOOPBACK = ("127.0.0.0/8", "::1")


class Noting(UrlPolicy):
    """One that remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(LOOPBACK)
        self.schemes: list[str] = []
        self.addresses: set[str] = set()

    async def check(self, url: str, *, schemes: frozenset[str]) -> PinnedUrl:
        self.schemes.append(urlsplit(url).scheme)
        return await super().check(url, schemes=schemes)

    def check_address(self, address: str) -> None:
        self.addresses.add(address)
        super().check_address(address)


@pytest.mark.parametrize(
    ("service", "asked"),
    [
        ("livekit", ["ws"]),
        # The sessions's beginning, its WebSocket, its room, and its end.
        ("heygen", ["http", "http", "ws", "ws", "http"]),
        ("liveavatar", ["http", "http", "ws", "ws", "http"]),
    ],
)
async def test_each_way_that_is_taken_was_judged(service: str, asked: list[str]) -> None:
    async with local_avatar(services=(service,)) as urls, asyncio.timeout(PATIENCE_S):
        policy, listener = Noting(), Listener()
        avatar = avatar_at(service, urls.split())
        async with running(open_provider(avatar, LO, policy=policy).run(listener)):
            await listener.goes_on()
        assert policy.schemes == asked
        assert policy.addresses <= {"127.0.0.1", "::1"} and policy.addresses


@pytest.mark.parametrize("service", ["livekit", "heygen", "liveavatar"])
async def test_what_the_policy_refuses_is_not_called(service: str) -> None:
    async with local_avatar(services=(service,)) as urls:
        error = await failure_of(
            open_provider(avatar_at(service, urls.split()), LO, policy=UrlPolicy()).run(Listener())
        )
    assert isinstance(error, ProviderRejected) and "is this machine" in str(error)


async def test_a_socket_that_the_service_names_on_a_host_of_no_stranger_is_not_opened() -> None:
    async def inside(host: str, port: int) -> list[str]:
        return ["10.0.0.1"]

    elsewhere, policy = Elsewhere(), UrlPolicy(["127.0.0.1"], resolve=inside)
    async with elsewhere.listening() as url:
        avatar = HeyGenConfig(service="heygen", url=Secret.url(url), api_key=Secret("canary"), avatar_id="a")
        # Its REST interface may be asked, and names a host inside for the socket.
        error = await failure_of(open_provider(avatar, LO, policy=policy).run(Listener()))
    assert isinstance(error, ProviderUnavailable) and "10.0.0.1, which is private" in str(error)
    assert elsewhere.seen == []
