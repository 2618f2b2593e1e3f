"""Face, gestures and encoders of one performance: from an act and its sound to coded media."""

from collections.abc import Callable
from dataclasses import dataclass

from bridge.errors import InternalError
from bridge.local_avatar.coding import (
    PACKET_NS,
    PACKET_SAMPLES,
    H264Encoder,
    PictureEncoder,
    Profile,
    SoundEncoder,
    Vp8Encoder,
)
from bridge.local_avatar.drawing import Canvas
from bridge.local_avatar.face import Pose, face
from bridge.local_avatar.flash import beep_over, flash, is_flash
from bridge.local_avatar.gestures import Gestures, Mood
from bridge.local_avatar.timecode import draw_counter, insert_stamp
from bridge.local_avatar.visemes import MouthShape, MouthTracker
from bridge.local_avatar.voice import Pcm
from bridge.media.access_unit import AccessUnit, CaptureTime, Codec
from bridge.media.clock import NS_PER_MS, NS_PER_S

# Speakers pause for breath and thought without dropping their manner.
_TALKING_NS = 700 * NS_PER_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceOptions:
    """What the pictures look like, and how sound is coded.

    codec     of the pictures: H.264 in a `profile`, or VP8.
    timecode  a counter in each picture and, in H.264, a stamp beside it.
    flash     a flash and a beep every second.
    expected_loss_percent  see `coding.SoundEncoder`.
    """

    width_px: int = 720
    height_px: int = 1280
    fps: int = 25
    codec: Codec = Codec.H264
    profile: Profile = "baseline"
    bits_per_s: int = 2_000_000
    timecode: bool = False
    flash: bool = False
    expected_loss_percent: int = 0


@dataclass(frozen=True, slots=True)
class Act:
    """One picture to show: number and media time, `WINDOW_SAMPLES` of speech around it, what the presenter is about."""

    index: int
    time_ns: int
    window: Pcm
    mood: Mood
    keyframe: bool


class Camera:
    """Draws the presenter and codes the pictures, in one size and one coding. One thread at a time."""

    def __init__(self, options: PerformanceOptions, now_ns: Callable[[], int]) -> None:
        self.options, self._now_ns = options, now_ns
        width_px, height_px, fps, bits_per_s = options.width_px, options.height_px, options.fps, options.bits_per_s
        self._face = face(width_px, height_px)
        self._canvas = Canvas(width_px, height_px)
        self._encoder: PictureEncoder
        match options.codec:
            case Codec.H264:
                self._encoder = H264Encoder(width_px, height_px, fps, options.profile, bits_per_s)
            case Codec.VP8:
                self._encoder = Vp8Encoder(width_px, height_px, fps, bits_per_s)
            case other:
                raise InternalError(f"There are no pictures in {other}")

    def shoot(self, act: Act, pose: Pose, mouth: MouthShape) -> AccessUnit:
        """The coded picture of an act, captured when its drawing begins.

        The first one is a keyframe, asked for or not.
        """
        options, canvas = self.options, self._canvas
        captured = CaptureTime(self._now_ns(), "capture")
        self._face.compose(canvas, pose, mouth)
        if options.flash and is_flash(act.index, options.fps):
            flash(canvas)
        if options.timecode:
            draw_counter(canvas.luma, canvas.chroma, act.index)
        coded = self._encoder.encode(canvas, act.index, keyframe=act.keyframe)
        payload, encoded_ns = coded.payload, self._now_ns()
        if options.timecode and options.codec is Codec.H264:
            payload = insert_stamp(payload, act.index, encoded_ns)
        return AccessUnit(
            options.codec,
            payload,
            act.time_ns,
            is_keyframe=coded.is_keyframe,
            codec_config=coded.codec_config,
            arrival_ns=encoded_ns,
            captured=captured,
        )


class Stage:
    """Performs, picture by picture and packet by packet, before a camera that may be replaced. One thread at a time."""

    def __init__(self, options: PerformanceOptions, seed: int, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self.camera = Camera(options, now_ns)
        self._gestures = Gestures(seed)
        self._mouth = MouthTracker(1 / options.fps)
        self._sounds = SoundEncoder(options.expected_loss_percent)
        self._talking_until_ns = 0

    def say(self, pcm: Pcm, index: int) -> AccessUnit:
        """Packet number `index`, from its `PACKET_SAMPLES` samples (written to by the beep)."""
        if self.camera.options.flash:
            beep_over(pcm, index * PACKET_SAMPLES)
        packet = self._sounds.encode(pcm, index)
        return AccessUnit(Codec.OPUS, packet, index * PACKET_NS, PACKET_NS, arrival_ns=self._now_ns())

    def show(self, act: Act) -> AccessUnit:
        """The coded picture of an act; times must not go back."""
        mouth = self._mouth.follow(act.window)
        if mouth.openness > 0.1:
            self._talking_until_ns = act.time_ns + _TALKING_NS
        pose = self._gestures.pose(
            act.time_ns / NS_PER_S,
            speaking=act.time_ns < self._talking_until_ns,
            mood=act.mood,
            openness=mouth.openness,
        )
        return self.camera.shoot(act, pose, mouth)
