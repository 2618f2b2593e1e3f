"""One performance: a voice and a face on one media clock, coded and delivered as they are due."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from time import monotonic_ns

import numpy as np

from bridge.errors import InternalError
from bridge.local_avatar.coding import PACKET_NS
from bridge.local_avatar.gestures import Mood
from bridge.local_avatar.stage import Act, Camera, PerformanceOptions, Stage
from bridge.local_avatar.voice import Voice
from bridge.media.access_unit import AccessUnit
from bridge.media.clock import AVATAR_RATE_HZ, NS_PER_MS, NS_PER_S

__all__ = ["PerformanceOptions", "Performer"]

# A burst of picture loss indications asks for one keyframe, not for many: senders in browsers wait this long too.
KEYFRAME_SPACING_NS = 200 * NS_PER_MS
# Behind by more than this the machine was stopped, not busy: sound is skipped as well.
_LOST_NS = 500 * NS_PER_MS


class Performer:
    """Speaks what it is given, live, to one viewer.

    A sample spoken at media time t is in the Opus packet whose `pts_ns` covers t and shapes the mouth of the picture
    stamped t; media time is 0 when `run` has everything ready. Units go to the callbacks on the event loop, H.264 as
    AVCC with a `codec_config` on keyframes, `arrival_ns` being when encoding was complete. All methods are called on
    the event loop. Media time is counted on `now_ns`: one that runs fast is a sender whose crystal does.

    paused            no media while set; its clock goes on.
    skipped_pictures  that were due when the machine had no time for them.
    """

    def __init__(
        self,
        options: PerformanceOptions,
        on_picture: Callable[[AccessUnit], None],
        on_sound: Callable[[AccessUnit], None],
        *,
        seed: int = 0,
        now_ns: Callable[[], int] = monotonic_ns,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._options = options
        self._on_picture, self._on_sound = on_picture, on_sound
        self._seed, self._now_ns, self._sleep = seed, now_ns, sleep
        self._voice = Voice()
        self._mood: Mood = "idle"
        self._coming_camera: Future[Camera] | None = None
        self._keyframe_wanted = True
        self._keyframe_ns = -KEYFRAME_SPACING_NS
        self.paused = False
        self.skipped_pictures = 0

    def speak(self, pcm16: bytes) -> None:
        """Say this after what is queued: PCM16 little-endian, 24 kHz, mono, whole samples."""
        self._voice.add(np.frombuffer(pcm16, "<i2"), self._now_ns())

    def stop_speaking(self) -> None:
        """Forget what has not been said yet."""
        self._voice.clear()

    def attend(self, mood: Mood) -> None:
        """What the presenter is about while it does not speak; speech outranks it."""
        self._mood = mood

    def request_keyframe(self) -> None:
        """Make the next picture a keyframe, at most one in `KEYFRAME_SPACING_NS`."""
        self._keyframe_wanted = True

    def change(self, options: PerformanceOptions) -> None:
        """Go on in another size, profile or codec as soon as that can be drawn, with a keyframe.

        Time, gestures and sound go on, and until then pictures as they were.
        Raises InternalError for another frame rate, on which the media clock counts.
        """
        if options.fps != self._options.fps:
            raise InternalError(f"The frame rate is {self._options.fps} for good, not {options.fps}")
        self._options = options

    @property
    def is_speaking(self) -> bool:
        """Whether speech is being said or waits to be."""
        return self._voice.is_speaking

    @property
    def dropped_speech_s(self) -> float:
        """Speech that was forgotten because too much waited to be said."""
        return self._voice.dropped_samples / AVATAR_RATE_HZ

    async def run(self) -> None:
        """Perform until cancelled. The first picture, a keyframe, comes as soon as the face is drawn."""
        loop = asyncio.get_running_loop()
        # The second thread draws and readies what `change` asked for.
        worker = ThreadPoolExecutor(2, thread_name_prefix="performer")
        try:
            stage = await loop.run_in_executor(worker, Stage, self._options, self._seed, self._now_ns)
            began_ns = self._now_ns()
            n_sounds = n_pictures = 0
            while True:
                sound_ns, picture_ns = n_sounds * PACKET_NS, n_pictures * NS_PER_S // self._options.fps
                due_ns = min(sound_ns, picture_ns)
                late_ns = self._now_ns() - began_ns - due_ns
                if late_ns < 0:
                    await self._sleep(-late_ns / NS_PER_S)
                elif sound_ns <= picture_ns:
                    if late_ns > _LOST_NS:
                        n_sounds += late_ns // PACKET_NS
                    pcm = self._voice.take(n_sounds, self._now_ns())
                    if not self.paused:
                        self._on_sound(await loop.run_in_executor(worker, stage.say, pcm, n_sounds))
                    n_sounds += 1
                else:
                    # The newest picture that is due; older ones would only come later still.
                    behind = late_ns * self._options.fps // NS_PER_S
                    self.skipped_pictures += behind
                    n_pictures += behind
                    if self.paused:
                        # Whoever waited through the pause needs a picture that refers to nothing.
                        self._keyframe_wanted = True
                    else:
                        self._change_camera(stage, worker)
                        act = self._next_act(n_pictures)
                        self._on_picture(await loop.run_in_executor(worker, stage.show, act))
                    n_pictures += 1
        finally:
            worker.shutdown(wait=False, cancel_futures=True)

    def _change_camera(self, stage: Stage, worker: Executor) -> None:
        """Put the camera that was asked for in place of the stage's once it is ready."""
        if self._coming_camera is None:
            if stage.camera.options != self._options:
                self._coming_camera = worker.submit(Camera, self._options, self._now_ns)
        elif self._coming_camera.done():
            stage.camera, self._coming_camera = self._coming_camera.result(), None
            self._keyframe_wanted, self._keyframe_ns = True, -KEYFRAME_SPACING_NS

    def _next_act(self, index: int) -> Act:
        time_ns = index * NS_PER_S // self._options.fps
        keyframe = self._keyframe_wanted and time_ns - self._keyframe_ns >= KEYFRAME_SPACING_NS
        if keyframe:
            self._keyframe_wanted, self._keyframe_ns = False, time_ns
        window = self._voice.around(time_ns * AVATAR_RATE_HZ // NS_PER_S)
        return Act(index, time_ns, window, self._mood, keyframe)
