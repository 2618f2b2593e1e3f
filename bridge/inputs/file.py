"""`file:` anything that FFmpeg decodes."""

import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import structlog

from bridge.errors import SourceRejected
from bridge.inputs.decoding import Blocks, Decoder, play
from bridge.media.audio import AudioBlock


class FileSource:
    """Plays the audio of one file, decoded half a second at a time, as it is asked for, in a thread of its own.

    loop     starts over at the end, without a gap, for ever.
    start_s  where in the file it begins; a loop starts over at the beginning.

    A file that is silent, damaged in places, or shorter than it says, is played as it is, with a warning.
    """

    is_live = False

    def __init__(self, name: str, path: Path, *, loop: bool = False, start_s: float = 0.0) -> None:
        self.name = name
        self._path = path
        self._loop = loop
        self._start_s = start_s

    async def run(self, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        """Deliver the file. Raises SourceRejected when nothing in it can be played."""
        await play(self.name, self._blocks(), emit)

    def _blocks(self) -> Blocks:
        """All that is to be played, with the time since its start; runs in the decoding thread."""
        decoder, inspection = Decoder(self._start_s), _Inspection(self.name, self._path)
        while True:
            played_s = decoder.played_s
            for block in self._decode(decoder, inspection):
                inspection.see(block)
                yield block
            decoder.check_played(f"input {self.name}: {self._path}", played_s)
            if not self._loop:
                return

    def _decode(self, decoder: Decoder, inspection: "_Inspection") -> Iterator[AudioBlock]:
        """One pass through the file."""
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
            try:
                yield from decoder.blocks(container, stream)
            except av.FFmpegError:
                # The container itself breaks off here.
                decoder.damaged_packets += 1
            announced = stream.duration * stream.time_base if stream.duration and stream.time_base else 0
        inspection.end(float(announced) - decoder.skipped_s, decoder.damaged_packets)

    def _rejected(self, reason: str) -> SourceRejected:
        return SourceRejected(f"input {self.name}: {self._path} {reason}")


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

    def end(self, announced_s: float, damaged_packets: int) -> None:
        """The first pass is over, and should have taken `announced_s`; 0 or less if the file does not say."""
        if self._is_over:
            return
        self._is_over = True
        if not self._was_heard and self._played_s < self.SILENT_AFTER_S:
            self._log.warning("input_silent", silent_s=round(self._played_s, 1))
        if damaged_packets or announced_s - self._played_s > self.DURATION_SLACK_S:
            self._log.warning(
                "input_incomplete",
                played_s=round(self._played_s, 1),
                announced_s=round(announced_s, 1),
                damaged_packets=damaged_packets,
            )
