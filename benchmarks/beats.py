"""Sound against picture: flashes and beeps in a recording.

The local avatar flashes and beeps once a second, at one instant of its media time. A flash is the presentation time
of the first bright picture, a beep the time at which its envelope crosses half its height.
"""

import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from bridge.local_avatar.flash import BEEP_HZ, beep_over
from bridge.media.clock import AVATAR_RATE_HZ

# A flash so close to the end may have lost its beep.
UNFINISHED_S = 0.5
BRIGHT = 200

Signal = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sound:
    """One channel. frames: for each decoded block its presentation time in seconds, and the index of its start."""

    samples: Signal
    rate_hz: int
    frames: Sequence[tuple[float, int]]

    def time_s(self, index: float) -> float:
        start_s, start = next((s, i) for s, i in reversed(self.frames) if i <= index)
        return start_s + (index - start) / self.rate_hz


@dataclass(frozen=True, slots=True)
class Beat:
    """A flash, `time_s` after the first picture, and how much later its nearest beep comes."""

    time_s: float
    offset_s: float


def beats(recording: Path) -> list[Beat]:
    """All of them but one at the very end. Raises RuntimeError when flashes and beeps do not belong together."""
    flashes_s, first_s, last_s = _flashes(recording)
    heard = sound(recording)
    beeps_s = [heard.time_s(index) for index in onsets(heard.samples, heard.rate_hz)]
    # One of each may be missing where the recording begins and where it ends; and an avatar whose machine is busy
    # leaves out pictures, flashes among them.
    if not flashes_s or not -2 <= len(beeps_s) - len(flashes_s) <= max(2, len(flashes_s) // 2):
        raise RuntimeError(f"{recording.name} holds {len(flashes_s)} flashes and {len(beeps_s)} beeps")
    of_source_s = source_offset_s()
    return [
        Beat(flash_s - first_s, min((beep_s - flash_s for beep_s in beeps_s), key=abs) - of_source_s)
        for flash_s in flashes_s
        if flash_s <= last_s - UNFINISHED_S
    ]


def sound(recording: Path) -> Sound:
    """The first channel, decoded."""
    blocks: list[Signal] = []
    frames: list[tuple[float, int]] = []
    n_samples = rate_hz = 0
    with av.open(str(recording)) as container:
        for block in container.decode(audio=0):
            assert block.time is not None
            rate_hz = block.sample_rate
            samples = block.to_ndarray()[0].astype(np.float64)
            frames.append((block.time, n_samples))
            blocks.append(samples)
            n_samples += len(samples)
    return Sound(np.concatenate(blocks), rate_hz, frames)


def onsets(samples: Signal, rate_hz: int, beep_hz: int = BEEP_HZ, apart_s: float = 0.5) -> list[float]:
    """Where beeps begin, as sample indices with fractions: half of the height that each of them reaches.

    beep_hz  a multiple of `BEEP_HZ`.  apart_s: they begin at least so far apart.
    """
    period = rate_hz // BEEP_HZ
    carrier = np.exp(-2j * np.pi * beep_hz / rate_hz * np.arange(len(samples)))
    # The mean over one period leaves nothing of the carrier's image at twice the frequency, nor of other multiples.
    envelope = np.abs(np.convolve(samples * carrier, np.full(period, 1 / period), "same"))
    is_loud = envelope > 0.3 * envelope.max(initial=0.0)
    rises = np.flatnonzero(is_loud[1:] & ~is_loud[:-1]) + 1
    found: list[float] = []
    for rise in rises:
        if found and rise - found[-1] < apart_s * rate_hz:
            continue  # a ripple of the same beep
        height = float(np.median(envelope[rise + 10 * period : rise + 30 * period]))
        above = rise + int(np.argmax(envelope[rise : rise + 10 * period] >= height / 2))
        below_height, above_height = envelope[above - 1], envelope[above]
        found.append(above - (above_height - height / 2) / (above_height - below_height))
    return found


def source_offset_s() -> float:
    """What the instrument says of the sound as the source makes it, whose beeps begin with the flash."""
    pcm = np.zeros(3 * AVATAR_RATE_HZ, np.int16)
    beep_over(pcm, 0)
    return onsets(pcm.astype(np.float64), AVATAR_RATE_HZ)[0] / AVATAR_RATE_HZ - 1.0


def _flashes(recording: Path) -> tuple[list[float], float, float]:
    """Times of the first bright pictures, of the first picture and of the last."""
    times_s: list[float] = []
    flashes_s: list[float] = []
    was_bright = False
    with av.open(str(recording)) as container:
        for picture in container.decode(video=0):
            assert picture.time is not None
            plane = picture.planes[0]
            luma = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
            is_bright = bool(luma[::8, ::8].mean() > BRIGHT)
            if is_bright and not was_bright:
                flashes_s.append(picture.time)
            was_bright = is_bright
            times_s.append(picture.time)
    return flashes_s, times_s[0], times_s[-1]


def write_tone(path: Path) -> Path:
    """Something to say that is over before the first beat counts."""
    tone = np.rint(8000 * np.sin(2 * np.pi * 220 * np.arange(AVATAR_RATE_HZ // 5) / AVATAR_RATE_HZ)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(AVATAR_RATE_HZ)
        file.writeframes(tone.tobytes())
    return path
