"""A clip of the presenter: what is to be said, said by the face, as an MP4 file."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from bridge.local_avatar.drawing import Canvas
from bridge.local_avatar.face import face
from bridge.local_avatar.flash import beep_over, flash, is_flash
from bridge.local_avatar.gestures import Gestures
from bridge.local_avatar.options import LocalAvatarOptions
from bridge.local_avatar.visemes import WINDOW_SAMPLES, MouthTracker
from bridge.local_avatar.voice import MAX_QUEUED_SAMPLES, Pcm
from bridge.media.clock import AVATAR_RATE_HZ

# Somebody breathes in before the first word, and does not vanish with the last one.
LEAD_SAMPLES, TAIL_SAMPLES = AVATAR_RATE_HZ // 4, AVATAR_RATE_HZ // 2
_AAC_SAMPLES = 1024
_BT709 = 1  # H.264 tables E-3 to E-5


def decode(sound: bytes) -> Pcm:
    """The sound of any file that FFmpeg decodes, at 24 kHz, mono, at most a minute. Raises ValueError."""
    try:
        with av.open(io.BytesIO(sound), "r", metadata_errors="ignore") as container:
            resampler = av.AudioResampler("s16", "mono", AVATAR_RATE_HZ)
            pieces: list[Pcm] = []
            n_samples = 0
            for frame in container.decode(audio=0):
                for piece in resampler.resample(frame):
                    pieces.append(piece.to_ndarray()[0])
                    n_samples += piece.samples
                if n_samples > MAX_QUEUED_SAMPLES:
                    break
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"the sound cannot be decoded ({error})") from None
    if not pieces:
        raise ValueError("there is no sound in it")
    return np.concatenate(pieces)[:MAX_QUEUED_SAMPLES]


def render(options: LocalAvatarOptions, speech: Pcm, path: Path) -> None:
    """Write the clip. Takes about half as long as it lasts: for a thread."""
    width_px, height_px = options.size_px
    silence = (np.zeros(n, np.int16) for n in (LEAD_SAMPLES, TAIL_SAMPLES))
    pcm = np.concatenate([next(silence), speech, next(silence)])
    if options.flash:
        beep_over_all(pcm)
    # Half a window before and behind, so that each picture has its own.
    padded = np.pad(pcm, WINDOW_SAMPLES // 2)
    gestures, mouth, canvas = Gestures(0), MouthTracker(1 / options.fps), Canvas(width_px, height_px)
    presenter = face(width_px, height_px)
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        video = container.add_stream("libx264", rate=options.fps)
        video.width, video.height, video.pix_fmt = width_px, height_px, "yuv420p"
        video.time_base, video.thread_count, video.gop_size = Fraction(1, options.fps), 1, 2 * options.fps
        video.options = {"preset": "superfast"}
        sound = container.add_stream("aac", rate=AVATAR_RATE_HZ, layout="mono")
        for index in range(-(-len(pcm) * options.fps // AVATAR_RATE_HZ)):
            at = index * AVATAR_RATE_HZ // options.fps
            shape = mouth.follow(padded[at : at + WINDOW_SAMPLES])
            speaking = LEAD_SAMPLES <= at < LEAD_SAMPLES + len(speech)
            pose = gestures.pose(index / options.fps, speaking=speaking, mood="idle", openness=shape.openness)
            presenter.compose(canvas, pose, shape)
            if options.flash and is_flash(index, options.fps):
                flash(canvas)
            picture = av.VideoFrame.from_ndarray(canvas.data, format="yuv420p")
            picture.pts, picture.time_base = index, Fraction(1, options.fps)
            picture.colorspace = picture.color_primaries = picture.color_trc = _BT709
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        for start in range(0, len(pcm), _AAC_SAMPLES):
            piece = av.AudioFrame.from_ndarray(
                pcm[np.newaxis, start : start + _AAC_SAMPLES], format="s16", layout="mono"
            )
            piece.sample_rate, piece.pts, piece.time_base = AVATAR_RATE_HZ, start, Fraction(1, AVATAR_RATE_HZ)
            container.mux(sound.encode(piece))
        container.mux(sound.encode(None))


def beep_over_all(pcm: Pcm) -> None:
    """A beep at every second but the first, as live."""
    for second in range(1, -(-len(pcm) // AVATAR_RATE_HZ)):
        beep_over(pcm[second * AVATAR_RATE_HZ :], second * AVATAR_RATE_HZ)
