"""Opus to AAC: the sound that RTMP, FLV, MP4 and MPEG-TS take."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Generic, NamedTuple, Protocol, TypeVar

import structlog

from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS, NS_PER_S, OPUS_CLOCK_HZ
from bridge.media.opus_sound import MAX_FILL_NS, OpusSound, is_stand_in, open_decoder
from bridge.outputs.aac import AacEncoder
from bridge.worker import SharedWorker, Worker

# Without sound from the avatar, silence follows the pictures at this distance, because players wait for sound. Sound
# that came later than this would be lost: the receiver waits 120 ms for a packet at most, the rest is the tracks' skew.
SILENCE_BEHIND_NS = 500 * NS_PER_MS
SILENCE_UNIT_NS = 100 * NS_PER_MS
# The codecs are cheap, but each wake-up of the thread costs half a millisecond of cold caches: sound goes through them
# in rounds of four packets, and on the wire it is at most so much behind its picture. Measured in whole sessions, of
# a core: 0.018 with 80 ms, 0.021 with 60 ms, 0.025 with 40 ms. 40 ms less would move the median delay by 19 ms. The
# rounds of all sessions begin together, on multiples of this on the event loop's clock: one wake-up, and warm caches.
ROUND_S = 0.080
INBOX_NS = 2 * NS_PER_S

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# Of all sessions: a call takes a millisecond.
_codecs = SharedWorker("opus to aac")

log = structlog.get_logger()


class Repairs(NamedTuple):
    """What became of sound that was lost on the way, broken or dropped here, in seconds.

    concealed_s  made up, or silent.  restored_s: brought by the packet behind it (in-band FEC).
    """

    concealed_s: float = 0.0
    restored_s: float = 0.0


class AacTranscoder:
    """Opus packets on session time in, AAC-LC frames of 48 kHz stereo on session time out. Blocks.

    Sound lies where the avatar's encoder heard it: the delay of Opus is taken off by `OpusSound`, the AAC encoder's
    first frame decodes to the time before its input. Timestamps are never negative and strictly increase.
    """

    def __init__(self, bit_rate: int) -> None:
        self._bit_rate = bit_rate
        decoder = open_decoder()
        self.concealment = decoder.name
        self.sound = OpusSound(decoder)
        self._encoder: AacEncoder | None = None
        self._arrival_ns = 0

    def push(self, unit: AccessUnit) -> list[AccessUnit]:
        """The frames that this packet completes. An empty packet stands for sound that did not come."""
        units: list[AccessUnit] = []
        if self._encoder is None or self.sound.is_out_of_reach(unit):
            units += self.flush()
            self._encoder = AacEncoder(self._bit_rate, self.sound.begin(unit))
        self._arrival_ns = unit.arrival_ns
        return units + self._encoder.push(self.sound.push(unit), unit.arrival_ns)

    def push_all(self, units: Iterable[AccessUnit]) -> list[AccessUnit]:
        return [frame for unit in units for frame in self.push(unit)]

    def flush(self) -> list[AccessUnit]:
        """The frames that were waiting for more; the next packet starts a new count."""
        if self._encoder is None:
            return []
        encoder, self._encoder = self._encoder, None
        return encoder.push(self.sound.rest(), self._arrival_ns) + encoder.flush(self._arrival_ns)


class Transcoder(Protocol[T_co]):
    """What works on one session's sound in the thread.

    concealment  what makes up sound that was lost.  sound: decodes it, and counts.
    """

    concealment: str
    sound: OpusSound

    def push_all(self, units: Iterable[AccessUnit]) -> Sequence[T_co]: ...

    def flush(self) -> Sequence[T_co]: ...


class Transcoding(Generic[T]):
    """One session's sound in other form: takes the session's units, gives what a transcoder in the shared thread makes
    of them to `emit` on the event loop.

    Where the avatar sends no sound, silence follows its pictures. What waits is bounded by `INBOX_NS`; what a thread
    that cannot keep up loses, the oldest first, is concealed like any loss, and counted.

    concealment  what makes up sound that was lost: libopus and its version, or what makes do without; empty: not
                 known yet.
    repairs      what was lost so far.
    """

    def __init__(
        self,
        emit: Callable[[T], None],
        open_transcoder: Callable[[], Transcoder[T]],
        *,
        round_s: float = ROUND_S,
        before_round: Callable[[], None] = lambda: None,
    ) -> None:
        """`before_round` is called on the event loop before the thread is."""
        self._emit = emit
        self._open_transcoder = open_transcoder
        self._round_s = round_s
        self._before_round = before_round
        self._waiting: deque[AccessUnit] = deque()
        self._is_ready = asyncio.Event()
        self._round: asyncio.TimerHandle | None = None
        self._is_finished = False
        self._covered_until_ns: int | None = None
        self.dropped_units = 0
        self.concealment = ""
        self.repairs = Repairs()

    def put(self, unit: AccessUnit) -> None:
        """Take Opus to be transcoded, and pictures to know how far the session has come; never waits."""
        if unit.codec is Codec.OPUS:
            self._covered_until_ns = max(self._covered_until_ns or 0, unit.pts_ns + unit.duration_ns)
            self._append(unit)
        elif unit.codec.kind == "video":
            self._follow(unit.pts_ns - SILENCE_BEHIND_NS)

    def finish(self) -> None:
        self._is_finished = True
        self._is_ready.set()

    async def run(self) -> None:
        """Transcode until `finish` and the last packet."""
        async with _codecs as worker:
            try:
                await self._run(worker)
            finally:
                # Cancelled, it may have left a round in the thread. A mixer is shared with who comes after it, whose
                # first call is to find the same thread, and this one at its end.
                await worker.call(lambda: None)

    async def _run(self, worker: Worker) -> None:
        transcoder = await worker.call(self._open_transcoder)
        self.concealment = transcoder.concealment
        sound, seen = transcoder.sound, (0, 0)
        while self._waiting or not self._is_finished:
            await self._is_ready.wait()
            if not self._is_finished:
                self._is_ready.clear()
            batch, self._waiting = self._waiting, deque()
            self._before_round()
            for ready in await worker.call(transcoder.push_all, batch):
                self._emit(ready)
            self.repairs = Repairs(sound.concealed_samples / OPUS_CLOCK_HZ, sound.restored_samples / OPUS_CLOCK_HZ)
            if (sound.broken_packets, self.dropped_units) != seen:
                seen = sound.broken_packets, self.dropped_units
                log.warning("sound_concealed", broken_packets=seen[0], dropped_units=seen[1])
        for ready in await worker.call(transcoder.flush):
            self._emit(ready)

    def _append(self, unit: AccessUnit) -> None:
        self._waiting.append(unit)
        ends_ns = unit.pts_ns + unit.duration_ns
        while ends_ns - self._waiting[0].pts_ns > INBOX_NS:
            dropped = self._waiting.popleft()
            self.dropped_units += 1
            lost_ns = dropped.lost_ns + (0 if is_stand_in(dropped) else dropped.duration_ns)
            self._waiting[0] = replace(self._waiting[0], lost_ns=self._waiting[0].lost_ns + lost_ns)
        if self._round is None:
            loop = asyncio.get_running_loop()
            self._round = loop.call_at((loop.time() // self._round_s + 1) * self._round_s, self._begin_round)

    def _begin_round(self) -> None:
        self._round = None
        self._is_ready.set()

    def _follow(self, until_ns: int) -> None:
        if self._covered_until_ns is None or until_ns - self._covered_until_ns > MAX_FILL_NS:
            self._covered_until_ns = until_ns
        while until_ns - self._covered_until_ns >= SILENCE_UNIT_NS:
            self._append(AccessUnit(Codec.OPUS, b"", self._covered_until_ns, SILENCE_UNIT_NS))
            self._covered_until_ns += SILENCE_UNIT_NS


class OpusToAac(Transcoding[AccessUnit]):
    """One session's sound as AAC."""

    def __init__(self, emit: Callable[[AccessUnit], None], bit_rate: int) -> None:
        super().__init__(emit, partial(AacTranscoder, bit_rate))
