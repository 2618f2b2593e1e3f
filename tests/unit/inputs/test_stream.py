import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from bridge.errors import SourceLost, SourceRejected
from bridge.inputs import stream
from bridge.inputs.stream import StreamSource
from bridge.net.url_policy import UrlPolicy
from tests.unit.inputs.test_file import play

STRICT = UrlPolicy()


@asynccontextmanager
async def server(answer: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Answers the first line of each connection; its port, and what it was told."""
    told: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.append(await reader.readuntil(b"\n"))
        await answer(writer)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "0.0.0.0", 0) as listening:
        yield listening.sockets[0].getsockname()[1], told


async def mute(writer: asyncio.StreamWriter) -> None:
    pass


async def test_rtsp_server_cannot_lead_elsewhere() -> None:
    async def lead_away(writer: asyncio.StreamWriter) -> None:
        url = f"rtsp://127.0.0.2:{port}/secret"
        writer.write(f"RTSP/1.0 302 Found\r\nCSeq: 1\r\nLocation: {url}\r\n\r\n".encode())

    async with server(lead_away) as (port, told):
        with pytest.raises(SourceRejected, match=r"input host: rtsp://127\.0\.0\.1.* the server leads elsewhere"):
            await play(StreamSource("host", f"rtsp://127.0.0.1:{port}/cam", STRICT))
    assert len(told) == 1


@pytest.mark.parametrize("url", ["rtsp://127.0.0.1:{port}/cam", "rtmp://127.0.0.1:{port}/app/stream"])
async def test_mute_server_is_lost_and_a_call_off_does_not_wait_for_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with server(mute) as (port, told):
        running = asyncio.create_task(play(StreamSource("host", url.format(port=port), STRICT)))
        while not told and not running.done():  # noqa: ASYNC110 (the far end is another connection's task)
            await asyncio.sleep(0.01)
        running.cancel()
        async with asyncio.timeout(1):
            await asyncio.gather(running, return_exceptions=True)
        monkeypatch.setattr(stream, "IDLE_S", 0.05)
        with pytest.raises(SourceLost, match=r"nothing has come for 0\.05 s"):
            await play(StreamSource("host", url.format(port=port), STRICT))


@pytest.mark.parametrize("scheme", ["rtsp", "rtmp"])
async def test_strange_url_is_judged_before_anything_is_sent(scheme: str) -> None:
    async with server(mute) as (port, told):
        with pytest.raises(SourceRejected, match=r"the URL 127\.0\.0\.1 is this machine"):
            await play(StreamSource("host", f"{scheme}://127.0.0.1:{port}/app/x", STRICT, is_strange=True))
    assert told == []
    with pytest.raises(SourceLost, match="cannot connect: Connection refused"):
        await play(StreamSource("host", f"{scheme}://127.0.0.1:{port}/app/x", STRICT))
