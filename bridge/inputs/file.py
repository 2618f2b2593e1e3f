"""`file:` anything that FFmpeg decodes."""

import asyncio
import stat
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog
from numpy.typing import NDArray

from bridge.errors import SourceRejected
from bridge.media.audio import AudioBlock
from bridge.media.clock import ticks_to_ns
from bridge.worker import Worker

if TYPE_CHECKING:
    from av import AudioFrame

# A hop to the decoding thread and back, and a turn of the resampler, cost some 0.3 ms whatever the piece: two in a
# second are nothing, and a piece is half of what is decoded ahead.
_PIECE_S = 0.5
# The thread closes the file once it has the piece it is at; a disk that takes longer than this to give one is wedged.
_CLOSE_TIMEOUT_S = 2.0

log = structlog.get_logger()


class FileSource:
    """Plays the audio of one file, decoded half a second at a time, as it is asked for, in a thread of its own.

    loop  starts over at the end, without a gap, for ever.

    A file that is silent, damaged in places, or shorter than it says, is played as it is, with a warning.
    """

    is_live = False

    def __init__(self, name: str, path: Path, *, loop: bool = False) -> None:
        self.name = name
        self._path = path
        self._loop = loop

    async def run(self, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        """Deliver the file. Raises SourceRejected when nothing in it can be played."""
        async with Worker(f"decode {self.name}") as worker:
            blocks = self._blocks()
            try:
                while piece := await worker.call(_take_piece, blocks):
                    for block in piece:
                        await emit(block)
            finally:
                await self._close(worker, blocks)

    async def _close(self, worker: Worker, blocks: Generator[AudioBlock, None, None]) -> None:
        """Close the file, after the piece that may still be decoding; leave it to its thread if that takes too long."""
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await worker.call(blocks.close)
        except TimeoutError:
            log.warning("input_wedged", input=self.name, path=str(self._path), waited_s=_CLOSE_TIMEOUT_S)

    def _blocks(self) -> Generator[AudioBlock, None, None]:
        """All that is to be played, with the time since its start; runs in the decoding thread."""
        origin_ns, n_samples, rate_hz = 0, 0, 1
        inspection = _Inspection(self.name, self._path)
        while True:
            is_empty = True
            for frame in self._decode(inspection):
                if frame.sample_rate != rate_hz:
                    origin_ns, n_samples = origin_ns + ticks_to_ns(n_samples, rate_hz), 0
                    rate_hz = frame.sample_rate
                block = AudioBlock(_samples_of(frame), rate_hz, origin_ns + ticks_to_ns(n_samples, rate_hz))
                inspection.see(block)
                yield block
                n_samples += frame.samples
                is_empty = False
            if is_empty:
                raise self._rejected("holds no sound: its audio track is empty or damaged")
            if not self._loop:
                return

    def _decode(self, inspection: "_Inspection") -> Iterator["AudioFrame"]:
        """The frames of one pass through the file."""
        # First use in this thread: loading FFmpeg's libraries does not hold up the event loop.
        import av

        try:
            if not stat.S_ISREG(self._path.stat().st_mode):
                raise self._rejected("is not a file")
            with self._path.open("rb"):
                pass
            container = av.open(str(self._path), metadata_errors="ignore")
        except av.FFmpegError as error:
            raise self._rejected(f"cannot be decoded ({error.strerror}): damaged, or not a media file") from None
        except OSError as error:
            raise self._rejected(f"cannot be read ({error.strerror})") from None
        with container:
            stream = container.streams.best("audio")
            if not isinstance(stream, av.AudioStream):
                raise self._rejected("has no sound in it")
            stream.codec_context.thread_count = 1
            try:
                for packet in container.demux(stream):
                    try:
                        yield from packet.decode()
                    except av.FFmpegError:
                        inspection.damaged_packets += 1
            except av.FFmpegError:
                # The container itself breaks off here.
                inspection.damaged_packets += 1
            announced = stream.duration * stream.time_base if stream.duration and stream.time_base else 0
        inspection.end(float(announced))

    def _rejected(self, reason: str) -> SourceRejected:
        return SourceRejected(f"input {self.name}: {self._path} {reason}")


def _take_piece(blocks: Iterator[AudioBlock]) -> list[AudioBlock]:
    """The next half second or little more, in as few blocks as can be; empty at the end."""
    piece: list[AudioBlock] = []
    missing_s = _PIECE_S
    while missing_s > 0 and (block := next(blocks, None)):
        piece.append(block)
        missing_s -= block.duration_s
    return [_join(list(alike)) for _, alike in groupby(piece, key=_form)]


def _form(block: AudioBlock) -> tuple[int, int, "np.dtype[Any]"]:
    return block.sample_rate_hz, block.samples.shape[1], block.samples.dtype


def _join(blocks: Sequence[AudioBlock]) -> AudioBlock:
    # A frame of the decoder is some 20 ms: the resampler takes as long over it as over all ten.
    return replace(blocks[0], samples=np.concatenate([block.samples for block in blocks]))


def _samples_of(frame: "AudioFrame") -> NDArray[np.int16] | NDArray[np.float32]:
    """Shape (n, channels), int16 as it is, any other format as float32 in [-1, 1]."""
    samples: NDArray[Any] = frame.to_ndarray()
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels)
    if samples.dtype == np.uint8:
        samples = (samples - 128.0) / 128
    if samples.dtype in (np.int32, np.int64):
        samples = samples / float(2 ** (8 * samples.itemsize - 1))
    return samples if samples.dtype == np.int16 else samples.astype(np.float32)  # type: ignore[return-value]


class _Inspection:
    """Looks for what an operator would like to know of a file, and says each thing once."""

    # At most the noise of a microphone that nobody speaks into: -60 dBFS.
    SILENT_BELOW = 0.001
    SILENT_AFTER_S = 10.0
    # Containers round the duration to their clock, and may count an encoder's padding: below 0.1 s with AAC and MP3.
    DURATION_SLACK_S = 0.5

    def __init__(self, name: str, path: Path) -> None:
        self._log = structlog.get_logger().bind(input=name, path=str(path))
        self._played_s = 0.0
        self._was_heard = False
        self._is_over = False
        self.damaged_packets = 0

    def see(self, block: AudioBlock) -> None:
        if self._is_over or self._was_heard:
            self._played_s += block.duration_s
            return
        was_short = self._played_s < self.SILENT_AFTER_S
        self._played_s += block.duration_s
        full_scale = 32_768 if block.samples.dtype == np.int16 else 1
        self._was_heard = bool(np.abs(block.samples).max(initial=0) > self.SILENT_BELOW * full_scale)
        if not self._was_heard and was_short and self._played_s >= self.SILENT_AFTER_S:
            self._log.warning("input_silent", silent_s=round(self._played_s, 1))

    def end(self, announced_s: float) -> None:
        """The first pass is over, and the file should have taken `announced_s`; 0 if it does not say."""
        if self._is_over:
            return
        self._is_over = True
        if not self._was_heard and self._played_s < self.SILENT_AFTER_S:
            self._log.warning("input_silent", silent_s=round(self._played_s, 1))
        if self.damaged_packets or announced_s - self._played_s > self.DURATION_SLACK_S:
            self._log.warning(
                "input_incomplete",
                played_s=round(self._played_s, 1),
                announced_s=round(announced_s, 1),
                damaged_packets=self.damaged_packets,
            )
