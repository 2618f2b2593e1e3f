"""From what FFmpeg decodes to AudioBlocks, in a thread of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog
from numpy.typing import NDArray

from bridge.errors import SourceRejected
from bridge.media.audio import AudioBlock
from bridge.media.clock import ticks_to_ns
from bridge.worker import Worker

if TYPE_CHECKING:
    from av import AudioFrame, AudioStream, Packet
    from av.container import InputContainer

# A hop to the decoding thread and back, and a turn of the resampler, cost some 0.3 ms whatever the piece: two in a
# second are nothing, and a piece is half of what is decoded ahead.
PIECE_S = 0.5
# Of a live source: a message to the service holds as much, and a source that has less gives what it has.
LIVE_PIECE_S = 0.02
# The thread closes what it reads once it has the piece it is at; a disk that takes longer than this to give one is
# wedged.
CLOSE_TIMEOUT_S = 2.0
# A decoder that starts in the middle of a stream gives its first frame wrong, as long as those of AAC and MP3 overlap
# (two of 1152 samples at 22.05 kHz).
_PREROLL_S = 0.105

log = structlog.get_logger()

Blocks = Generator[AudioBlock, None, None]


async def play(
    name: str,
    blocks: Blocks,
    emit: Callable[[AudioBlock], Awaitable[None]],
    *,
    piece_s: float = PIECE_S,
    interrupt: Callable[[], None] = lambda: None,
) -> None:
    """Run `blocks` in a thread, `piece_s` at a time, as they are asked for. Raises what it raises.

    At the end `interrupt` is called, which may wake the thread out of a wait. The thread is left to itself where it
    does not come to an end in time.
    """
    async with Worker(f"decode {name}") as worker:
        try:
            while piece := await worker.call(take_piece, blocks, piece_s):
                for block in piece:
                    await emit(block)
        finally:
            interrupt()
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await worker.call(blocks.close)
            except TimeoutError:
                log.warning("input_wedged", input=name, waited_s=CLOSE_TIMEOUT_S)


def take_piece(blocks: Iterator[AudioBlock], piece_s: float) -> list[AudioBlock]:
    """The next `piece_s` or little more, in as few blocks as can be; empty at the end."""
    piece: list[AudioBlock] = []
    missing_s = piece_s
    while missing_s > 0 and (block := next(blocks, None)):
        piece.append(block)
        missing_s -= block.duration_s
    return [_join(list(alike)) for _, alike in groupby(piece, key=_form)]


def _form(block: AudioBlock) -> tuple[int, int, "np.dtype[Any]"]:
    return block.sample_rate_hz, block.samples.shape[1], block.samples.dtype


def _join(blocks: Sequence[AudioBlock]) -> AudioBlock:
    # A frame of the decoder is some 20 ms: the resampler takes as long over it as over all ten.
    return replace(blocks[0], samples=np.concatenate([block.samples for block in blocks]))


class EndsBeforeStart(SourceRejected):
    """The operator wants to begin behind the end. `duration_s`: as far as it goes."""

    def __init__(self, message: str, duration_s: float) -> None:
        super().__init__(message)
        self.duration_s = duration_s


class Decoder:
    """Decodes one stream of one container; time counts from its first block.

    damaged_packets  packets that could not be decoded, or read.
    played_s         sound so far.  skipped_s: sound that lay before `start_s`.
    """

    def __init__(self, start_s: float = 0.0) -> None:
        """start_s: where in the stream to begin; beyond its end nothing is played."""
        self.damaged_packets = 0
        self.played_s = 0.0
        self.skipped_s = 0.0
        self._start_s = start_s
        self._origin_ns, self._n_samples, self._rate_hz = 0, 0, 1

    def blocks(
        self,
        container: "InputContainer",
        stream: "AudioStream",
        packets: Iterator["Packet[AudioStream]"] | None = None,
    ) -> Iterator[AudioBlock]:
        """`packets`: of the stream; None: as the container gives them. Raises av.FFmpegError when reading fails."""
        stream.codec_context.thread_count = 1
        for frame in self._frames(container, stream, packets):
            samples = self._from_start(frame, samples_of(frame), stream)
            if len(samples):
                yield self._timed(samples, frame.sample_rate)
        if self._is_starting and stream.duration and stream.time_base:
            # Behind the end there is no frame to tell by.
            self.skipped_s = max(self.skipped_s, float(stream.duration * stream.time_base))

    def check_played(self, label: str, played_s: float) -> None:
        """Raises EndsBeforeStart, SourceRejected, which say `label`, unless more than `played_s` was played."""
        if self.played_s > played_s:
            return
        if self.skipped_s:
            raise EndsBeforeStart(f"{label} ends before {self._start_s:g} s", self.skipped_s)
        raise SourceRejected(f"{label} holds no sound: its audio track is empty or damaged")

    @property
    def _is_starting(self) -> bool:
        return self._start_s > 0 and not self.played_s

    def _frames(
        self,
        container: "InputContainer",
        stream: "AudioStream",
        packets: Iterator["Packet[AudioStream]"] | None,
    ) -> Iterator["AudioFrame"]:
        import av

        if self._is_starting:
            # What cannot be sought in is decoded from its beginning on.
            with suppress(av.FFmpegError):
                offset_us = round(max(0.0, self._start_s - _PREROLL_S) * 1e6)
                container.seek((container.start_time or 0) + offset_us)
        for packet in packets or container.demux(stream):
            try:
                yield from packet.decode()
            except av.FFmpegError:
                self.damaged_packets += 1

    def _from_start(
        self, frame: "AudioFrame", samples: NDArray[Any], stream: "AudioStream"
    ) -> NDArray[np.int16] | NDArray[np.float32]:
        """What of a frame lies behind `start_s`."""
        if not self._is_starting:
            return samples
        at_s = self.skipped_s
        if frame.pts is not None and frame.time_base:
            at_s = float((frame.pts - (stream.start_time or 0)) * frame.time_base)
        n_before = min(max(0, round((self._start_s - at_s) * frame.sample_rate)), len(samples))
        self.skipped_s = at_s + n_before / frame.sample_rate
        return samples[n_before:]

    def _timed(self, samples: NDArray[np.int16] | NDArray[np.float32], rate_hz: int) -> AudioBlock:
        if rate_hz != self._rate_hz:
            self._origin_ns += ticks_to_ns(self._n_samples, self._rate_hz)
            self._n_samples, self._rate_hz = 0, rate_hz
        block = AudioBlock(samples, rate_hz, self._origin_ns + ticks_to_ns(self._n_samples, rate_hz))
        self._n_samples += len(samples)
        self.played_s += block.duration_s
        return block


def samples_of(frame: "AudioFrame") -> NDArray[np.int16] | NDArray[np.float32]:
    """Shape (n, channels), int16 as it is, any other format as float32 in [-1, 1]."""
    samples: NDArray[Any] = frame.to_ndarray()
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels)
    if samples.dtype == np.uint8:
        samples = (samples - 128.0) / 128
    if samples.dtype in (np.int32, np.int64):
        samples = samples / float(2 ** (8 * samples.itemsize - 1))
    return samples if samples.dtype == np.int16 else samples.astype(np.float32)  # type: ignore[return-value]
