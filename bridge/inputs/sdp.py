"""`sdp:FILE`, RTP as a session description (RFC 8866) says."""

import io
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.errors import SourceLost, SourceRejected
from bridge.inputs.decoding import LIVE_PIECE_S, Blocks, Decoder, play
from bridge.media.audio import AudioBlock
from bridge.net.url_policy import UrlPolicy, UrlRefused
from bridge.worker import Worker

if TYPE_CHECKING:
    from av import AudioStream, Packet
    from av.container import InputContainer

# Senders send fifty times a second, and one with voice detection not at all while nobody speaks.
IDLE_S = 10.0
# How long FFmpeg waits before it looks whether it is still wanted.
_LOOK_S = 0.5
_MAX_SDP_BYTES = 16_384  # FFmpeg reads no more
_OPTIONS = {
    "protocol_whitelist": "udp,rtp,srtp",
    "fflags": "nobuffer",
    "probesize": "32768",
    "analyzeduration": "500000",
    # Overtaken packets are waited for as long as a microphone's jitter: FFmpeg's own half a second is for pictures.
    "max_delay": "100000",
}


class SdpSource:
    """Plays what is sent to the addresses of a session description, read anew at each run.

    is_strange  the URL is not of the operator's file: addresses in the description are judged by the policy.
    """

    is_live = True

    def __init__(self, name: str, path: Path, policy: UrlPolicy, *, is_strange: bool = False) -> None:
        self.name = name
        self._path = path
        self._policy = policy
        self._is_strange = is_strange
        self._label = f"input {name}: {path}"

    async def run(self, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        """Deliver. Raises SourceLost when nothing comes any more, SourceRejected."""
        async with Worker(f"read {self.name}") as worker:
            try:
                description = await worker.call(self._path.read_bytes)
            except OSError as error:
                raise SourceRejected(f"{self._label} cannot be read ({error.strerror})") from None
        if len(description) >= _MAX_SDP_BYTES:
            raise SourceRejected(f"{self._label} is too long for a session description")
        if self._is_strange:
            self._judge(description)
        is_over = threading.Event()
        await play(self.name, self._blocks(description, is_over), emit, piece_s=LIVE_PIECE_S, interrupt=is_over.set)

    def _judge(self, description: bytes) -> None:
        for line in re.split(rb"[\r\n]", description):
            if not (match := re.match(rb"\s*c\s*=\s*(.*)", line)):
                continue
            address = re.fullmatch(r"IN IP[46] ([0-9A-Fa-f.:]+)(/\d+)*\s*", match[1].decode("latin-1"))
            try:
                if address is None:
                    raise UrlRefused("no address")
                self._policy.check_address(address[1])
            except (UrlRefused, ValueError) as error:
                raise SourceRejected(f"{self._label}: in its c= line: {error}") from None

    def _blocks(self, description: bytes, is_over: threading.Event) -> Blocks:
        """Runs in the decoding thread."""
        import av

        try:
            with self._open(description, is_over) as container:
                stream = container.streams.best("audio")
                if not isinstance(stream, av.AudioStream):
                    raise SourceRejected(f"{self._label} describes no sound")
                yield from Decoder().blocks(container, stream, self._packets(container, stream, is_over))
        except av.ExitError:
            return  # called off
        except (av.FFmpegError, OSError) as error:
            failure = SourceLost if isinstance(error, av.OSError) else SourceRejected
            raise failure(f"{self._label} cannot be played ({error.strerror})") from None

    def _open(self, description: bytes, is_over: threading.Event) -> "InputContainer":
        """Listen, and wait for the packets that the description leaves open questions to."""
        import av

        began_s = time.monotonic()
        while True:
            try:
                return av.open(
                    io.BytesIO(description),
                    "r",
                    format="sdp",
                    options=_OPTIONS,
                    timeout=_LOOK_S,
                    metadata_errors="ignore",
                )
            except av.ExitError:
                self._check_idle(began_s)
                if is_over.is_set():
                    raise

    def _packets(
        self, container: "InputContainer", stream: "AudioStream", is_over: threading.Event
    ) -> Iterator["Packet[AudioStream]"]:
        import av

        heard_s = time.monotonic()
        while True:
            try:
                for packet in container.demux(stream):
                    heard_s = time.monotonic()
                    yield packet
                return
            except av.ExitError:
                self._check_idle(heard_s)
                if is_over.is_set():
                    return

    def _check_idle(self, heard_s: float) -> None:
        if time.monotonic() - heard_s > IDLE_S:
            raise SourceLost(f"{self._label}: nothing has come for {IDLE_S:g} s")
