"""What viewers hear of the inputs, beside the avatar: on session time, in the order in which it was heard here."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from bridge.config import InputConfig
from bridge.dsp.air_mix import AirMix, AirSettings, Mixed
from bridge.dsp.air_track import AirTrack
from bridge.errors import ConfigError
from bridge.feed import Feed
from bridge.media.access_unit import AccessUnit
from bridge.media.audio import AudioBlock
from bridge.media.clock import AVATAR_RATE_HZ, NS_PER_MS, NS_PER_S, OPUS_CLOCK_HZ, ns_to_ticks, ticks_to_ns
from bridge.media.libopus import find_libopus
from bridge.media.opus_decoder import Samples
from bridge.timeline.moment import Moment

# The avatar's sound waits for what inputs give at the same time: a block of 20 ms, whose beginning was heard as much
# before it came, and 80 ms of a network's jitter. Only outputs of sessions with an input on air get sound so much
# later, with the same timestamps; and always, so that far ends meet no jump in it when an input sets in.
HOLD_NS = 100 * NS_PER_MS
# What waits while no output takes it.
_MOST_WAITING_NS = 2 * NS_PER_S
# What is for viewers alone is taken in such pieces: fewer turns of the loop, and well before it is due.
_TICK_SAMPLES = AVATAR_RATE_HZ // 10
# After a longer stall the schedule starts anew.
_CATCH_UP_NS = NS_PER_S


class _Piece(NamedTuple):
    """Of the input of that number; the times are session time, as `AirTrack.push` has them."""

    number: int
    block: AudioBlock
    gain: float
    came_ns: int
    heard_ns: int


class Air:
    """Takes what feeds give to viewers, and mixes it in for the outputs. Implements `outputs.mixed_sound.Mixer`.

    A moment here is the session time of what comes from the avatar in it, by the best arrivals of late, of sound or
    pictures: what is there together here is there together for viewers. An input that stalls or is missing is silence.

    ready_until_ns  session time up to which inputs may be mixed.
    """

    def __init__(
        self,
        feeds: Sequence[Feed],
        configs: Mapping[str, InputConfig],
        origin_ns: int,
        is_silenced: Callable[[], bool],
        on_talk: Callable[[bool], None] = lambda is_talking: None,
        *,
        now_ns: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """feeds: those on air.  is_silenced: whether the operator wants silence.  on_talk: told when somebody begins to
        speak, or has stopped, whom the avatar does not hear.
        """
        inputs = [configs[feed.name] for feed in feeds]
        self.ready_until_ns = 0
        self._feeds = feeds
        self._for_viewers = [feed for feed, input in zip(feeds, inputs, strict=True) if not input.to_avatar]
        self._moment = Moment(origin_ns)
        self._is_silenced, self._now_ns, self._sleep = is_silenced, now_ns, sleep
        self._on_talk = on_talk
        self._has_begun = asyncio.Event()
        self._waiting: deque[_Piece] = deque()
        self._dropped_samples = [0] * len(feeds)
        # In the thread, but for the moments between its calls:
        self._round: list[_Piece] = []
        self._gains = [1.0] * len(feeds)
        self._is_silent = False
        self._tracks = [AirTrack(HOLD_NS, round(input.air_delay_ms * NS_PER_MS)) for input in inputs]
        self._mix = AirMix([AirSettings(priority=input.priority, duck_db=input.air_duck_db) for input in inputs])
        self.look_ahead_samples = self._mix.look_ahead_samples
        for index, feed in enumerate(feeds):
            feed.on_air = partial(self._take, index)

    def check(self) -> None:
        """Raises ConfigError: there is nothing to encode Opus with. Blocks."""
        if find_libopus() is None:
            raise ConfigError("inputs that are on air need libopus: install libopus0")

    async def run(self) -> None:
        """Take what is for viewers alone as it is due, from when something is on air on; until cancelled."""
        if not self._for_viewers:
            return
        await self._has_begun.wait()
        start_ns, samples_due = self._now_ns(), 0
        was_talking = False
        while True:
            for feed in self._for_viewers:
                piece = feed.take(_TICK_SAMPLES)
                if piece is None:
                    feed.strip.rest(_TICK_SAMPLES)
                else:
                    feed.strip.push(piece)
            is_talking = any(feed.strip.voice.is_speaking for feed in self._for_viewers)
            if is_talking != was_talking:
                was_talking = is_talking
                self._on_talk(is_talking)
            samples_due += _TICK_SAMPLES
            wait_ns = start_ns + ticks_to_ns(samples_due, AVATAR_RATE_HZ) - self._now_ns()
            if wait_ns < -_CATCH_UP_NS:
                start_ns, samples_due = self._now_ns(), 0
            await self._sleep(max(0, wait_ns) / NS_PER_S)

    def follow(self, unit: AccessUnit) -> None:
        """A unit goes on air."""
        self._has_begun.set()
        self._moment.follow(unit)

    def _session_ns(self) -> int:
        return self._moment.at(self._now_ns())

    def _take(self, index: int, block: AudioBlock, ahead_ns: int) -> None:
        came_ns = self._session_ns()
        self._waiting.append(_Piece(index, block, self._feeds[index].strip.gain, came_ns, came_ns + ahead_ns))
        while came_ns - self._waiting[0].came_ns > _MOST_WAITING_NS:
            oldest = self._waiting.popleft()
            self._dropped_samples[oldest.number] += round(oldest.block.duration_s * OPUS_CLOCK_HZ)

    # ------------------------------------------------------------------------------------------ Mixer

    def before_round(self) -> None:
        self._round += self._waiting
        self._waiting.clear()
        for feed, track, n_dropped in zip(self._feeds, self._tracks, self._dropped_samples, strict=True):
            feed.air_lost_s = (n_dropped + track.lost_samples) / OPUS_CLOCK_HZ
        self._is_silent = self._is_silenced()
        self.ready_until_ns = self._session_ns() - HOLD_NS

    def mix(self, starts_ns: int, sound: Samples) -> Mixed:
        for piece in self._round:
            self._tracks[piece.number].push(piece.block, piece.came_ns, piece.heard_ns)
            self._gains[piece.number] = piece.gain
        self._round.clear()
        start, n_samples = ns_to_ticks(starts_ns, OPUS_CLOCK_HZ), sound.shape[1]
        pieces = [track.read(start, n_samples) for track in self._tracks]
        return self._mix.push(sound, pieces, [0.0] * len(pieces) if self._is_silent else self._gains)
