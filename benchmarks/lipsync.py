"""Sound against picture in what the bridge records and in what an RTMP server records of it.

The local avatar flashes and beeps once a second, at one instant of its media time. A flash is the presentation time
of the first bright picture, a beep the time at which its envelope crosses half its height.
"""

import tempfile
import time
import wave
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from benchmarks.configuration import write_configuration
from benchmarks.processes import Child, ending_properly, python
from benchmarks.report import Findings
from bridge.local_avatar.flash import BEEP_HZ, beep_over
from bridge.media.clock import AVATAR_RATE_HZ
from tests.interop.nginx_rtmp import NginxRtmp, why_unavailable

RECORDED_S = 22.0
# Before both first sender reports are in, tracks are aligned by arrival: the claim begins behind that.
SETTLED_S = 2.0
# A flash so close to the end may have lost its beep.
UNFINISHED_S = 0.5
BRIGHT = 200
TITLE = "lipsync: sound against picture of every beat after the first 2 s"
_KEY = "offset_max_abs_ms_clean"
BOUNDS = dict.fromkeys((_KEY, f"{_KEY}_mp4", f"{_KEY}_mkv", f"{_KEY}_rtmp"), 10.0)

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


def measure() -> Findings:
    if reason := why_unavailable():
        return Findings.missing(TITLE, BOUNDS, reason)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lipsync-")))
        nginx = stack.enter_context(NginxRtmp(directory / "nginx"))
        avatar = stack.enter_context(Child(python("bridge", "avatar", "--listen", "127.0.0.1:0", "--flash")))
        outputs = {"rtmp": f"{nginx.rtmp_url}/clean", "mp4": "file:clean.mp4", "mkv": "file:clean.mkv"}
        speech = write_tone(directory / "tone.wav")
        config = write_configuration(directory, avatar.first_line(), outputs, speech=speech, loop=False)
        bridge = stack.enter_context(Child(python("bridge", "run", str(config))))
        time.sleep(RECORDED_S)
        bridge.finish()
        recordings = {
            "mp4": directory / "clean.mp4",
            "mkv": directory / "clean.mkv",
            "rtmp": nginx.finished_recording("clean"),
        }
        offsets_s = {name: offsets(path) for name, path in recordings.items()}
    worst_ms = {f"{_KEY}_{name}": 1000 * max(map(abs, found)) for name, found in offsets_s.items()}
    spans = (f"{name} {1000 * min(found):+.1f} to {1000 * max(found):+.1f}" for name, found in offsets_s.items())
    figures = {_KEY: max(worst_ms.values()), **worst_ms}
    return Findings(
        title=TITLE,
        figures={**figures, "beats": min(len(found) for found in offsets_s.values())},
        at_most=BOUNDS,
        notes=[f"Above 0 sound is late. Milliseconds: {', '.join(spans)}."],
    )


def offsets(recording: Path) -> list[float]:
    """Seconds that each flash's nearest beep comes after it. Raises RuntimeError when they do not belong together."""
    flashes_s, first_s, last_s = _flashes(recording)
    heard = sound(recording)
    beeps_s = [heard.time_s(index) for index in onsets(heard.samples, heard.rate_hz)]
    # One of each may be missing where the recording begins and where it ends.
    if not flashes_s or abs(len(beeps_s) - len(flashes_s)) > 2:
        raise RuntimeError(f"{recording.name} holds {len(flashes_s)} flashes and {len(beeps_s)} beeps")
    settled_s = (t for t in flashes_s if first_s + SETTLED_S <= t <= last_s - UNFINISHED_S)
    return [min((beep_s - t for beep_s in beeps_s), key=abs) - source_offset_s() for t in settled_s]


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


def onsets(samples: Signal, rate_hz: int) -> list[float]:
    """Where beeps begin, as sample indices with fractions: half of the height that each of them reaches."""
    period = rate_hz // BEEP_HZ
    carrier = np.exp(-2j * np.pi * BEEP_HZ / rate_hz * np.arange(len(samples)))
    # The mean over one period leaves nothing of the carrier's image at twice the frequency.
    envelope = np.abs(np.convolve(samples * carrier, np.full(period, 1 / period), "same"))
    is_loud = envelope > 0.3 * envelope.max(initial=0.0)
    rises = np.flatnonzero(is_loud[1:] & ~is_loud[:-1]) + 1
    found: list[float] = []
    for rise in rises:
        if found and rise - found[-1] < rate_hz // 2:
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


if __name__ == "__main__":
    with ending_properly():
        measure().show()
