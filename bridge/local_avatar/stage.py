"""Face, gestures and encoders of one performance: from an act and its sound to coded media."""

from collections.abc import Callable
from dataclasses import dataclass

from bridge.local_avatar.coding import PACKET_NS, PACKET_SAMPLES, PictureEncoder, Profile, SoundEncoder
from bridge.local_avatar.drawing import Canvas
from bridge.local_avatar.face import face
from bridge.local_avatar.flash import beep_over, flash, is_flash
from bridge.local_avatar.gestures import Gestures, Mood
from bridge.local_avatar.timecode import draw_counter, insert_stamp
from bridge.local_avatar.visemes import MouthTracker
from bridge.local_avatar.voice import Pcm
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS, NS_PER_S

# Speakers pause for breath and thought without dropping their manner.
_TALKING_NS = 700 * NS_PER_MS


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


@dataclass(frozen=True, slots=True)
class Act:
    """One picture to show: number and media time, `WINDOW_SAMPLES` of speech around it, what the presenter is about."""

    index: int
    time_ns: int
    window: Pcm
    mood: Mood
    keyframe: bool


class Stage:
    """Draws and codes one performance, picture by picture and packet by packet. One thread at a time."""

    def __init__(self, options: PerformanceOptions, seed: int, now_ns: Callable[[], int]) -> None:
        self._options, self._now_ns = options, now_ns
        self._face = face(options.width_px, options.height_px)
        self._canvas = Canvas(options.width_px, options.height_px)
        self._gestures = Gestures(seed)
        self._mouth = MouthTracker(1 / options.fps)
        self._pictures = PictureEncoder(
            options.width_px, options.height_px, options.fps, options.profile, options.bits_per_s
        )
        self._sounds = SoundEncoder()
        self._talking_until_ns = 0

    def say(self, pcm: Pcm, index: int) -> AccessUnit:
        """Packet number `index`, from its `PACKET_SAMPLES` samples (written to by the beep)."""
        if self._options.flash:
            beep_over(pcm, index * PACKET_SAMPLES)
        packet = self._sounds.encode(pcm, index)
        return AccessUnit(Codec.OPUS, packet, index * PACKET_NS, PACKET_NS, arrival_ns=self._now_ns())

    def show(self, act: Act) -> AccessUnit:
        """The coded picture of an act; times must not go back."""
        options, canvas = self._options, self._canvas
        mouth = self._mouth.follow(act.window)
        if mouth.openness > 0.1:
            self._talking_until_ns = act.time_ns + _TALKING_NS
        pose = self._gestures.pose(
            act.time_ns / NS_PER_S,
            speaking=act.time_ns < self._talking_until_ns,
            mood=act.mood,
            openness=mouth.openness,
        )
        self._face.compose(canvas, pose, mouth)
        if options.flash and is_flash(act.index, options.fps):
            flash(canvas)
        if options.timecode:
            draw_counter(canvas.luma, canvas.chroma, act.index)
        payload, config = self._pictures.encode(canvas, act.index, keyframe=act.keyframe)
        encoded_ns = self._now_ns()
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
