"""What is missing at the start of a recording, told from what the avatar itself left out."""

from pathlib import Path

import pytest

from benchmarks.lipsync import lost_at_start
from bridge.local_avatar.coding import H264Encoder
from bridge.local_avatar.drawing import Canvas
from bridge.local_avatar.timecode import insert_stamp
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS
from bridge.media.opus import SILENCE_20_MS
from bridge.outputs.recording import CONTAINERS, Recording


def write_recording(path: Path, *, skipped: set[int], lost: set[int], lost_sounds: set[int]) -> Path:
    """Two seconds of 25 pictures and 50 packets of sound each. skipped: pictures that were never coded."""
    encoder, canvas = H264Encoder(64, 64, 25, "baseline", 200_000), Canvas(64, 64)
    with path.open("wb") as file:
        recording = None
        for number in range(50):
            if number not in skipped:
                coded = encoder.encode(canvas, number, keyframe=number == 0)
                payload, pts_ns = insert_stamp(coded.payload, number, 7), 40 * number * NS_PER_MS
                unit = AccessUnit(Codec.H264, payload, pts_ns, 0, coded.is_keyframe, coded.codec_config)
                recording = recording or Recording(file, CONTAINERS[".mkv"], unit)
                if number not in lost:
                    recording.write(unit)
            for sound in {2 * number, 2 * number + 1} - lost_sounds:
                assert recording is not None
                pts_ns = 20 * sound * NS_PER_MS
                recording.write(AccessUnit(Codec.OPUS, SILENCE_20_MS, pts_ns, 20 * NS_PER_MS))
        assert recording is not None
        recording.close()
    return path


@pytest.mark.parametrize(
    ("skipped", "lost", "lost_sounds", "n_lost"),
    [
        (set(), set(), set(), 0),
        ({3, 4, 20}, set(), set(), 0),
        ({3, 4, 20}, {7, 30, 31}, set(), 3),
        (set(), set(), {10, 11, 40}, 3),
    ],
)
def test_what_was_lost_is_told_from_what_was_left_out(
    tmp_path: Path, skipped: set[int], lost: set[int], lost_sounds: set[int], n_lost: int
) -> None:
    path = write_recording(tmp_path / "recording.mkv", skipped=skipped, lost=lost, lost_sounds=lost_sounds)
    assert lost_at_start(path) == n_lost
