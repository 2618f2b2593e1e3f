"""`ws:` PCM that somebody sends over a WebSocket, as it is spoken or all at once."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import structlog

from bridge.errors import SourceLost, SourceTaken
from bridge.media.audio import AudioBlock
from bridge.media.clock import ticks_to_ns
from bridge.ports import SourceListener
from bridge.protocols.pcm_messages import TRY_LATER, Listening, Opened, PcmReader, Refused, Sound, Word
from bridge.protocols.pcm_url import PcmFormat

# Speech that is made at once, as by a text-to-speech service, is sent on at its own pace, so far ahead: half of what
# the session keeps of a live source, which leaves the other half to a microphone's network.
LEAD_S = 0.1
# Blocks are so long at most: an interruption is heard between them.
BLOCK_S = 0.02
# A minute is a long answer, and what may be said of it can still be interrupted. Of 48 kHz stereo that is 11.5 MB.
MAX_WAITING_S = 60.0
MAX_WAITING_BYTES = 16 << 20

log = structlog.get_logger()


class WebSocketSource:
    """Plays what one sender at a time sends. Implements `ports.PcmPoint` and `ports.OutspokenSource`.

    format      that every sender has to keep to; None: each says what it sends.
    dropped_s   sound that was interrupted before it went on.
    """

    is_live = True

    def __init__(self, name: str, format: PcmFormat | None) -> None:
        self.name = name
        self.listener: SourceListener = _Nobody()
        self.dropped_s = 0.0
        self._format = format
        self._sender: PcmSender | None = None
        self._waiting: deque[AudioBlock | Word] = deque()
        self._waiting_s = 0.0
        self._waiting_bytes = 0
        self._changed = asyncio.Event()
        self._is_running = False
        self._log = log.bind(input=name)

    async def run(self, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        """Deliver what comes, for ever, at its own pace."""
        self._is_running = True
        loop = asyncio.get_running_loop()
        played_s = 0.0  # by the loop's clock, when all that went on has been said
        try:
            while True:
                item = self._waiting[0] if self._waiting else None
                ahead_s = played_s - loop.time()
                if item is None or (isinstance(item, AudioBlock) and ahead_s > LEAD_S):
                    await self._change(ahead_s - LEAD_S if item else None)
                    continue
                self._waiting.popleft()
                if isinstance(item, AudioBlock):
                    self._count(item, -1)
                    played_s = max(played_s, loop.time()) + item.duration_s
                    await emit(item)
                else:
                    self._tell(item)
        finally:
            self._is_running = False

    def connect(self) -> "PcmSender":
        """Take a sender. Raises SourceTaken while there is one, SourceLost while the source does not run."""
        self.check_runs()
        if self._sender is not None:
            raise SourceTaken(f"somebody sends to input {self.name}")
        self._sender = PcmSender(self, self._format)
        self._log.info("sender_connected")
        return self._sender

    def check_runs(self) -> None:
        if not self._is_running:
            raise SourceLost(f"input {self.name} does not run yet, or no longer")

    def disconnect(self) -> None:
        self._sender = None
        self._log.info("sender_gone")

    def put(self, sound: Sound, pts_ns: int) -> None:
        """Let samples wait for their turn. Raises Refused once there are too many."""
        if self._waiting_s > MAX_WAITING_S or self._waiting_bytes > MAX_WAITING_BYTES:
            raise Refused(TRY_LATER, f"more than {MAX_WAITING_S:g} s or {MAX_WAITING_BYTES >> 20} MiB wait to be said")
        n_block = max(1, round(BLOCK_S * sound.rate_hz))
        for start in range(0, len(sound.samples), n_block):
            block = AudioBlock(
                sound.samples[start : start + n_block], sound.rate_hz, pts_ns + ticks_to_ns(start, sound.rate_hz)
            )
            self._count(block, 1)
            self._waiting.append(block)
        self._changed.set()

    def say(self, word: Word) -> None:
        """`start` and `end` keep their place in the sound; `interrupt` drops what waits."""
        if word == "interrupt":
            self.dropped_s += self._waiting_s
            self._waiting.clear()
            self._waiting_s, self._waiting_bytes = 0.0, 0
            self._tell(word)
        else:
            self._waiting.append(word)
        self._changed.set()

    def _tell(self, word: Word) -> None:
        match word:
            case "start":
                self.listener.on_speech_started()
            case "end":
                self.listener.on_speech_ended()
            case "interrupt":
                self.listener.on_interrupt()

    def _count(self, block: AudioBlock, sign: int) -> None:
        self._waiting_s += sign * block.duration_s
        self._waiting_bytes += sign * block.samples.nbytes

    async def _change(self, timeout_s: float | None) -> None:
        """Wait until something has come or was dropped, or for so long."""
        self._changed.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            pass


class PcmSender:
    """One connection. Implements `ports.PcmSender`."""

    def __init__(self, source: WebSocketSource, format: PcmFormat | None) -> None:
        self._source = source
        self._reader = PcmReader(format)
        self._sent_ns = 0
        self._is_in_turn = False

    def take(self, message: str | bytes) -> str | None:
        """Raises Refused, SourceLost."""
        self._source.check_runs()
        match self._reader.read(message):
            case Opened() as opened:
                return opened.reply()
            case Sound() as sound:
                self._source.put(sound, self._sent_ns)
                self._sent_ns += ticks_to_ns(len(sound.samples), sound.rate_hz)
                self._is_in_turn = True
            case Listening(on):
                self._source.listener.on_listening(on)
            case word:
                self._source.say(word)
                self._is_in_turn = word == "start"
        return None

    def close(self) -> None:
        """It is gone; what it had begun to say is over."""
        if self._is_in_turn:
            self._source.say("end")
        self._source.disconnect()


class _Nobody:
    """Takes words where nobody listens."""

    def on_speech_started(self) -> None: ...

    def on_speech_ended(self) -> None: ...

    def on_interrupt(self) -> None: ...

    def on_listening(self, on: bool) -> None: ...
