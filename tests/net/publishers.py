"""Inputs behind a real HTTP server on loopback, and a stock aiortc publisher that sends a tone to one."""

import asyncio
import fractions
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import httpx
import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription, VideoStreamTrack
from aiortc.codecs import get_capabilities
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from bridge.config import Address, HttpConfig, MetricsConfig, TokenConfig
from bridge.inputs.websocket import WebSocketSource
from bridge.inputs.whip import WhipSource
from bridge.media.audio import AudioBlock
from bridge.net.ice import IceSettings, limit_to_addresses
from bridge.net.url_policy import UrlPolicy
from bridge.ops.api import HttpServer
from bridge.redact import Secret
from bridge.track_reception import TrackReception
from tests.net.loopback import LOOPBACK, PATIENCE_S, close

TOKEN, OTHER_TOKEN = "canary_ingest_0123456789", "canary_control_0123456789"
TONE_HZ = 1_000


class Heard:
    """What an input has given."""

    def __init__(self) -> None:
        self.blocks: list[AudioBlock] = []
        self._changed = asyncio.Event()

    async def take(self, block: AudioBlock) -> None:
        self.blocks.append(block)
        self._changed.set()

    @property
    def n_samples(self) -> int:
        return sum(len(block.samples) for block in self.blocks)

    async def seconds(self, duration_s: float, start: int | None = None) -> NDArray[np.float32]:
        """So much sound of one channel, from this block on; None: once as much more has come."""
        start = len(self.blocks) if start is None else start
        async with asyncio.timeout(PATIENCE_S):
            while sum(block.duration_s for block in self.blocks[start:]) < duration_s - 1e-9:
                self._changed.clear()
                await self._changed.wait()
        return np.concatenate([block.samples[:, 0] for block in self.blocks[start:]])


def frequency_hz(sound: NDArray[Any], rate_hz: int) -> float:
    """The strongest tone."""
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    return float(np.argmax(spectrum) * rate_hz / len(sound))


@dataclass
class Studio:
    """A session with a WHIP input `host` and a PCM input `pipe`, as the API sees it."""

    whip: WhipSource
    pcm: WebSocketSource
    is_draining: bool = False

    def status(self) -> list[object]:
        return []

    def status_of(self, name: str) -> None:
        pass

    def session(self, name: str) -> "Studio | None":
        return self if name == "leo" else None

    def source(self, name: str) -> WhipSource | WebSocketSource | None:
        return {"host": self.whip, "pipe": self.pcm}.get(name)

    def stop(self) -> None:
        pass


@dataclass
class Entrance:
    """A client of an API with these inputs. url: of the WHIP input; socket_url: of the other one."""

    client: httpx.AsyncClient
    origin: str

    @property
    def url(self) -> str:
        return f"{self.origin}/v1/sessions/leo/whip/host"

    @property
    def socket_url(self) -> str:
        return f"ws{self.origin.removeprefix('http')}/v1/sessions/leo/pcm/pipe"


@dataclass
class Desk(Entrance):
    """Both inputs running, and what is heard of them."""

    studio: Studio
    host: Heard = field(default_factory=Heard)
    pipe: Heard = field(default_factory=Heard)


@asynccontextmanager
async def desk(
    *,
    tokens: bool = False,
    pcm: WebSocketSource | None = None,
    listen: str = "127.0.0.1",
    ice: IceSettings = LOOPBACK,
) -> AsyncIterator[Desk]:
    scopes: dict[str, Any] = {TOKEN: ("ingest",), OTHER_TOKEN: ("read", "control")}
    known = tuple(TokenConfig(file=Secret(token), scopes=scopes[token]) for token in scopes)
    http = HttpConfig(listen=Address(listen, 0), tokens=known if tokens else ())
    studio = Studio(WhipSource("host", ice, TrackReception), pcm or WebSocketSource("pipe", None))
    server = HttpServer(
        http,
        MetricsConfig(),
        CollectorRegistry(),
        lambda: None,
        daemon=studio,  # type: ignore[arg-type]
        storage_dir=Path("recordings"),
        policy=UrlPolicy(),
        secrets={},
    )
    with server:
        origin = f"http://127.0.0.1:{server.address.port}"
        headers = {"Authorization": f"Bearer {TOKEN}"} if tokens else {}
        async with httpx.AsyncClient(trust_env=False, headers=headers) as client:
            made = Desk(client, origin, studio)
            running = [
                asyncio.create_task(each)
                for each in (server.run(), studio.whip.run(made.host.take), studio.pcm.run(made.pipe.take))
            ]
            try:
                yield made
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)
                # uvicorn silences its access log for the whole process.
                logging.getLogger("uvicorn.access").propagate = True


class Tone(MediaStreamTrack):
    """1 kHz at half of full scale, in real time, 20 ms at a time; nothing while `is_held`."""

    kind = "audio"

    def __init__(self, rate_hz: int = 48_000) -> None:
        super().__init__()
        self._rate_hz = rate_hz
        self._n_samples = 0
        self._started_s: float | None = None
        self.released = asyncio.Event()
        self.released.set()

    async def recv(self) -> av.AudioFrame:
        loop = asyncio.get_running_loop()
        await self.released.wait()
        n = self._rate_hz // 50
        if self._started_s is None:
            self._started_s = loop.time()
        await asyncio.sleep(max(0.0, self._started_s + self._n_samples / self._rate_hz - loop.time()))
        times = (self._n_samples + np.arange(n)) / self._rate_hz
        tone = np.round(16_384 * np.sin(2 * np.pi * TONE_HZ * times)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = self._rate_hz, self._n_samples
        frame.time_base = fractions.Fraction(1, self._rate_hz)
        self._n_samples += n
        return frame


class Publisher:
    """Stock aiortc on loopback that publishes a tone; a context, whose exit deletes what it has made.

    codec  the only one offered: opus, PCMU, PCMA or G722.  candidates: whether they stand in the offer.
    """

    def __init__(
        self, at: Entrance, codec: str = "opus", *, video: bool = False, sound: bool = True, candidates: bool = True
    ) -> None:
        self.track = Tone()
        self.answer: httpx.Response | None = None
        self.candidates: list[str] = []
        self._at = at
        self._candidates = candidates
        self._pc = RTCPeerConnection(RTCConfiguration([]))
        if sound:
            transceiver = self._pc.addTransceiver(self.track, "sendonly")
            known = get_capabilities("audio").codecs
            transceiver.setCodecPreferences([each for each in known if each.name == codec])
        if video:
            self._pc.addTransceiver(VideoStreamTrack(), "sendonly")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.answer is not None and self.answer.is_success:
            await self._at.client.delete(self.session_url)
        await close(self._pc)

    @property
    def session_url(self) -> str:
        assert self.answer is not None
        return self._at.origin + self.answer.headers["location"]

    async def offer(self) -> str:
        for transceiver in self._pc.getTransceivers():
            limit_to_addresses(transceiver.receiver.transport.transport._connection, ["127.0.0.1"])
        await self._pc.setLocalDescription()
        sdp: str = self._pc.localDescription.sdp
        if self._candidates:
            return sdp
        lines = sdp.splitlines(keepends=True)
        self.candidates = list(dict.fromkeys(line.strip() for line in lines if line.startswith("a=candidate")))
        return "".join(line for line in lines if not line.startswith(("a=candidate", "a=end-of")))

    async def publish(self, edit: Callable[[str], str] = str) -> httpx.Response:
        """POST the offer, and take the answer if there is one."""
        answer = await post(self._at, edit(await self.offer()))
        if answer.is_success:
            await self.take(answer)
        return answer

    async def publish_once_free(self) -> int:
        """The same, until nobody else is there; how often it was refused for that."""
        offer, n_refused = await self.offer(), 0
        async with asyncio.timeout(PATIENCE_S):
            while (answer := await post(self._at, offer)).status_code == 409:
                n_refused += 1
                await asyncio.sleep(0.2)
        assert answer.status_code == 201, answer.text
        await self.take(answer)
        return n_refused

    async def take(self, answer: httpx.Response) -> None:
        self.answer = answer
        await self._pc.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))

    def fragment(self) -> str:
        """What a PATCH says of the candidates that the offer has left out."""
        lines: list[str] = self._pc.localDescription.sdp.splitlines()
        credentials = [line for line in lines if line.startswith(("a=ice-ufrag", "a=ice-pwd"))][:2]
        media = ["m=audio 9 UDP/TLS/RTP/SAVPF 0", "a=mid:0"]
        return "".join(f"{line}\r\n" for line in (*credentials, *media, *self.candidates, "a=end-of-candidates"))

    async def connected(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self._pc.connectionState != "connected":  # noqa: ASYNC110  aiortc has no event to wait for
                await asyncio.sleep(0.02)

    def vanish(self) -> None:
        """Cut its cable: nothing more leaves, and nothing that comes is read."""
        for protocol in self._sockets():
            protocol.transport.sendto = lambda *_: None
            protocol.datagram_received = lambda *_: None

    def lose(self, is_lost: Callable[[int, int], bool]) -> None:
        """Lose packets of sound, by sequence number and the how manieth copy of it this is, from 0."""
        copies: Counter[int] = Counter()
        for protocol in self._sockets():
            send = protocol.transport.sendto

            def send_or_lose(data: bytes, address: Any, send: Callable[..., None] = send) -> None:
                is_sound = 127 < data[0] < 192 and data[1] & 0x7F not in range(64, 96)  # RFC 5761 §4: RTCP
                number = int.from_bytes(data[2:4], "big")
                if is_sound and is_lost(number, copies[number]):
                    copies[number] += 1
                    return
                send(data, address)

            protocol.transport.sendto = send_or_lose

    def _sockets(self) -> list[Any]:
        connections = (each.receiver.transport.transport._connection for each in self._pc.getTransceivers())
        return [protocol for connection in connections for protocol in connection._protocols]


async def post(at: Entrance, offer: str, **headers: str) -> httpx.Response:
    given = {"Content-Type": "application/sdp"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return await at.client.post(at.url, content=offer, headers=given)
