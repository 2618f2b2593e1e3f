"""The way up: from an input to the avatar service, in real time."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import numpy as np
import structlog

from bridge.dsp.chain import SpeechChain
from bridge.dsp.levels import SILENCE_DBFS, PauseGate
from bridge.errors import ProviderError, SourceError, SourceRejected
from bridge.media.audio import AudioBlock
from bridge.media.clock import AVATAR_RATE_HZ, NS_PER_MS, NS_PER_S, ticks_to_ns
from bridge.ports import AudioSource, AvatarLink, UplinkPacing

BYTES_PER_S = 2 * AVATAR_RATE_HZ
# What is decoded ahead of a file: rides out a slow disk.
BUFFERED_S = 1.0
# What may wait of a live source: ten messages of 20 ms absorb a network's jitter, more would only be latency.
LIVE_BUFFERED_S = 0.2
# An avatar should not talk unseen, but some services show no picture before there is something to say.
MEDIA_WAIT_S = 5.0
# Messages overdue for no longer than this, three of a file's, go out at once; after a longer stall the schedule
# starts anew, so that the service gets no flood.
CATCH_UP_NS = 200 * NS_PER_MS
# Inside a word the sound stops for up to 150 ms (closure of p, t, k), between phrases for 300 ms and more, of which
# whole messages of 64 ms are seen.
PAUSE_S = 0.25


class Silence:
    """A source that says nothing: the uplink then sends what the service wants while nobody speaks."""

    name = "silence"
    is_live = False

    async def run(self, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        await asyncio.Event().wait()


class Uplink:
    """Carries one source through its chain to the attached avatar link, at the pace of a clock.

    A tick per message: speech if there is some and it may go, else the silence that ends a turn, else silence if the
    service wants it while idle. Speech waits for the first picture, at most 5 s after `attach`.

    While no link is attached a file waits, so that nothing of it is lost, and a live source loses its past. A link
    that refuses a message with ProviderError is detached, and the message kept for the next one.

    media_ready  set by the session once the avatar's picture has arrived; cleared by `detach`.
    finished     set once all that will ever be said has been sent, and the silence after it.
    spoken_s     speech sent.  dropped_s: sound of a live source that could not be sent in time, or was interrupted.
    underruns    how often speech broke off because the input gave nothing.
    """

    def __init__(
        self,
        source: AudioSource,
        chain: SpeechChain,
        *,
        now_ns: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.media_ready = asyncio.Event()
        self.finished = asyncio.Event()
        self.spoken_s = 0.0
        self.dropped_s = 0.0
        self.underruns = 0
        self._source = source
        self._chain = chain
        self._now_ns = now_ns
        self._sleep = sleep
        self._log = structlog.get_logger().bind(input=source.name)
        self._speech = bytearray()  # PCM16 that waits to be sent
        self._speech_taken = asyncio.Event()
        self._has_begun = False
        self._source_has_ended = False
        self._link: AvatarLink | None = None
        self._link_attached = asyncio.Event()
        self._held_until_ns = 0
        self._is_interrupted = False
        self._has_warned = False
        self._is_speaking = False
        self._tail_samples = 0  # silence still to be sent before the turn is over
        self._gate = PauseGate()
        self._last_word_ns: int | None = None  # while draining: when speech ends, pause or not
        self._is_muted = False  # drained: nothing more is said

    @property
    def level_dbfs(self) -> float:
        """RMS level of the speech that is flowing, -100 while none does."""
        return self._chain.level.rms_dbfs if self._is_speaking else SILENCE_DBFS

    @property
    def is_pausing(self) -> bool:
        """Whether nobody has spoken for `PAUSE_S`."""
        return not self._is_speaking or self._gate.pause_s >= PAUSE_S

    async def run(self) -> None:
        """Carry until cancelled: after the end of the source, silence. Raises SourceError if nothing ever came."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(), name=f"listen-{self._source.name}")
                tasks.create_task(self._pace(), name=f"pace-{self._source.name}")
        except ExceptionGroup as failures:
            # The source failed, or one of the two has a bug: no group is needed to say which.
            raise failures.exceptions[0] from None

    def attach(self, link: AvatarLink) -> None:
        """Send to this link from now on."""
        self._link = link
        self._has_warned = self._is_interrupted = False
        self._held_until_ns = self._now_ns() + round(MEDIA_WAIT_S * NS_PER_S)
        self._link_attached.set()

    def detach(self) -> None:
        """The avatar is gone; what it has not heard waits for the next one."""
        self._link = None
        self._link_attached.clear()
        self.media_ready.clear()
        self._is_speaking = False
        if self._last_word_ns is not None:
            self.finished.set()

    def interrupt(self) -> None:
        """Somebody else speaks: what waits to be sent is dropped, and the service told to drop what it has."""
        self.dropped_s += len(self._speech) / BYTES_PER_S
        self._speech.clear()
        self._speech_taken.set()
        self._is_interrupted = True

    async def finish_utterance(self, deadline_s: float) -> None:
        """Speak on to the next pause or the end of the source, then send the tail of silence; no speech after it.

        Returns within `deadline_s`; speech stops early enough for its tail to fit in.
        """
        if self._link is None:
            self._is_muted = True
            self.finished.set()
            return
        speech_s = max(0.0, deadline_s - self._link.pacing.tail_s)
        self._last_word_ns = self._now_ns() + round(speech_s * NS_PER_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await self.finished.wait()
        self._is_muted = True

    # ------------------------------------------------------------------------------------------ from the source

    async def _listen(self) -> None:
        try:
            await self._source.run(self._take_block)
        except SourceError as error:
            if not self._has_begun:
                raise
            # What was on air stays on air: from here on there is silence.
            self._log.error("input_failed", error=str(error))
        self._speech += self._chain.flush().astype("<i2").tobytes()
        self._source_has_ended = True

    async def _take_block(self, block: AudioBlock) -> None:
        try:
            pcm16 = self._chain.push(block).astype("<i2").tobytes()
        except SourceRejected as error:
            raise SourceRejected(f"input {self._source.name}: {error}") from None
        self._has_begun = True
        self._speech += pcm16
        if self._source.is_live:
            # A block that is itself longer than the bound is all present, and not its own past.
            excess = len(self._speech) - max(round(LIVE_BUFFERED_S * BYTES_PER_S), len(pcm16))
            if excess > 0:
                del self._speech[:excess]
                self.dropped_s += excess / BYTES_PER_S
            return
        while len(self._speech) > BUFFERED_S * BYTES_PER_S:
            self._speech_taken.clear()
            await self._speech_taken.wait()

    # ------------------------------------------------------------------------------------------ to the avatar

    async def _pace(self) -> None:
        while True:
            await self._link_attached.wait()
            if self._link is not None:
                await self._feed(self._link)

    async def _feed(self, link: AvatarLink) -> None:
        """Send one message per tick until the link is detached."""
        pacing = link.pacing
        n_samples = pacing.live_samples if self._source.is_live else pacing.buffered_samples
        start_ns, samples_due = self._now_ns(), 0
        while self._link is link:
            speech = self._take_speech(n_samples, pacing)
            message = speech or self._silence(n_samples, pacing)
            if message or self._is_interrupted:
                try:
                    if self._is_interrupted:
                        self._is_interrupted = False
                        await link.interrupt()
                    if message:
                        await link.send_audio(message)
                except ProviderError as error:
                    self._log.warning("uplink_lost", error=str(error))
                    self._speech[:0] = speech
                    if self._link is link:
                        self.detach()
                    return
            self._account(message, bool(speech), n_samples)

            samples_due += n_samples
            wait_ns = start_ns + ticks_to_ns(samples_due, AVATAR_RATE_HZ) - self._now_ns()
            if wait_ns < -CATCH_UP_NS:
                start_ns, samples_due = self._now_ns(), 0
            await self._sleep(max(0, wait_ns) / NS_PER_S)

    def _take_speech(self, n_samples: int, pacing: UplinkPacing) -> bytes:
        """The next message of speech; empty while there is none or it may not go."""
        n_bytes = 2 * n_samples
        has_message = len(self._speech) >= n_bytes or (self._source_has_ended and len(self._speech) > 0)
        may_speak = self._may_speak()
        if not (may_speak and has_message):
            if may_speak and self._is_speaking and not self._source_has_ended:
                self.underruns += 1
            self._is_speaking = False
            return b""
        if not self.media_ready.is_set() and not self._has_warned:
            self._has_warned = True
            self._log.warning("speech_without_media", waited_s=MEDIA_WAIT_S)
        self._is_speaking = True
        self._tail_samples = round(pacing.tail_s * AVATAR_RATE_HZ)
        speech = bytes(self._speech[:n_bytes])
        del self._speech[:n_bytes]
        self._speech_taken.set()
        return speech.ljust(n_bytes, b"\0")

    def _may_speak(self) -> bool:
        now_ns = self._now_ns()
        if self._last_word_ns is not None and not self._is_muted:
            is_late = now_ns >= self._last_word_ns
            self._is_muted = is_late or self._gate.pause_s >= PAUSE_S
            if is_late:
                self._log.warning("utterance_cut")
        return not self._is_muted and (self.media_ready.is_set() or now_ns >= self._held_until_ns)

    def _silence(self, n_samples: int, pacing: UplinkPacing) -> bytes:
        return bytes(2 * n_samples) if self._tail_samples > 0 or pacing.idle_audio == "silence" else b""

    def _account(self, message: bytes, is_speech: bool, n_samples: int) -> None:
        """A tick has passed and `message`, if any, has been sent."""
        self._gate.push(np.frombuffer(message or bytes(2 * n_samples), "<i2"))
        if is_speech:
            self.spoken_s += n_samples / AVATAR_RATE_HZ
        else:
            self._tail_samples = max(0, self._tail_samples - n_samples)
        has_said_all = self._is_muted or (self._source_has_ended and not self._speech)
        if has_said_all and not self._tail_samples:
            self.finished.set()
