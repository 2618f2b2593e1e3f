"""One input of a session: its source, and what of its sound waits to be sent."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import structlog
from numpy.typing import NDArray

from bridge.dsp.chain import SpeechChain
from bridge.dsp.concealment import Concealment
from bridge.dsp.stereo import check_rate
from bridge.dsp.strip import Strip, StripSettings
from bridge.errors import SourceError, SourceRejected
from bridge.media.audio import AudioBlock, BlockRow
from bridge.media.clock import AVATAR_RATE_HZ, NS_PER_S
from bridge.ports import AudioSource, OutspokenSource

BYTES_PER_S = 2 * AVATAR_RATE_HZ
# What is decoded ahead of a file: rides out a slow disk.
BUFFERED_S = 1.0
# What may wait of a live source when a block comes: ten messages of 20 ms absorb a network's jitter, more would only be
# latency.
LIVE_BUFFERED_S = 0.2
# In a pause a live source keeps one block of what always waits; measured over as long as a network's moods last.
_CUSHION_SAMPLES = AVATAR_RATE_HZ // 50
_WATCHED_SAMPLES = 2 * AVATAR_RATE_HZ
# Of a source whose clock is followed this much waits, one message and what stays in pauses of the others: 40 ms of
# jitter are ridden out.
_FOLLOWED_S = 0.06
# Nobody has taken anything for so long: there was no avatar, or it was not to be spoken to yet.
_UNTAKEN_BYTES = BYTES_PER_S // 2


class InputState(StrEnum):
    SILENT = "silent"
    PLAYING = "playing"
    FAILED = "failed"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputStatus:
    """How an input is doing. silent: it gives nothing at present.

    protocol     the scheme of its URL.
    error        why it has failed; empty: it has not.
    is_speaking  whether there is a voice in it.  level_dbfs: its RMS level as it is mixed.
    waiting_s    sound that waits to be sent.
    dropped_s    sound of a live source that could not be sent in time, or was interrupted.
    underruns    how often its sound broke off because the source gave nothing.
    drift_ppm    how much faster than ours its clock runs, where it is followed.
    is_on_air    whether it is for viewers too.  air_lost_s: sound that came too late for them.
    """

    name: str
    protocol: str
    state: InputState
    error: str
    is_speaking: bool
    level_dbfs: float
    waiting_s: float
    dropped_s: float
    underruns: int
    drift_ppm: float | None = None
    is_on_air: bool = False
    air_lost_s: float = 0.0


class Feed:
    """Runs one source, and keeps its sound as 24 kHz mono until it is taken.

    A file waits until its sound is taken. Of a live source at most 0.2 s wait when a block comes: it loses its past,
    and in pauses what its jitter does not need; a gap of its own is concealed for up to 60 ms. Where the source's clock
    is followed 60 ms wait, and no pause is needed.

    barges_in  whether who speaks here interrupts the avatar.  strip: what is done to it in the mix.
    air_delay_s  how much later viewers hear it.
    on_air     takes what viewers are to hear too, as it came: each block, and in how many nanoseconds its end is heard.
               A live source is heard when it comes, a file when it is taken. None: viewers do not hear it.
    has_begun  it gave sound.
    error      why it has ended, where that was no proper end.
    dropped_s, underruns, air_lost_s  as in `InputStatus`.
    """

    def __init__(
        self,
        source: AudioSource,
        settings: StripSettings | None = None,
        *,
        protocol: str = "",
        barges_in: bool = False,
        follows_clock: bool = False,
        air_delay_s: float = 0.0,
        on_interrupt: Callable[["Feed"], None] = lambda feed: None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_interrupt`: told when the source itself asks for the avatar to stop."""
        self.name = source.name
        self.is_live = source.is_live
        self._protocol = protocol
        self.barges_in = barges_in
        self.air_delay_s = air_delay_s
        self.strip = Strip(settings or StripSettings())
        self.on_air: Callable[[AudioBlock, int], None] | None = None
        self.has_begun = False
        self.error: SourceError | None = None
        self.dropped_s = 0.0
        self.underruns = 0
        self.air_lost_s = 0.0
        self._source = source
        self._on_interrupt = on_interrupt
        self._chain = SpeechChain(_FOLLOWED_S if follows_clock else None)
        self._follows_clock = follows_clock
        self._now_s = now_s
        self._taken_at_s = 0.0
        self._is_filling = follows_clock  # until so much waits as is to wait
        self._waiting = bytearray()  # PCM16
        self._untaken = BlockRow()  # the same as it came, for viewers
        self._taken = asyncio.Event()
        self._source_has_ended = False
        self._is_flowing = False
        self._is_listened_to = True
        self._concealment = Concealment()
        self._untaken_bytes = 0  # that have come since something was taken
        self._least_waiting, self._watched = AVATAR_RATE_HZ, 0  # samples left behind a message, over so many
        self._turn_bytes: int | None = None  # of what waits: all that belongs to a turn that the source has ended
        self._log = structlog.get_logger().bind(input=source.name)
        if isinstance(source, OutspokenSource):
            source.listener = self

    @property
    def has_ended(self) -> bool:
        """Whether all that it will ever give has been taken."""
        return self._source_has_ended and not self._waiting

    @property
    def waiting_s(self) -> float:
        """How much of its sound waits to be taken: how late it will be, at least."""
        return len(self._waiting) / BYTES_PER_S

    def status(self) -> InputStatus:
        if self._source_has_ended and not self._is_flowing:
            state = InputState.FAILED if self.error else InputState.ENDED
        else:
            state = InputState.PLAYING if self._is_flowing else InputState.SILENT
        return InputStatus(
            name=self.name,
            protocol=self._protocol,
            state=state,
            error=str(self.error or ""),
            is_speaking=self.strip.voice.is_speaking,
            level_dbfs=self.strip.level.rms_dbfs,
            waiting_s=self.waiting_s,
            dropped_s=self.dropped_s,
            underruns=self.underruns,
            drift_ppm=self._chain.drift_ppm,
            is_on_air=self.on_air is not None,
            air_lost_s=self.air_lost_s,
        )

    async def run(self) -> None:
        """Until the source has ended; `error` says why, if that was no proper end."""
        try:
            await self._source.run(self.take_block)
        except SourceError as error:
            # What was on air stays on air: from here on there is silence.
            self._log.error("input_failed", error=str(error))
            self.error = error
        self._waiting += self._chain.flush().astype("<i2", copy=False).tobytes()
        self._source_has_ended = True

    def take(self, n_samples: int) -> NDArray[np.int16] | None:
        """The next so many samples, the last ones filled up with silence; None: they are not there."""
        n_bytes = 2 * n_samples
        if self.is_live:
            self._forget_past(n_bytes)
        is_end = self._source_has_ended or self._turn_bytes is not None
        self._is_filling &= self.waiting_s < _FOLLOWED_S and not is_end
        self._taken_at_s = self._now_s()
        if (len(self._waiting) < n_bytes or self._is_filling) and not (is_end and self._waiting):
            self.underruns += self._is_flowing and not is_end
            self._is_flowing = False
            self._end_told_turn(0)
            if not is_end and not self._concealment.is_spent:
                return self._make_up(n_samples)
            self._is_filling = self._follows_clock
            return None
        self._is_flowing = True
        piece = np.frombuffer(bytes(self._waiting[:n_bytes]).ljust(n_bytes, b"\0"), "<i2")
        del self._waiting[:n_bytes]
        if self.on_air is not None and not self.is_live:
            ahead_ns = 0
            for block in self._untaken.take(n_samples):
                ahead_ns += round(block.duration_s * NS_PER_S)
                self.on_air(block, ahead_ns)
        if not self._is_full:  # a file comes in pieces of half a second: it need not be woken for each message
            self._taken.set()
        self._end_told_turn(n_bytes)
        if not self.is_live:
            return piece
        if not self._follows_clock:
            self._catch_up(n_samples)
        return self._concealment.push(piece)

    def drop(self) -> None:
        """Forget what waits."""
        self._concealment.forget()
        self._drop_oldest(len(self._waiting))
        self._taken.set()

    def _drop_oldest(self, n_bytes: int) -> None:
        if n_bytes > 0:
            del self._waiting[:n_bytes]
            self._untaken.take(n_bytes // 2)
            self.dropped_s += n_bytes / BYTES_PER_S
            if self._turn_bytes is not None:
                self._turn_bytes = max(0, self._turn_bytes - n_bytes)

    def _make_up(self, n_samples: int) -> NDArray[np.int16]:
        """What there is of a message, and what may follow it."""
        came = np.frombuffer(bytes(self._waiting), "<i2")
        self._waiting.clear()
        if len(came):
            came = self._concealment.push(came)
        return np.concatenate((came, self._concealment.make_up(n_samples - len(came))))

    def _forget_past(self, n_bytes: int) -> None:
        """What came while nothing was taken would only be latency from now on."""
        if self._untaken_bytes > _UNTAKEN_BYTES:
            self._drop_oldest(len(self._waiting) - n_bytes - 2 * _CUSHION_SAMPLES)
        self._untaken_bytes = 0

    def _catch_up(self, n_samples: int) -> None:
        """What has waited for seconds is latency that no jitter needs: in a pause it is dropped."""
        self._least_waiting = min(self._least_waiting, len(self._waiting) // 2)
        self._watched += n_samples
        if self._watched < _WATCHED_SAMPLES or self.strip.voice.is_speaking:
            return
        self._drop_oldest(2 * (self._least_waiting - _CUSHION_SAMPLES))
        self._least_waiting, self._watched = AVATAR_RATE_HZ, 0

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

    @property
    def _steady_waiting_s(self) -> float:
        """What waits, as if it were taken sample by sample; nothing is taken while it fills."""
        return self.waiting_s if self._is_filling else self.waiting_s - (self._now_s() - self._taken_at_s)

    @property
    def _is_full(self) -> bool:
        """Whether a file is to wait until something is taken."""
        return len(self._waiting) > BUFFERED_S * BYTES_PER_S

    async def take_block(self, block: AudioBlock) -> None:
        try:
            if self.on_air is not None:
                check_rate(block.sample_rate_hz)
            pcm16 = self._chain.push(block, self._steady_waiting_s).astype("<i2", copy=False).tobytes()
        except SourceRejected as error:
            raise SourceRejected(f"input {self.name}: {error}") from None
        self.has_begun = True
        if self.on_air is not None and self.is_live:
            self.on_air(block, 0)
        if not self._is_listened_to:
            return
        if self.is_live:
            # The block itself is all present, however long it is: what waits before it is the past.
            self._drop_oldest(len(self._waiting) - round(LIVE_BUFFERED_S * BYTES_PER_S))
            self._untaken_bytes += min(len(pcm16), _UNTAKEN_BYTES)
            self._waiting += pcm16
            return
        self._waiting += pcm16
        if self.on_air is not None:
            self._untaken.append(block)
        while self._is_full:
            self._taken.clear()
            await self._taken.wait()
