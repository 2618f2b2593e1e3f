"""The way up: from the inputs to the avatar service, in real time."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable

import numpy as np
import structlog

from bridge.desk import Desk
from bridge.dsp.levels import SILENCE_DBFS, PauseGate
from bridge.dsp.resample import StreamResampler
from bridge.errors import ProviderError
from bridge.feed import Feed
from bridge.media.clock import AVATAR_RATE_HZ, NS_PER_MS, NS_PER_S, ticks_to_ns
from bridge.ports import AvatarLink, UplinkPacing

# An avatar should not talk unseen, but some services show no picture before there is something to say.
MEDIA_WAIT_S = 5.0
# Messages overdue for no longer than this, three of a file's, go out at once; after a longer stall the schedule
# starts anew, so that the service gets no flood.
CATCH_UP_NS = 200 * NS_PER_MS
# Inside a word the sound stops for up to 150 ms (closure of p, t, k), between phrases for 300 ms and more, of which
# whole messages of 64 ms are seen.
PAUSE_S = 0.25
# The detector takes up to 120 ms to be sure that somebody speaks, and the softest beginning of a word lies before that.
LEAD_S = 0.2


class Uplink:
    """Carries what the desk gives to the attached avatar link, at the pace of a clock.

    A tick per message: speech if there is some and it may go, else the silence that ends a turn, else what the service
    wants while idle: silence, with what a live source gives though nobody speaks, or nothing. Speech waits for the
    first picture, at most 5 s after `attach`.

    While no link is attached a file waits, so that nothing of it is lost, and a live source loses its past. A link
    that refuses a message with ProviderError is detached, and the message kept for the next one.

    media_ready  set by the session once the avatar's picture has arrived; cleared by `detach`.
    finished     set once all that will ever be said has been sent, and the silence after it.
    spoken_s     speech sent.
    """

    def __init__(
        self,
        desk: Desk,
        *,
        now_ns: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.media_ready = asyncio.Event()
        self.finished = asyncio.Event()
        self.spoken_s = 0.0
        self._desk = desk
        self._now_ns = now_ns
        self._sleep = sleep
        self._log = structlog.get_logger()
        self._unsent = b""  # speech that a link has refused
        self._lead: deque[bytes] = deque()  # what came last and was not sent
        self._ahead_samples = 0  # sent before they were due
        self._seeks_pause = False
        self._link: AvatarLink | None = None
        self._link_attached = asyncio.Event()
        self._held_until_ns = 0
        self._is_interrupted = False
        self._has_warned = False
        self._is_flowing = self._is_speaking = False
        self._tail_samples = 0  # silence still to be sent before the turn is over
        self._gate = PauseGate()
        self._last_word_ns: int | None = None  # while draining: when speech ends, pause or not
        self._is_muted = False  # drained: nothing more is said

    @property
    def level_dbfs(self) -> float:
        """RMS level of the sound that is flowing, -100 while none does."""
        return self._desk.level.rms_dbfs if self._is_flowing else SILENCE_DBFS

    @property
    def is_pausing(self) -> bool:
        """Whether nobody has spoken for `PAUSE_S`, and what was sent ahead of its time has been said."""
        return not self._ahead_samples and (not self._is_speaking or self._gate.pause_s >= PAUSE_S)

    @property
    def silent_s(self) -> float | None:
        """How long ago the last voice was heard in what was sent; None: nobody has spoken yet."""
        return self._desk.silent_s

    @property
    def dropped_s(self) -> float:
        """Sound of live inputs that could not be sent in time, or was interrupted."""
        return self._desk.dropped_s

    @property
    def underruns(self) -> int:
        """How often an input broke off because it gave nothing."""
        return self._desk.underruns

    async def run(self) -> None:
        """Carry until cancelled: after the end of all sources, silence. Raises SourceError if nothing ever came."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._desk.run(), name="desk")
                tasks.create_task(self._pace(), name="pace")
        except ExceptionGroup as failures:
            # A source failed, or one of the two has a bug: no group is needed to say which.
            raise failures.exceptions[0] from None

    def seek_pause(self) -> None:
        """Another link is to take over in a pause: at the next one it is waited until what was sent ahead is said."""
        self._seeks_pause = True

    def attach(self, link: AvatarLink) -> None:
        """Send to this link from now on."""
        self._seeks_pause = False
        self._link = link
        self._has_warned = self._is_interrupted = False
        self._held_until_ns = self._now_ns() + round(MEDIA_WAIT_S * NS_PER_S)
        self._link_attached.set()

    def detach(self) -> None:
        """The avatar is gone; what it has not heard waits for the next one."""
        self._link = None
        self._link_attached.clear()
        self.media_ready.clear()
        self._is_flowing = self._is_speaking = False
        self._lead.clear()
        self._ahead_samples = 0
        if self._last_word_ns is not None:
            self.finished.set()

    def interrupt(self, speaker: Feed | None = None) -> None:
        """Somebody else speaks: what waits to be sent is dropped, but the speaker's, and the service told to drop what
        it has.
        """
        self._desk.drop(speaker)
        self._unsent = b""
        self._ahead_samples = 0
        self._is_interrupted = True

    async def finish_utterance(self, deadline_s: float) -> None:
        """Speak on to the next pause or the end of the source, then send the tail of silence; no speech after it.

        Returns within `deadline_s`; speech stops early enough for its tail to fit in.
        """
        if self._link is None:
            self._is_muted = True
            self.finished.set()
            return
        pacing = self._link.pacing
        speech_s = max(0.0, deadline_s - pacing.tail_s - pacing.ahead_s)
        self._last_word_ns = self._now_ns() + round(speech_s * NS_PER_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await self.finished.wait()
        self._is_muted = True

    # ------------------------------------------------------------------------------------------ to the avatar

    async def _pace(self) -> None:
        while True:
            await self._link_attached.wait()
            if self._link is not None:
                await self._feed(self._link)

    async def _feed(self, link: AvatarLink) -> None:
        """Send one message per tick until the link is detached."""
        pacing = link.pacing
        n_samples = pacing.live_samples if self._desk.is_live else pacing.buffered_samples
        most_ahead = 0 if self._desk.is_live else round(pacing.ahead_s * AVATAR_RATE_HZ)
        resampled = _resampling(pacing.rate_hz)
        start_ns, samples_due = self._now_ns(), 0
        while self._link is link:
            speech, idle = self._take(n_samples, pacing)
            message = speech or idle
            try:
                if self._is_interrupted:
                    self._is_interrupted = False
                    await link.interrupt()
                if message:
                    await link.send_audio(resampled(message))
                if self._account(message, bool(speech), n_samples):
                    await link.end_turn()
            except ProviderError as error:
                self._log.warning("uplink_lost", error=str(error))
                self._unsent = speech
                if self._link is link:
                    self.detach()
                return
            if speech and self._ahead_samples + n_samples <= most_ahead and not self._seeks_pause:
                self._ahead_samples += n_samples
                continue

            samples_due += n_samples
            wait_ns = start_ns + ticks_to_ns(samples_due, AVATAR_RATE_HZ) - self._now_ns()
            if wait_ns < -CATCH_UP_NS:
                start_ns, samples_due = self._now_ns(), 0
            await self._sleep(max(0, wait_ns) / NS_PER_S)

    def _take(self, n_samples: int, pacing: UplinkPacing) -> tuple[bytes, bytes]:
        """The next message of speech, or what is sent while there is none or it may not go; both may be empty."""
        sound, is_speech = b"", False
        may_rest = self._seeks_pause and self._ahead_samples and not self._desk.is_live
        is_resting = may_rest and self._gate.pause_s >= PAUSE_S
        if self._may_speak() and not is_resting:
            sound, is_speech = self._unsent, bool(self._unsent)
            if not sound:
                sound = self._desk.take(n_samples)
                is_speech = self._desk.may_be_speech if pacing.is_eager else self._desk.is_speech
            self._unsent = b""
        self._is_flowing, self._is_speaking = bool(sound), is_speech
        if is_speech:
            if not self.media_ready.is_set() and not self._has_warned:
                self._has_warned = True
                self._log.warning("speech_without_media", waited_s=MEDIA_WAIT_S)
            self._tail_samples = round(pacing.tail_s * AVATAR_RATE_HZ)
            self._ahead_samples += len(self._lead) * n_samples
            speech = b"".join((*self._lead, sound))
            self._lead.clear()
            return speech, b""
        return b"", self._idle(sound, n_samples, pacing)

    def _idle(self, sound: bytes, n_samples: int, pacing: UplinkPacing) -> bytes:
        """What is sent while nobody speaks; `sound` is then what a room sounds like. May be empty."""
        is_tail = self._tail_samples > 0
        is_clean = pacing.idle_audio == "none" or (is_tail and pacing.needs_clean_tail)
        if not is_clean:
            self._lead.clear()
        elif sound:
            self._lead.append(sound)
            if len(self._lead) * n_samples > LEAD_S * AVATAR_RATE_HZ:
                self._lead.popleft()
        if not is_tail and (pacing.idle_audio == "none" or self._ahead_samples >= n_samples):
            self._ahead_samples = max(0, self._ahead_samples - n_samples)
            return b""
        return bytes(2 * n_samples) if is_clean or not sound else sound

    def _may_speak(self) -> bool:
        now_ns = self._now_ns()
        if self._last_word_ns is not None and not self._is_muted:
            is_late = now_ns >= self._last_word_ns
            self._is_muted = is_late or self._gate.pause_s >= PAUSE_S
            if is_late:
                self._log.warning("utterance_cut")
        return not self._is_muted and (self.media_ready.is_set() or now_ns >= self._held_until_ns)

    def _account(self, message: bytes, is_speech: bool, n_samples: int) -> bool:
        """A tick has passed and `message`, if any, has been sent. Returns whether a turn is over with it."""
        self._gate.push(np.frombuffer(message or bytes(2 * n_samples), "<i2"))
        is_turn_over = False
        if is_speech:
            self.spoken_s += n_samples / AVATAR_RATE_HZ
        elif self._tail_samples:
            self._tail_samples = max(0, self._tail_samples - n_samples)
            is_turn_over = not self._tail_samples
        is_all_sent = (self._is_muted or (self._desk.has_ended and not self._unsent)) and not self._tail_samples
        if is_all_sent and not self._ahead_samples:
            self.finished.set()
        return is_turn_over


def _resampling(rate_hz: int) -> Callable[[bytes], bytes]:
    """Brings one message after the other, PCM16, from 24 kHz to another rate.

    What its filter keeps when a turn ends, some milliseconds, is of the silence that turns end with.
    """
    if rate_hz == AVATAR_RATE_HZ:
        return bytes
    resampler = StreamResampler(AVATAR_RATE_HZ, rate_out_hz=rate_hz)
    return lambda pcm16: resampler.push(np.frombuffer(pcm16, "<i2")[:, None]).astype("<i2").tobytes()
