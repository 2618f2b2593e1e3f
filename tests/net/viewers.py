"""An output for viewers behind a real HTTP server on loopback, showing a programme, and viewers of it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.codecs import get_capabilities
from prometheus_client import CollectorRegistry

from bridge.config import Address, HttpConfig, MetricsConfig, TokenConfig
from bridge.media.access_unit import Kind
from bridge.media.live_queue import LiveQueue
from bridge.net.ice import IceSettings, limit_to_addresses
from bridge.net.peer import ReceivingPeer
from bridge.net.url_policy import UrlPolicy
from bridge.ops.api import HttpServer
from bridge.outputs.whep import WhepOutput
from bridge.redact import Secret
from tests.interop.programme import Listener, play
from tests.net.loopback import LOOPBACK, PATIENCE_S, Sink, Tracks, close

TOKEN, OTHER_TOKEN = "canary_view_0123456789", "canary_control_0123456789"
SDP = {"Content-Type": "application/sdp"}


class Theatre:
    """A session whose output `stage` viewers come to, as the API sees it; `archive` is no such output."""

    is_draining = False

    def __init__(self, output: WhepOutput) -> None:
        self._output = output

    def status(self) -> list[object]:
        return []

    def status_of(self, name: str) -> None:
        pass

    def session(self, name: str) -> "Theatre | None":
        return self if name == "leo" else None

    def output(self, name: str) -> object | None:
        return {"stage": self._output, "archive": object()}.get(name)

    def stop(self) -> None:
        pass


@dataclass
class Show:
    """What goes on. playing: what puts the programme into `units`."""

    client: httpx.AsyncClient
    origin: str
    output: WhepOutput
    units: LiveQueue
    listener: Listener
    playing: asyncio.Task[None]
    running: asyncio.Task[None]

    @property
    def url(self) -> str:
        return f"{self.origin}/v1/sessions/leo/whep/stage"

    async def post(self, offer: str, **headers: str) -> httpx.Response:
        given = SDP | {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(self.url, content=offer, headers=given)

    @property
    def viewers(self) -> int:
        audience = self.output.progress().audience
        assert audience is not None
        return audience.viewers

    async def until_viewers(self, n_viewers: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.viewers != n_viewers:  # noqa: ASYNC110  a viewer's end announces itself to nobody
                await asyncio.sleep(0.02)

    async def pause(self) -> None:
        """No more units come."""
        self.playing.cancel()
        with suppress(asyncio.CancelledError):
            await self.playing


@asynccontextmanager
async def theatre(
    *,
    tokens: bool = False,
    listen: str = "127.0.0.1",
    ice: IceSettings = LOOPBACK,
    max_viewers: int = 10,
    ice_links: Sequence[str] = (),
    is_playing: bool = True,
) -> AsyncIterator[Show]:
    scopes: dict[str, Any] = {TOKEN: ("view",), OTHER_TOKEN: ("read", "control", "ingest")}
    known = tuple(TokenConfig(file=Secret(token), scopes=scopes[token]) for token in scopes)
    output, units, listener = (
        WhepOutput("stage", ice, max_viewers=max_viewers, ice_links=ice_links),
        LiveQueue(2.0),
        Listener(),
    )
    server = HttpServer(
        HttpConfig(listen=Address(listen, 0), tokens=known if tokens else ()),
        MetricsConfig(),
        CollectorRegistry(),
        lambda: None,
        daemon=Theatre(output),  # type: ignore[arg-type]
        storage_dir=Path("recordings"),
        policy=UrlPolicy(),
        secrets={},
    )
    with server:
        origin = f"http://127.0.0.1:{server.address.port}"
        headers = {"Authorization": f"Bearer {TOKEN}"} if tokens else {}
        async with httpx.AsyncClient(trust_env=False, headers=headers) as client:
            running = asyncio.create_task(output.run(units, listener))
            await asyncio.sleep(0)
            playing = asyncio.create_task(play(units) if is_playing else asyncio.sleep(0))
            serving = asyncio.create_task(server.run())
            await asyncio.sleep(0)  # the first picture is there
            try:
                yield Show(client, origin, output, units, listener, playing, running)
            finally:
                for task in (playing, running, serving):
                    task.cancel()
                await asyncio.gather(playing, running, serving, return_exceptions=True)
                # uvicorn silences its access log for the whole process.
                logging.getLogger("uvicorn.access").propagate = True


class Viewer:
    """A viewer that keeps all packets; a context, whose exit leaves the show."""

    def __init__(self, show: Show) -> None:
        self.answer: httpx.Response | None = None
        self._show = show
        self._tracks = Tracks()
        self.peer = ReceivingPeer(LOOPBACK, self._tracks.on_track)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.answer is not None and self.answer.is_success:
            await self._show.client.delete(self.session_url)
        await self.peer.__aexit__(kind, error, trace)

    @property
    def session_url(self) -> str:
        assert self.answer is not None
        return self._show.origin + self.answer.headers["location"]

    async def watch(self) -> Self:
        """Until the connection is up."""
        self.answer = await self._show.post(await self.peer.offer())
        assert self.answer.status_code == 201, self.answer.text
        await self.peer.accept(self.answer.text)
        async with asyncio.timeout(PATIENCE_S):
            await self.peer.connected()
        return self

    async def sink(self, kind: Kind) -> Sink:
        return await self._tracks.sink(kind)

    def vanish(self) -> None:
        """Nothing more leaves, and nothing that comes is read."""
        for connection in self.peer._connections:
            for protocol in connection._protocols:
                protocol.transport.sendto = lambda *_: None
                protocol.datagram_received = lambda *_: None


class StockViewer:
    """Stock aiortc, which decodes what it gets; a context, whose exit says goodbye to the far end alone."""

    def __init__(self, *kinds: Kind, codecs: Sequence[str] = ("H264", "opus")) -> None:
        self._pc = RTCPeerConnection(RTCConfiguration([]))
        for kind in kinds:
            transceiver = self._pc.addTransceiver(kind, "recvonly")
            known = get_capabilities(kind).codecs
            transceiver.setCodecPreferences([codec for codec in known if codec.name in codecs])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await close(self._pc)

    async def offer(self) -> str:
        for transceiver in self._pc.getTransceivers():
            limit_to_addresses(transceiver.receiver.transport.transport._connection, ["127.0.0.1"])
        await self._pc.setLocalDescription()
        sdp: str = self._pc.localDescription.sdp
        return sdp

    async def take(self, answer: str) -> None:
        await self._pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))

    async def decoded(self, n_frames: int) -> list[Any]:
        """So many frames of each track."""
        frames = []
        async with asyncio.timeout(PATIENCE_S):
            for transceiver in self._pc.getTransceivers():
                frames += [await transceiver.receiver.track.recv() for _ in range(n_frames)]
        return frames
