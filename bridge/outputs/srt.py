"""Publishing by SRT, as MPEG-TS with the picture as it came and AAC."""

import asyncio
import shutil
from collections.abc import Awaitable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, cast
from urllib.parse import urlencode

from av.error import FFmpegError

from bridge.errors import ConfigError, OutputLost, OutputRejected
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.live_queue import LiveQueue
from bridge.net.race import race
from bridge.net.url_policy import UrlPolicy, UrlRefused
from bridge.outputs.recording import Container, Recording
from bridge.outputs.srt_sender import DATAGRAM_BYTES, NULL_PACKET, SrtSender
from bridge.ports import OutputListener, OutputProgress
from bridge.protocols.srt_url import parse_url
from bridge.redact import Secret
from bridge.worker import Worker

# A picture, or the four frames of a round of sound, in one call of the thread.
_BURST = 8
# How long one program waits for a caller before the next one does: if we are killed, it stays behind no longer.
_LISTEN_S = 30.0
_SCHEMES = frozenset({"srt"})
# Pictures do not wait for their sound, which is up to 110 ms behind them, and 150 ms more while inputs are mixed in: so
# that players which keep to the stream's clock have both in time, all is due 300 ms after that. A muxer keeps what is
# newest: a picture leaves with the next one. No frame of sound waits for others to share its packet.
_CONTAINER = Container(
    "mpegts", Codec.AAC, {"max_interleave_delta": "1", "max_delay": "300000", "pes_payload_size": "0"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SrtDeadlines:
    """How long each step may take.

    connect_s  SRT's handshake: two round trips, and what is lost of it is repeated every 250 ms.
    start_s    besides that, for the program to start and to say that it is connected.
    close_s    to send what waits, besides the latency until it is played.
    """

    connect_s: float = 5.0
    start_s: float = 5.0
    close_s: float = 2.0


class TransportStream:
    """Units in, whole datagrams of MPEG-TS out, from the first keyframe on. Blocks.

    A picture leaves with the next one. One of another size goes on in it, with its parameter sets before its keyframe.
    """

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._recording: Recording | None = None

    def push(self, units: Iterable[AccessUnit]) -> bytes:
        for unit in units:
            if self._recording is None and unit.codec.kind == "video" and unit.is_keyframe:
                self._recording = Recording(cast(BinaryIO, self), _CONTAINER, unit)
            if self._recording is not None:
                self._recording.write(unit)
        return self._datagrams()

    def finish(self) -> bytes:
        if self._recording is not None:
            self._recording.close()
        return self._datagrams()

    def write(self, data: bytes) -> int:
        """What the muxer writes to."""
        self._bytes += data
        return len(data)

    def _datagrams(self) -> bytes:
        # Filled up, because the end of a picture shall not wait for the next one.
        ready = bytes(self._bytes) + NULL_PACKET * (-len(self._bytes) % DATAGRAM_BYTES // len(NULL_PACKET))
        self._bytes.clear()
        return ready


class SrtOutput:
    """One connection to srt://HOST:PORT, or with `mode=listener` of whoever connects to us there.

    FFmpeg's program sends, because the package av has no SRT. It is given media once it is connected, and ends with the
    output. Health is what it says it has sent; one that hangs takes nothing more, and its media waits.
    """

    audio_codec = Codec.AAC

    def __init__(
        self,
        url: str,
        passphrase: Secret | None = None,
        *,
        program: str,
        keyframe_s: float | None = 2.0,
        policy: UrlPolicy | None = None,
        is_strange: bool = False,
        deadlines: SrtDeadlines | None = None,
    ) -> None:
        """Raises ConfigError if the URL is none for SRT. `program`: FFmpeg's. `is_strange`: the URL has to pass the
        policy at every attempt."""
        self.keyframe_s = keyframe_s
        self._url = url
        self._address = parse_url(url, passphrase.reveal() if passphrase else None)
        self._policy = policy or UrlPolicy()
        self._is_strange = is_strange
        self._deadlines = deadlines or SrtDeadlines()
        self._program = program
        self._sender: SrtSender | None = None

    async def run(self, units: LiveQueue, listener: OutputListener) -> None:
        """Publish until `units` is finished. Raises OutputRejected, OutputLost. See `ports.Output`."""
        host = await self._judged() if self._is_strange else self._address.host
        while not await self._publish(host, units, listener):
            pass  # nobody has called yet

    def progress(self) -> OutputProgress:
        if self._sender is None:
            return OutputProgress()
        return OutputProgress(self._sender.sent_bytes, self._sender.waiting_bytes)

    async def _publish(self, host: str, units: LiveQueue, listener: OutputListener) -> bool:
        """Send to the end of `units`. False: nobody has called for so long that the program was ended."""
        name = self._address.url(self._address.host)
        async with Worker("srt") as worker, SrtSender(self._program, *self._far_end(host), name) as sender:
            self._sender = sender
            is_listener = self._address.mode == "listener"
            wait_s = _LISTEN_S if is_listener else self._deadlines.connect_s + self._deadlines.start_s
            try:
                async with asyncio.timeout(wait_s):
                    await sender.connected()
            except TimeoutError:
                if is_listener:
                    return False
                raise OutputLost(f"{name}: no connection within {wait_s:g} s") from None
            listener.on_published()
            stream = TransportStream()
            await race(self._feed(sender, worker, stream, units, listener), sender.ended())
            # The broadcast is over: what does not get through any more is nobody's to mend.
            latency_s = self._address.latency_ms / 1_000
            with suppress(TimeoutError, OutputLost):
                async with asyncio.timeout(self._deadlines.close_s + latency_s):
                    await sender.send(await self._muxed(worker.call(stream.finish)))
                    await sender.finish(latency_s)
        return True

    async def _feed(
        self, sender: SrtSender, worker: Worker, stream: TransportStream, units: LiveQueue, listener: OutputListener
    ) -> None:
        kept: AccessUnit | None = None  # the newest picture
        while (first := await units.get()) is not None:
            burst = (first, *units.get_waiting(_BURST - 1))
            await sender.send(await self._muxed(worker.call(stream.push, burst)))
            for unit in burst:
                left, kept = (kept, unit) if unit.codec.kind == "video" else (unit, kept)
                if left is not None:
                    listener.on_written(left)
        if kept is not None:
            listener.on_written(kept)

    async def _muxed(self, datagrams: Awaitable[bytes]) -> bytes:
        try:
            return await datagrams
        except FFmpegError as error:
            raise OutputLost(f"{self._address.url(self._address.host)}: cannot be muxed: {error}") from error

    def _far_end(self, host: str) -> tuple[str, Mapping[str, str]]:
        """The URL as FFmpeg takes it, and what it must not hold."""
        address, deadlines = self._address, self._deadlines
        parameters = {
            "mode": address.mode,
            "latency": address.latency_ms * 1_000,
            "connect_timeout": round(deadlines.connect_s * 1_000),
            "listen_timeout": round((_LISTEN_S + deadlines.start_s) * 1_000_000),
            "pkt_size": DATAGRAM_BYTES,
            "linger": round(deadlines.close_s),
        }
        return f"{address.url(host)}?{urlencode(parameters)}", address.secrets

    async def _judged(self) -> str:
        """An address of the host that others than the operator's file have named. Raises OutputRejected, OutputLost."""
        try:
            pinned = await self._policy.check(self._url, schemes=_SCHEMES)
        except UrlRefused as error:
            raise OutputRejected(str(error)) from None
        except OSError as error:
            raise OutputLost(f"{self._address.host}: {error}") from error
        return pinned.addresses[0]


def find_program() -> str:
    """FFmpeg's program. Raises ConfigError if it is not installed."""
    path = shutil.which("ffmpeg")
    if path is None:
        raise ConfigError("srt: needs the program ffmpeg, with libsrt (Debian and Ubuntu: apt-get install ffmpeg)")
    return path
