"""One input of a session: its source, kept running, and what of its sound waits to be sent."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import numpy as np
import structlog
from numpy.typing import NDArray

from bridge.dsp.chain import SpeechChain
from bridge.dsp.strip import Strip, StripSettings
from bridge.errors import SourceError, SourceLost, SourceRejected
from bridge.media.audio import AudioBlock
from bridge.media.clock import AVATAR_RATE_HZ
from bridge.net.backoff import Backoff
from bridge.ports import AudioSource, OutspokenSource

BYTES_PER_S = 2 * AVATAR_RATE_HZ
# What is decoded ahead of a file: rides out a slow disk.
BUFFERED_S = 1.0
# What may wait of a live source: ten messages of 20 ms absorb a network's jitter, more would only be latency.
LIVE_BUFFERED_S = 0.2
# A source that is lost is opened again: a stream that was restarted is mostly back within a second.
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 15.0


class Feed:
    """Runs one source, again and again while it is lost, and keeps its sound as 24 kHz mono until it is taken.

    A file waits until its sound is taken; a live source loses its past.

    barges_in  whether who speaks here interrupts the avatar.  strip: what is done to it in the mix.
    has_begun  it gave sound.
    error      why it has ended, where that was no proper end.
    dropped_s  sound of a live source that could not be sent in time, or was interrupted.
    underruns  how often its sound broke off because the source gave nothing.
    """

    def __init__(
        self,
        source: AudioSource,
        settings: StripSettings | None = None,
        *,
        barges_in: bool = False,
        on_interrupt: Callable[["Feed"], None] = lambda feed: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`on_interrupt`: told when the source itself asks for the avatar to stop."""
        self.name = source.name
        self.is_live = source.is_live
        self.barges_in = barges_in
        self.strip = Strip(settings or StripSettings())
        self.has_begun = False
        self.error: SourceError | None = None
        self.dropped_s = 0.0
        self.underruns = 0
        self._source = source
        self._on_interrupt = on_interrupt
        self._sleep = sleep
        self._chain = SpeechChain()
        self._waiting = bytearray()  # PCM16
        self._taken = asyncio.Event()
        self._source_has_ended = False
        self._has_given = False  # since it was opened the last time
        self._is_flowing = False
        self._is_listened_to = True
        self._turn_bytes: int | None = None  # of what waits: all that belongs to a turn that the source has ended
        self._log = structlog.get_logger().bind(input=source.name)
        if isinstance(source, OutspokenSource):
            source.listener = self

    @property
    def has_ended(self) -> bool:
        """Whether all that it will ever give has been taken."""
        return self._source_has_ended and not self._waiting

    async def run(self) -> None:
        """Until the source has ended for good; `error` says why, if that was no proper end."""
        backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S, random.Random())
        while not self._source_has_ended:
            try:
                self._has_given = False
                await self._source.run(self._take_block)
                self._source_has_ended = True
            except SourceLost as error:
                if self._has_given:
                    backoff.reset()
                delay_s = backoff.next_delay_s()
                self._log.warning("input_lost", error=str(error), retry_in_s=round(delay_s, 1))
                await self._sleep(delay_s)
            except SourceError as error:
                self._log.error("input_failed", error=str(error))
                self.error, self._source_has_ended = error, True
            self._waiting += self._chain.flush().astype("<i2").tobytes()

    def take(self, n_samples: int) -> NDArray[np.int16] | None:
        """The next so many samples, the last ones filled up with silence; None: they are not there."""
        n_bytes = 2 * n_samples
        is_end = self._source_has_ended or self._turn_bytes is not None
        if len(self._waiting) < n_bytes and not (is_end and self._waiting):
            self.underruns += self._is_flowing and not is_end
            self._is_flowing = False
            self._end_told_turn(0)
            return None
        self._is_flowing = True
        piece = bytes(self._waiting[:n_bytes])
        del self._waiting[:n_bytes]
        self._taken.set()
        self._end_told_turn(n_bytes)
        return np.frombuffer(piece.ljust(n_bytes, b"\0"), "<i2")

    def drop(self) -> None:
        """Forget what waits."""
        self.dropped_s += len(self._waiting) / BYTES_PER_S
        self._waiting.clear()
        self._taken.set()

    # ------------------------------------------------------------------------------------------ SourceListener

    def on_speech_started(self) -> None:
        self._turn_bytes = None
        self.strip.voice.begin()

    def on_speech_ended(self) -> None:
        self._turn_bytes = len(self._waiting)

    def on_interrupt(self) -> None:
        self.drop()
        self._on_interrupt(self)

    def on_listening(self, on: bool) -> None:
        self._is_listened_to = on
        if not on:
            self.drop()

    def _end_told_turn(self, taken_bytes: int) -> None:
        """The source has said where its turn ends: there the detector need not wait for a pause."""
        if self._turn_bytes is None:
            return
        self._turn_bytes -= taken_bytes
        if self._turn_bytes <= 0:
            self._turn_bytes = None
            self.strip.voice.end()

    # ------------------------------------------------------------------------------------------ from the source

    async def _take_block(self, block: AudioBlock) -> None:
        try:
            pcm16 = self._chain.push(block).astype("<i2").tobytes()
        except SourceRejected as error:
            raise SourceRejected(f"input {self.name}: {error}") from None
        self.has_begun = self._has_given = True
        if not self._is_listened_to:
            return
        self._waiting += pcm16
        if self.is_live:
            # A block that is itself longer than the bound is all present, and not its own past.
            excess = len(self._waiting) - max(round(LIVE_BUFFERED_S * BYTES_PER_S), len(pcm16))
            if excess > 0:
                del self._waiting[:excess]
                self.dropped_s += excess / BYTES_PER_S
            return
        while len(self._waiting) > BUFFERED_S * BYTES_PER_S:
            self._taken.clear()
            await self._taken.wait()
