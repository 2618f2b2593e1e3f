import asyncio
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from bridge.errors import SourceRejected
from bridge.inputs.pcm import PcmSource
from bridge.media.audio import AudioBlock
from bridge.protocols.pcm_url import PcmFormat
from tests.unit.inputs.test_file import joined, open_files, play, ramp

FORMAT = PcmFormat(16_000, 1, "s16le")


class Heard:
    """What a source gives, to be waited for."""

    def __init__(self) -> None:
        self.blocks: list[AudioBlock] = []
        self._changed = asyncio.Condition()

    async def emit(self, block: AudioBlock) -> None:
        self.blocks.append(block)
        async with self._changed:
            self._changed.notify_all()

    async def samples(self, count: int) -> np.ndarray:
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(lambda: sum(len(block.samples) for block in self.blocks) >= count)
        return joined(self.blocks)[:, 0]


def times_open(path: Path) -> int:
    return sum(link.exists() and link.resolve() == path for link in Path("/proc/self/fd").iterdir())


async def until_writer_is_missed(fifo: Path) -> None:
    """A FIFO has an end only while nobody writes; until then a second writer continues the first one's stream."""
    for _ in range(1_000):
        if times_open(fifo) == 2:
            return
        await asyncio.sleep(0)
    raise AssertionError("the source does not wait for the next writer")


async def test_fifo_waits_for_its_first_writer_and_for_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    heard = Heard()
    playing = asyncio.create_task(PcmSource("tts", path, FORMAT).run(heard.emit))
    await asyncio.sleep(0)
    for number in (1, 2, 3):
        # Each writer leaves in the middle of a sample.
        with path.open("wb", buffering=0) as writer:
            writer.write(ramp(1_000).tobytes() + b"\x55")
        assert np.array_equal((await heard.samples(1_000 * number))[-1_000:], ramp(1_000))
        await until_writer_is_missed(path)
    assert [block.pts_ns for block in heard.blocks if block.pts_ns == 125_000_000]
    playing.cancel()
    await asyncio.gather(playing, return_exceptions=True)
    assert path not in open_files()


async def test_standard_input_is_played_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as standard_input, os.fdopen(writing, "wb") as writer:
        monkeypatch.setattr(sys, "stdin", standard_input)
        heard = Heard()
        playing = asyncio.create_task(PcmSource("tts", None, FORMAT).run(heard.emit))
        writer.write(ramp(500).tobytes())
        writer.flush()
        assert np.array_equal(await heard.samples(500), ramp(500))
        writer.write(ramp(7).tobytes())
        writer.close()
        await playing
    assert np.array_equal(joined(heard.blocks)[500:, 0], ramp(7))


async def test_file_of_raw_samples_is_played_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "q.raw"
    path.write_bytes(ramp(100_000).tobytes())
    assert np.array_equal(joined(await play(PcmSource("tts", path, FORMAT)))[:, 0], ramp(100_000))
    with path.open() as standard_input:
        monkeypatch.setattr(sys, "stdin", standard_input)
        assert np.array_equal(joined(await play(PcmSource("tts", None, FORMAT)))[:, 0], ramp(100_000))


async def test_writer_waits_for_a_source_that_is_not_live(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    is_stuck = asyncio.Event()

    async def stuck(block: AudioBlock) -> None:
        is_stuck.set()
        await asyncio.Event().wait()

    playing = asyncio.create_task(PcmSource("tts", path, FORMAT).run(stuck))
    await asyncio.sleep(0)
    with path.open("wb", buffering=0) as writer:
        os.set_blocking(writer.fileno(), False)
        writer.write(bytes(100))
        await is_stuck.wait()
        written = sum(iter(lambda: writer.write(bytes(4_096)) or 0, 0))
        assert written <= 65_536
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)


@pytest.mark.parametrize(
    ("make", "reason"),
    [(lambda path: None, "No such file or directory.; mkfifo"), (Path.mkdir, "neither a FIFO nor a file")],
)
async def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path, make: object, reason: str) -> None:
    make(tmp_path / "fifo")  # type: ignore[operator]
    with pytest.raises(SourceRejected, match=rf"input tts: .*/fifo .*{reason}"):
        await play(PcmSource("tts", tmp_path / "fifo", FORMAT))
