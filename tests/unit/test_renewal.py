"""When a session is renewed."""

import asyncio
import math
from types import SimpleNamespace
from typing import Any

import pytest

from bridge.errors import ProviderUnavailable
from bridge.renewal import Renewal

LIMIT_S = 30.0


def serving_since(began_s: float, ends_at_s: float = math.inf) -> Any:
    """A connection that is ready."""
    connection = SimpleNamespace(
        is_ready=asyncio.Event(), accepted_s=began_s, ends_at_s=ends_at_s, limit_changed=asyncio.Event()
    )
    connection.is_ready.set()
    return connection


def renewal(limit_s: float | None) -> Renewal:
    """One that begins no session."""

    def begin() -> Any:
        raise AssertionError("it is too late to begin one beside the first")

    async def speak_to(connection: Any) -> None: ...

    programme: Any = None
    return Renewal(
        limit_s,
        begin=begin,
        may_begin=lambda: True,
        speak_to=speak_to,
        is_pausing=lambda: True,
        seek_pause=lambda: None,
        programme=programme,
    )


async def test_a_limit_counts_from_the_sessions_beginning_not_from_its_turn_on_air() -> None:
    # It was opened long before it took over.
    connection = serving_since(asyncio.get_running_loop().time() - LIMIT_S + 5.0)
    with pytest.raises(ProviderUnavailable, match="limit") as caught:
        async with asyncio.timeout(2.0):
            await renewal(LIMIT_S).successor(connection)
    assert caught.value.reason == "renewal"


async def test_a_limit_that_becomes_shorter_while_it_is_waited_for_is_followed() -> None:
    connection = serving_since(asyncio.get_running_loop().time())
    waiting = asyncio.create_task(renewal(None).successor(connection))
    await asyncio.sleep(0)
    connection.ends_at_s = asyncio.get_running_loop().time() + 5.0
    connection.limit_changed.set()
    with pytest.raises(ProviderUnavailable, match="limit"):
        async with asyncio.timeout(2.0):
            await waiting
