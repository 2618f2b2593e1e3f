"""One performance: a voice and a face on one media clock, coded and delivered as they are due."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic_ns

import numpy as np
from numpy.typing import NDArray

from bridge.local_avatar.coding import PACKET_NS, PACKET_SAMPLES, PictureEncoder, Profile, SoundEncoder
from bridge.local_avatar.drawing import Canvas
from bridge.local_avatar.face import face
from bridge.local_avatar.flash import beep_over, flash, is_flash
from bridge.local_avatar.gestures import Gestures
from bridge.local_avatar.timecode import draw_counter, insert_stamp
from bridge.local_avatar.visemes import WINDOW_SAMPLES, MouthTracker
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import AVATAR_RATE_HZ, NS_PER_MS, NS_PER_S

Pcm = NDArray[np.int16]

# A burst of picture loss indications asks for one keyframe, not for many: senders in browsers wait this long too.
KEYFRAME_SPACING_NS = 200 * NS_PER_MS
# The longest utterance that is answered; more is forgotten from its end.
_MAX_QUEUED_SAMPLES = 60 * AVATAR_RATE_HZ
# Speech that comes in real time comes in messages of up to 64 ms: it starts with one of them in hand, so that the
# wait for the next one is never heard.
_CUSHION_SAMPLES = AVATAR_RATE_HZ * 80 // 1000
_CUSHION_NS = 80 * NS_PER_MS
# Behind by more than this the machine was stopped, not busy: sound is skipped as well.
_LOST_NS = 500 * NS_PER_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceOptions:
    """What the pictures look like. timecode: counter and stamp in each; flash: a flash and a beep every second."""

    width_px: int = 720
    height_px: int = 1280
    fps: int = 25
    profile: Profile = "baseline"
    bits_per_s: int = 2_000_000
    timecode: bool = False
    flash: bool = False


class Performer:
    """Speaks what it is given, live, to one viewer.

    A sample spoken at media time t is in the Opus packet whose `pts_ns` covers t and shapes the mouth of the picture
    stamped t; media time is 0 when `run` has everything ready. Units go to the callbacks on the event loop, H.264 as
    AVCC with a `codec_config` on keyframes, `arrival_ns` being when encoding was complete. All methods are called on
    the event loop.

    speaking  speech waits or is being said.  paused  nothing is delivered while set, the media clock goes on.
    """

    def __init__(
        self,
        options: PerformanceOptions,
        on_picture: Callable[[AccessUnit], None],
        on_sound: Callable[[AccessUnit], None],
        *,
        seed: int = 0,
    ) -> None:
        self._options = options
        self._on_picture, self._on_sound = on_picture, on_sound
        self._seed = seed
        self._voice = _Voice()
        self._listening = False
        self._keyframe_wanted = True
        self._keyframe_ns = -KEYFRAME_SPACING_NS
        self.paused = False
        self.skipped_pictures = 0

    def speak(self, pcm16: bytes) -> None:
        """Say this after what is queued: PCM16 little-endian, 24 kHz, mono, whole samples."""
        self._voice.add(np.frombuffer(pcm16, "<i2"))

    def stop_speaking(self) -> None:
        """Forget what has not been said yet."""
        self._voice.clear()

    def listen(self, on: bool) -> None:
        """Show attention; has no effect on the face while it speaks."""
        self._listening = on

    def request_keyframe(self) -> None:
        """Make the next picture a keyframe, at most one in `KEYFRAME_SPACING_NS`."""
        self._keyframe_wanted = True

    @property
    def speaking(self) -> bool:
        return self._voice.is_speaking

    @property
    def queued_s(self) -> float:
        return self._voice.queued_samples / AVATAR_RATE_HZ

    @property
    def dropped_samples(self) -> int:
        """Samples that were forgotten because too much waited to be said."""
        return self._voice.dropped_samples

    async def run(self) -> None:
        """Perform until cancelled. The first picture, a keyframe, comes as soon as the face is drawn."""
        loop = asyncio.get_running_loop()
        worker = ThreadPoolExecutor(1, thread_name_prefix="performer")
        try:
            stage = await loop.run_in_executor(worker, _Stage, self._options, self._seed)
            began_ns = monotonic_ns()
            n_sounds = n_pictures = 0
            while True:
                sound_ns, picture_ns = n_sounds * PACKET_NS, n_pictures * NS_PER_S // self._options.fps
                due_ns = min(sound_ns, picture_ns)
                late_ns = monotonic_ns() - began_ns - due_ns
                if late_ns < 0:
                    await asyncio.sleep(-late_ns / NS_PER_S)
                elif sound_ns <= picture_ns:
                    if late_ns > _LOST_NS:
                        n_sounds += late_ns // PACKET_NS
                    pcm = self._voice.take(n_sounds)
                    sound = await loop.run_in_executor(worker, stage.say, pcm, n_sounds)
                    self._deliver(self._on_sound, sound)
                    n_sounds += 1
                else:
                    # The newest picture that is due; older ones would only come later still.
                    behind = late_ns * self._options.fps // NS_PER_S
                    self.skipped_pictures += behind
                    n_pictures += behind
                    picture = await loop.run_in_executor(worker, stage.show, self._next_act(n_pictures))
                    self._deliver(self._on_picture, picture)
                    n_pictures += 1
        finally:
            worker.shutdown(wait=False, cancel_futures=True)

    def _next_act(self, index: int) -> "_Act":
        time_ns = index * NS_PER_S // self._options.fps
        keyframe = self._keyframe_wanted and time_ns - self._keyframe_ns >= KEYFRAME_SPACING_NS
        if keyframe:
            self._keyframe_wanted, self._keyframe_ns = False, time_ns
        window = self._voice.around(time_ns * AVATAR_RATE_HZ // NS_PER_S)
        return _Act(index, time_ns, window, self.speaking, self._listening, keyframe)

    def _deliver(self, callback: Callable[[AccessUnit], None], unit: AccessUnit) -> None:
        if not self.paused:
            callback(unit)


class _Voice:
    """What waits to be said, and what has just been said; sample numbers count from media time 0."""

    def __init__(self) -> None:
        self._waiting: deque[Pcm] = deque()
        self._first_came_ns = 0
        self._said = np.zeros(WINDOW_SAMPLES, np.int16)
        self._n_said = 0
        self.queued_samples = 0
        self.dropped_samples = 0
        self.is_flowing = False

    @property
    def is_speaking(self) -> bool:
        return self.is_flowing or self.queued_samples > 0

    def add(self, pcm: Pcm) -> None:
        kept = pcm[: max(0, _MAX_QUEUED_SAMPLES - self.queued_samples)]
        self.dropped_samples += len(pcm) - len(kept)
        if not len(kept):
            return
        if not self.queued_samples:
            self._first_came_ns = monotonic_ns()
        self._waiting.append(kept)
        self.queued_samples += len(kept)

    def clear(self) -> None:
        self._waiting.clear()
        self.queued_samples = 0

    def take(self, packet_index: int) -> Pcm:
        """The next packet to say, filled up with silence."""
        pcm = np.zeros(PACKET_SAMPLES, np.int16)
        waited_ns = monotonic_ns() - self._first_came_ns
        if not self.is_flowing:
            self.is_flowing = self.queued_samples >= _CUSHION_SAMPLES or (
                self.queued_samples > 0 and waited_ns >= _CUSHION_NS
            )
        if self.is_flowing:
            taken = self._peek(PACKET_SAMPLES)
            pcm[: len(taken)] = taken
            self._drop(len(taken))
            self.is_flowing = len(taken) > 0
        self._said = np.concatenate([self._said[PACKET_SAMPLES:], pcm])
        self._n_said = (packet_index + 1) * PACKET_SAMPLES
        return pcm

    def around(self, sample: int) -> Pcm:
        """`WINDOW_SAMPLES` samples with that one in the middle: said, about to be said, or silence."""
        window = np.zeros(WINDOW_SAMPLES, np.int16)
        to_come = self._peek(WINDOW_SAMPLES) if self.is_flowing else window[:0]
        known = np.concatenate([self._said, to_come])
        start = sample - WINDOW_SAMPLES // 2 - (self._n_said - len(self._said))
        part = known[max(start, 0) : max(start + WINDOW_SAMPLES, 0)]
        window[max(-start, 0) : max(-start, 0) + len(part)] = part
        return window

    def _peek(self, n_samples: int) -> Pcm:
        parts: list[Pcm] = []
        for block in self._waiting:
            if n_samples <= 0:
                break
            parts.append(block[:n_samples])
            n_samples -= len(block)
        return np.concatenate(parts) if parts else np.zeros(0, np.int16)

    def _drop(self, n_samples: int) -> None:
        self.queued_samples -= n_samples
        while n_samples:
            block = self._waiting.popleft()
            if len(block) > n_samples:
                self._waiting.appendleft(block[n_samples:])
            n_samples -= min(n_samples, len(block))


@dataclass(frozen=True, slots=True)
class _Act:
    """One picture to show: its number and time, the sound around it, and what the presenter is about."""

    index: int
    time_ns: int
    window: Pcm
    speaking: bool
    listening: bool
    keyframe: bool


class _Stage:
    """Face and encoders of one performance; lives on the worker thread."""

    def __init__(self, options: PerformanceOptions, seed: int) -> None:
        self._options = options
        self._face = face(options.width_px, options.height_px)
        self._canvas = Canvas(options.width_px, options.height_px)
        self._gestures = Gestures(seed)
        self._mouth = MouthTracker(1 / options.fps)
        self._pictures = PictureEncoder(
            options.width_px, options.height_px, options.fps, options.profile, options.bits_per_s
        )
        self._sounds = SoundEncoder()

    def say(self, pcm: Pcm, index: int) -> AccessUnit:
        if self._options.flash:
            beep_over(pcm, index * PACKET_SAMPLES)
        packet = self._sounds.encode(pcm, index)
        return AccessUnit(Codec.OPUS, packet, index * PACKET_NS, PACKET_NS, arrival_ns=monotonic_ns())

    def show(self, act: _Act) -> AccessUnit:
        options, canvas = self._options, self._canvas
        mouth = self._mouth.follow(act.window)
        pose = self._gestures.pose(
            act.time_ns / NS_PER_S, speaking=act.speaking, listening=act.listening, openness=mouth.openness
        )
        self._face.compose(canvas, pose, mouth)
        if options.flash and is_flash(act.index, options.fps):
            flash(canvas)
        if options.timecode:
            draw_counter(canvas.luma, canvas.chroma, act.index)
        payload, config = self._pictures.encode(canvas, act.index, keyframe=act.keyframe)
        encoded_ns = monotonic_ns()
        if options.timecode:
            payload = insert_stamp(payload, act.index, encoded_ns)
        return AccessUnit(
            Codec.H264,
            payload,
            act.time_ns,
            is_keyframe=bool(config),
            codec_config=config,
            arrival_ns=encoded_ns,
        )
