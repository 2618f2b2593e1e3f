"""All inputs of a session, and what of them is to be sent next."""

import asyncio
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bridge.config import InputConfig
from bridge.dsp.levels import Level, measure
from bridge.dsp.mix import Mix
from bridge.dsp.strip import StripSettings
from bridge.feed import Feed, InputStatus
from bridge.ports import AudioSource


def open_feed(source: AudioSource, config: InputConfig, on_interrupt: Callable[[Feed], None]) -> Feed:
    """The feed of an input as it is configured."""
    settings = StripSettings(
        gain_db=config.gain_db,
        priority=config.priority,
        duck_db=config.duck_db,
        hang_over_s=config.hang_over_s,
        loudness_lufs=config.loudness_lufs,
        blocks_dc=config.dc_blocker,
    )
    return Feed(
        source,
        settings,
        protocol=config.scheme,
        barges_in=config.barge_in and config.priority > 0,
        follows_clock=config.follow_clock,
        air_delay_s=config.air_delay_ms / 1000,
        on_interrupt=on_interrupt,
    )


class Desk:
    """Runs all feeds, and mixes what they give as it is taken. What becomes of one feed stops no other.

    Those that are for viewers alone are run with them, and somebody else takes what they give.

    on_speech   told when somebody begins to speak at a feed.
    is_live     whether one of them comes at the pace of a clock.
    is_speech   whether what was taken last is to be heard: a file always is, a live source while somebody speaks.
    may_be_speech  the same, from the first sign of a voice on.
    """

    def __init__(
        self,
        feeds: Sequence[Feed],
        on_speech: Callable[[Feed], None] = lambda feed: None,
        for_viewers: Sequence[Feed] = (),
    ) -> None:
        self.is_live = any(feed.is_live for feed in feeds)
        self.is_speech = self.may_be_speech = False
        self._feeds = feeds
        self._for_viewers = for_viewers
        self._on_speech = on_speech
        self._mix = Mix([feed.strip for feed in feeds])
        self._onsets = [0] * len(feeds)
        self._newest: NDArray[np.int16] = np.empty(0, np.int16)

    async def run(self) -> None:
        """Until all sources have ended. Raises the last one's SourceError if all have failed before they gave sound."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for feed in (*self._feeds, *self._for_viewers):
                    tasks.create_task(self._run_feed(feed), name=f"input {feed.name}")
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _run_feed(self, feed: Feed) -> None:
        await feed.run()
        if feed.error is None or feed not in self._feeds:
            return
        if all(other.error and not other.has_begun for other in self._feeds):
            raise feed.error

    def take(self, n_samples: int) -> bytes:
        """The next so many samples of the mix, PCM16; empty: no feed has as many."""
        pieces = [feed.take(n_samples) for feed in self._feeds]
        self._newest = self._mix.push(pieces, n_samples)
        given = [feed for feed, piece in zip(self._feeds, pieces, strict=True) if piece is not None]
        if given or not len(self._newest):  # else it is the end of what was taken before
            self.is_speech = any(feed.strip.voice.is_speaking or not feed.is_live for feed in given)
            self.may_be_speech = any(feed.strip.voice.may_be_speaking or not feed.is_live for feed in given)
        for index, feed in enumerate(self._feeds):
            if self._onsets[index] != feed.strip.voice.onsets:
                self._onsets[index] = feed.strip.voice.onsets
                self._on_speech(feed)
        return self._newest.astype("<i2", copy=False).tobytes()

    @property
    def voiced_s_ago(self) -> float | None:
        """How long ago viewers heard a voice, or would have, by the sound that was taken; negative: they are still to.

        None: nobody is speaking.
        """
        speaking = (feed for feed in self._feeds if feed.strip.voice.is_speaking)
        return min((feed.strip.voice.silent_s - feed.air_delay_s for feed in speaking), default=None)

    @property
    def silent_s(self) -> float | None:
        """How long ago the last voice was heard, by the sound that was taken; None: nobody has spoken yet."""
        heard = (feed.strip.voice for feed in self._feeds if feed.strip.voice.onsets)
        return min((voice.silent_s for voice in heard), default=None)

    @property
    def onsets(self) -> int:
        """How often somebody has begun to speak, at any feed."""
        return sum(self._onsets)

    def drop(self, speaker: Feed | None = None) -> None:
        """Forget what waits, but for what is as important as the speaker's."""
        for feed in self._feeds:
            if speaker is None or feed.strip.settings.priority < speaker.strip.settings.priority:
                feed.drop()

    @property
    def has_ended(self) -> bool:
        """Whether all that will ever be said has been taken."""
        return bool(self._feeds) and all(feed.has_ended for feed in self._feeds)

    @property
    def level(self) -> Level:
        """Of what was taken last."""
        return measure(self._newest)

    def status(self) -> tuple[InputStatus, ...]:
        return tuple(feed.status() for feed in (*self._feeds, *self._for_viewers))

    @property
    def dropped_s(self) -> float:
        return sum(feed.dropped_s for feed in self._feeds)

    @property
    def underruns(self) -> int:
        return sum(feed.underruns for feed in self._feeds)
