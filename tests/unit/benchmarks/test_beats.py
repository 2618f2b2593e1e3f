"""The lip-sync instrument, on recordings whose truth is known."""

import fractions
from pathlib import Path

import av
import numpy as np
import pytest

from benchmarks.beats import Sound, beats, onsets, source_offset_s

RATE_HZ, FPS, SECONDS = 48_000, 25, 5


def beeping(late_s: float) -> np.ndarray:
    """A beep of 40 ms once a second, late by so much, on a little noise."""
    sound = np.random.default_rng(1).normal(0, 20, SECONDS * RATE_HZ)
    times_s = np.arange(len(sound)) / RATE_HZ - late_s
    is_on = (times_s % 1.0 < 0.040) & (times_s > 0.5)
    return sound + np.where(is_on, 10_000 * np.sin(2 * np.pi * 1000 * times_s), 0.0)


def write_recording(path: Path, late_s: float) -> Path:
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=FPS)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=RATE_HZ)
        audio.layout = "mono"
        for number in range(SECONDS * FPS):
            luma = 235 if number and number % FPS == 0 else 60
            planes = np.full((96, 64), 128, np.uint8)
            planes[:64] = luma
            picture = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            picture.pts, picture.time_base = number, fractions.Fraction(1, FPS)
            container.mux(video.encode(picture))
        samples = np.rint(beeping(late_s)).astype(np.int16)
        for start in range(0, len(samples), 960):
            block = av.AudioFrame.from_ndarray(samples[None, start : start + 960], format="s16", layout="mono")
            block.sample_rate, block.pts = RATE_HZ, start
            container.mux(audio.encode(block))
        container.mux(video.encode(None))
    return path


@pytest.mark.parametrize("late_s", [0.0, 0.037, -0.0123])
def test_an_offset_in_a_recording_is_found_to_a_fifth_of_a_millisecond(tmp_path: Path, late_s: float) -> None:
    found = beats(write_recording(tmp_path / "recording.mkv", late_s))
    assert [beat.time_s for beat in found] == pytest.approx([1, 2, 3, 4], abs=0.001)
    assert [beat.offset_s for beat in found] == pytest.approx([late_s] * 4, abs=0.0002)


def test_a_recording_of_noise_is_refused(tmp_path: Path) -> None:
    recording = write_recording(tmp_path / "recording.mkv", late_s=2 * SECONDS)
    with pytest.raises(RuntimeError, match=r"holds 4 flashes and \d+ beeps"):
        beats(recording)


def test_beeps_are_found_between_samples() -> None:
    found = onsets(beeping(0.0), RATE_HZ)
    assert [index / RATE_HZ for index in found] == pytest.approx([1.0, 2.0, 3.0, 4.0], abs=0.0002)


def test_the_source_beeps_on_the_second() -> None:
    assert abs(source_offset_s()) < 0.0002


def test_a_sample_has_the_time_of_its_own_frame() -> None:
    sound = Sound(np.zeros(200), 100, [(0.0, 0), (1.5, 100)])
    assert sound.time_s(50) == 0.5
    assert sound.time_s(150) == 2.0
