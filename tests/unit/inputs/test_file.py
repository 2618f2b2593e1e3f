import asyncio
import itertools
import os
import subprocess
import sys
import threading
import wave
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from structlog.testing import capture_logs

from bridge.errors import SourceRejected
from bridge.inputs import decoding
from bridge.inputs.file import FileSource
from bridge.media.audio import AudioBlock
from bridge.ports import AudioSource

RATE_HZ = 16_000


def ramp(n_samples: int) -> np.ndarray:
    return (np.arange(n_samples) % 20_000 + 1_000).astype(np.int16)


def write_wav(path: Path, samples: np.ndarray, rate_hz: int = RATE_HZ) -> Path:
    with wave.open(str(path), "wb") as writer:
        writer.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        writer.setsampwidth(2)
        writer.setframerate(rate_hz)
        writer.writeframes(samples.astype("<i2").tobytes())
    return path


def write_flac(path: Path, samples: np.ndarray) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=RATE_HZ, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None, :], "s16", "mono")
        frame.sample_rate = RATE_HZ
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


async def play(source: AudioSource, limit_samples: int | None = None) -> list[AudioBlock]:
    blocks: list[AudioBlock] = []
    enough = asyncio.Event()

    async def emit(block: AudioBlock) -> None:
        blocks.append(block)
        if limit_samples is not None and sum(len(b.samples) for b in blocks) >= limit_samples:
            enough.set()
            await asyncio.Event().wait()

    playing = asyncio.create_task(source.run(emit))
    if limit_samples is None:
        await playing
    else:
        await enough.wait()
        playing.cancel()
        with suppress(asyncio.CancelledError):
            await playing
    return blocks


def open_files() -> set[Path]:
    return {link.resolve() for link in Path("/proc/self/fd").iterdir() if link.exists()}


def joined(blocks: list[AudioBlock]) -> np.ndarray:
    return np.concatenate([block.samples for block in blocks])


async def test_samples_of_a_file_arrive_unchanged(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "question.wav", ramp(10_000))
    blocks = await play(FileSource("question", path))
    assert np.array_equal(joined(blocks), ramp(10_000)[:, None])
    assert {block.sample_rate_hz for block in blocks} == {RATE_HZ}


async def test_channels_are_kept_apart(tmp_path: Path) -> None:
    samples = np.stack((ramp(5_000), -ramp(5_000)), axis=1)
    blocks = await play(FileSource("question", write_wav(tmp_path / "q.wav", samples)))
    assert np.array_equal(joined(blocks), samples)


async def test_blocks_carry_the_time_since_the_start(tmp_path: Path) -> None:
    blocks = await play(FileSource("question", write_wav(tmp_path / "q.wav", ramp(16_000))))
    starts = np.cumsum([0] + [len(block.samples) for block in blocks])[:-1]
    assert [block.pts_ns for block in blocks] == [int(start) * 62_500 for start in starts]


@pytest.mark.parametrize("write", [write_wav, write_flac])
async def test_loop_starts_over_without_a_gap_and_time_goes_on(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path / f"q.{write.__name__[6:]}", ramp(5_000))
    blocks = await play(FileSource("question", path, loop=True), limit_samples=17_000)
    assert np.array_equal(joined(blocks)[:17_000], np.tile(ramp(5_000), 4)[:17_000, None])
    starts = np.cumsum([0] + [len(block.samples) for block in blocks])[:-1]
    assert [block.pts_ns for block in blocks] == [int(start) * 62_500 for start in starts]


async def test_time_goes_on_over_a_change_of_rate_inside_a_file(tmp_path: Path) -> None:
    path = tmp_path / "q.aac"
    halves = []
    for rate_hz in (16_000, 48_000):
        with av.open(str(path), "w", format="adts") as container:
            stream = container.add_stream("aac", rate=rate_hz, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, rate_hz), np.float32), "fltp", "mono")
            frame.sample_rate = rate_hz
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        halves.append(path.read_bytes())
    path.write_bytes(b"".join(halves))
    blocks = await play(FileSource("question", path))
    assert {block.sample_rate_hz for block in blocks} == {16_000, 48_000}
    for block, following in itertools.pairwise(blocks):
        assert following.pts_ns - block.pts_ns == pytest.approx(block.duration_s * 1e9, abs=2)


async def test_no_more_than_a_piece_is_decoded_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_wav(tmp_path / "q.wav", ramp(RATE_HZ * 20))
    pieces: list[list[AudioBlock]] = []
    take = decoding.take_piece

    def spy(blocks: Iterator[AudioBlock], piece_s: float) -> list[AudioBlock]:
        pieces.append(take(blocks, piece_s))
        return pieces[-1]

    monkeypatch.setattr(decoding, "take_piece", spy)
    await play(FileSource("question", path), limit_samples=1)
    assert len(pieces) == 1
    assert sum(block.duration_s for block in pieces[0]) < 0.7


async def test_cancelled_source_leaves_no_open_file_behind(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "q.wav", ramp(RATE_HZ))
    await play(FileSource("question", path, loop=True), limit_samples=5_000)
    assert path.resolve() not in open_files()


async def test_disk_that_never_answers_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, answered = threading.Event(), threading.Event()

    def wedged(blocks: Iterator[AudioBlock], piece_s: float) -> list[AudioBlock]:
        reading.set()
        answered.wait()
        return []

    monkeypatch.setattr(decoding, "take_piece", wedged)
    monkeypatch.setattr(decoding, "CLOSE_TIMEOUT_S", 0.01)
    source = FileSource("question", write_wav(tmp_path / "q.wav", ramp(10)))
    playing = asyncio.create_task(play(source))
    await asyncio.to_thread(reading.wait)
    playing.cancel()
    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        await playing
    assert [entry["event"] for entry in logs] == ["input_wedged"]
    assert logs[0]["input"] == "question"
    answered.set()


_PLAY_FROM_A_DISK_THAT_NEVER_ANSWERS = """
import asyncio, threading
from pathlib import Path
from bridge.inputs import decoding, file

async def main():
    reading = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wedged(blocks, piece_s):
        loop.call_soon_threadsafe(reading.set)
        threading.Event().wait()

    decoding.take_piece, decoding.CLOSE_TIMEOUT_S = wedged, 0.01
    playing = asyncio.create_task(file.FileSource("question", Path("q.wav")).run(None))
    await reading.wait()
    playing.cancel()
    await asyncio.gather(playing, return_exceptions=True)

asyncio.run(main())
"""


def test_process_ends_although_a_disk_never_answers() -> None:
    # A deadline that turns a hang into a failure.
    subprocess.run([sys.executable, "-c", _PLAY_FROM_A_DISK_THAT_NEVER_ANSWERS], check=True, timeout=10)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "is not a file"),
        (lambda path: path.write_bytes(b""), "cannot be decoded"),
        (lambda path: path.write_text("just words\n" * 100), "cannot be decoded"),
        (lambda path: write_wav(path, ramp(0)), "holds no sound"),
        (lambda path: path.write_bytes(b"RIFF\x10\0\0\0WAVE"), "cannot be decoded"),
    ],
    ids=["missing", "directory", "empty file", "text", "no samples", "header only"],
)
async def test_file_without_sound_is_refused_by_name(tmp_path: Path, make: Any, reason: str) -> None:
    path = tmp_path / "question.bin"
    make(path)
    with pytest.raises(SourceRejected, match=rf"input host: .*question\.bin .*{reason}"):
        await play(FileSource("host", path))


async def test_picture_is_refused_as_having_no_sound(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(SourceRejected, match=r"photo\.png has no sound in it"):
        await play(FileSource("host", path))


async def test_unreadable_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    # The tests may run as root, whom no file mode keeps out.
    monkeypatch.setattr(Path, "open", refuse)
    path = tmp_path / "q.wav"
    path.touch()
    with pytest.raises(SourceRejected, match=r"q\.wav cannot be read \(Permission denied\)"):
        await play(FileSource("host", path))


async def test_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "fifo.wav"
    os.mkfifo(path)
    with pytest.raises(SourceRejected, match="is not a file"):
        await play(FileSource("host", path))


async def test_file_that_vanishes_between_two_loops_is_refused(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "q.wav", ramp(100))

    async def delete(block: AudioBlock) -> None:
        path.unlink(missing_ok=True)

    with pytest.raises(SourceRejected, match="No such file"):
        await FileSource("host", path, loop=True).run(delete)


@pytest.mark.parametrize("duration_s", [1, 12])
async def test_silent_file_is_played_with_one_warning(tmp_path: Path, duration_s: int) -> None:
    path = write_wav(tmp_path / "q.wav", np.zeros(duration_s * RATE_HZ, np.int16))
    with capture_logs() as logs:
        blocks = await play(FileSource("host", path, loop=True), limit_samples=2 * duration_s * RATE_HZ + 1)
    assert len(joined(blocks)) > 2 * duration_s * RATE_HZ
    assert [entry["event"] for entry in logs] == ["input_silent"]
    assert logs[0]["input"] == "host" and logs[0]["path"] == str(path)


async def test_truncated_file_is_played_as_far_as_it_goes_with_a_warning(tmp_path: Path) -> None:
    path = write_flac(tmp_path / "q.flac", ramp(4 * RATE_HZ))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with capture_logs() as logs:
        samples = joined(await play(FileSource("host", path)))
    assert RATE_HZ < len(samples) < 3 * RATE_HZ
    assert np.array_equal(samples[:, 0], ramp(len(samples)))
    assert [entry["event"] for entry in logs] == ["input_incomplete"]
    assert logs[0]["announced_s"] == 4.0


async def test_damage_in_the_middle_costs_only_its_own_place(tmp_path: Path) -> None:
    path = write_flac(tmp_path / "q.flac", ramp(4 * RATE_HZ))
    coded = bytearray(path.read_bytes())
    coded[len(coded) // 2 : len(coded) // 2 + 400] = bytes(400)
    path.write_bytes(coded)
    samples = joined(await play(FileSource("host", path)))
    assert 2.5 * RATE_HZ < len(samples) <= 4 * RATE_HZ
    assert np.array_equal(samples[-1_000:, 0], ramp(4 * RATE_HZ)[-1_000:])


async def test_healthy_file_gives_no_warning(tmp_path: Path) -> None:
    path = write_flac(tmp_path / "q.flac", ramp(2 * RATE_HZ))
    with capture_logs() as logs:
        await play(FileSource("host", path))
    assert logs == []


@pytest.mark.parametrize("write", [write_wav, write_flac])
async def test_start_is_found_to_the_sample_and_a_loop_begins_at_the_beginning(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path / f"q.{write.__name__[6:]}", ramp(5 * RATE_HZ))
    source = FileSource("question", path, loop=True, start_s=3.7)
    blocks = await play(source, limit_samples=2 * RATE_HZ)
    expected = np.concatenate((ramp(5 * RATE_HZ)[int(3.7 * RATE_HZ) :], ramp(RATE_HZ)))[: 2 * RATE_HZ]
    assert np.array_equal(joined(blocks)[: 2 * RATE_HZ, 0], expected)
    assert blocks[0].pts_ns == 0


async def test_start_behind_the_end_is_refused(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "q.wav", ramp(RATE_HZ))
    with pytest.raises(SourceRejected, match=r"input host: .*q\.wav ends before 3 s"):
        await play(FileSource("host", path, loop=True, start_s=3.0))


async def test_ten_gigabytes_are_neither_read_nor_held(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "q.wav", ramp(RATE_HZ))
    with path.open("r+b") as file:
        for at in (4, 40):  # the sizes of RIFF and data, as large as 32 bits go
            file.seek(at)
            file.write(b"\xff\xff\xff\xff")
        file.truncate(10 << 30)
    async with asyncio.timeout(5):
        blocks = await play(FileSource("question", path, start_s=0.5), limit_samples=RATE_HZ)
    assert np.array_equal(joined(blocks)[: RATE_HZ // 2, 0], ramp(RATE_HZ)[RATE_HZ // 2 :])
