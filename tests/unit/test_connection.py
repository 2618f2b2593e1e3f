"""One session at the service: how it ends is told once, or to nobody."""

import asyncio
import gc
from typing import Any

from bridge.connection import Connection
from bridge.errors import ProviderUnavailable
from bridge.ports import AvatarListener


class FailingProvider:
    """Finds, while it is told to end its session, that the service has ended it already."""

    async def run(self, listener: AvatarListener) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ProviderUnavailable("the service has ended the session") from None


def connection(provider: FailingProvider) -> Connection:
    nothing: Any = lambda *_: None  # noqa: E731
    return Connection(
        1,
        provider,  # type: ignore[arg-type]
        origin_ns=0,
        on_air_ns={},
        keyframe_interval_ns=None,
        on_ready=nothing,
        on_unit=nothing,
        on_no_pictures=nothing,
        on_event=nothing,
        on_tool_call=nothing,
    )


async def call_off() -> None:
    serving = asyncio.create_task(connection(FailingProvider()).run())
    await asyncio.sleep(0)  # it runs its provider
    await asyncio.sleep(0)  # which has begun
    serving.cancel()
    await asyncio.wait({serving})
    assert serving.cancelled()


async def test_how_a_session_ends_that_is_called_off_is_nobodys_unread_error() -> None:
    unread: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unread.append(context))
    await call_off()
    # The loop lets go of what it has run last.
    await asyncio.sleep(0)
    gc.collect()
    assert unread == []
