"""Recordings: an output that writes files, one after the other."""

import asyncio
import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from av.error import FFmpegError

from bridge.errors import OutputError, OutputLost, OutputRejected
from bridge.media.access_unit import AccessUnit
from bridge.media.clock import NS_PER_S
from bridge.media.h264 import is_same_format
from bridge.media.live_queue import LiveQueue
from bridge.media.utterance import Utterance
from bridge.outputs.shelf import Shelf, Take
from bridge.outputs.transcript import Transcripts
from bridge.ports import OutputListener, OutputProgress, Transcript, TranscriptReader
from bridge.worker import Worker

# The end of a file is a few kilobytes; a disk that takes longer than this to take them does not answer.
CLOSE_TIMEOUT_S = 5.0
# At 50 Mb/s, far above any avatar, 6 MB are written between two looks at the free space.
LOOK_AT_SPACE_EVERY_NS = NS_PER_S
# Sound comes behind its pictures by a round of the AAC encoder, and silence that stands in for it by 0.6 s.
SOUND_COMES_WITHIN_NS = NS_PER_S
# The frames of a batch of sound are four, and a picture may come with them; what a slow disk makes wait stays in the
# queue, which can still drop it.
_BURST = 8

# What the operator must put right before another attempt makes sense.
_OPERATOR_ERRORS = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "raise the quota or make room",
    errno.EFBIG: "raise the limit of file sizes",
    errno.EACCES: "let this user write there",
    errno.EPERM: "let this user write there",
    errno.EROFS: "choose a directory that is not read-only",
    errno.EISDIR: "choose another name",
    errno.ENOTDIR: "choose another name",
    errno.EEXIST: "choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EINVAL: "choose another name",
    errno.ELOOP: "choose another name",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """How long and how large a file may become before the next one begins, at a keyframe. None: as it comes."""

    after_ns: int | None = None
    after_bytes: int | None = None

    def is_due(self, length_ns: int, n_bytes: int) -> bool:
        return (self.after_ns is not None and length_ns >= self.after_ns) or (
            self.after_bytes is not None and n_bytes >= self.after_bytes
        )


class _Recorder:
    """The blocking half: one file after the other. A failure closes the file and is an OutputError that names it.

    A keyframe ends one file and begins the next; the sound that still comes from before it goes to the older one.
    """

    def __init__(
        self,
        shelf: Shelf,
        rotation: Rotation,
        min_free_bytes: int,
        now: Callable[[], datetime],
        free_bytes: Callable[[Path], int],
    ) -> None:
        self._shelf = shelf
        self._rotation = rotation
        self._min_free_bytes = min_free_bytes
        self._now = now
        self._free_bytes = free_bytes
        self._takes: list[Take] = []  # the one that is written, and before it perhaps one that waits for its sound
        self._ended_bytes = 0
        self._looked_ns = 0
        self.bytes_total = 0
        self.path = shelf.path
        self.transcripts = Transcripts()

    def prepare(self) -> None:
        """See before the first picture that there is a place to write to. Raises OutputRejected, OutputLost."""
        with self._failures():
            self._shelf.directory.mkdir(parents=True, exist_ok=True)
            if not os.access(self._shelf.directory, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            self._look_at_space()

    def write(self, units: Iterable[AccessUnit]) -> list[AccessUnit]:
        """Those that were written; none before a keyframe has begun a file. Raises OutputRejected, OutputLost."""
        written: list[AccessUnit] = []
        with self._failures():
            for unit in units:
                if unit.codec.kind == "video":
                    self._begin_or_change(unit)
                if (take := self._take_of(unit)) is not None:
                    take.recording.write(unit)
                    written.append(unit)
        return written

    def close(self, last_words: Sequence[Utterance], *, is_finished: bool) -> None:
        """End the files, and if nothing will follow say so. Raises OutputRejected, OutputLost: then they end where the
        last fragment does."""
        self.transcripts.write(last_words)
        with self._failures():
            try:
                self._end_files(0)
            finally:
                self._shelf.finish(is_last=is_finished)

    def _begin_or_change(self, picture: AccessUnit) -> None:
        if self._takes and picture.pts_ns - self._looked_ns >= LOOK_AT_SPACE_EVERY_NS:
            self._looked_ns = picture.pts_ns
            self._look_at_space()
        if not picture.is_keyframe:
            return
        if self._takes:
            file, recording = self._takes[-1]
            # No format but MPEG-TS and FLV allows another size further on, and few players follow there.
            if is_same_format(recording.codec_config, picture.codec_config) and not self._rotation.is_due(
                picture.pts_ns - recording.begins_ns, file.bytes_total
            ):
                return
            self._end_files(1)
            recording.ends_ns = picture.pts_ns
        else:
            self._looked_ns = picture.pts_ns
        file = self._shelf.create(self._now())
        self.path = Path(str(file.name))
        try:
            self._takes.append(Take(file, self._shelf.record(file, picture)))
            self.transcripts.begin(self.path, picture.pts_ns)
        except (OSError, FFmpegError) as error:
            file.close()
            if isinstance(error, FFmpegError):
                # No header, no recording: retries shall not fill the directory with empty files.
                self.path.unlink(missing_ok=True)
            raise

    def _take_of(self, unit: AccessUnit) -> Take | None:
        """Where a unit belongs; of two files the older one ends once sound has passed it, or is not to be expected."""
        if len(self._takes) == 2:
            newer = self._takes[1].recording
            if not newer.takes(unit):
                return self._takes[0]
            if unit.codec.kind == "audio" or unit.pts_ns - newer.begins_ns >= SOUND_COMES_WITHIN_NS:
                self._end_files(1)
        return self._takes[-1] if self._takes else None

    def _end_files(self, n_left: int) -> None:
        """End the oldest files, all but so many."""
        while len(self._takes) > n_left:
            take = self._takes.pop(0)
            try:
                self._shelf.end(take)
            finally:
                self._ended_bytes += take.file.bytes_total

    def _look_at_space(self) -> None:
        free_bytes = self._free_bytes(self._shelf.directory)
        if free_bytes < self._min_free_bytes:
            self._end_files(0)
            raise OutputRejected(
                f"recording {self.path}: {_mib(free_bytes)} are free in {self._shelf.directory}, less than "
                f"storage.min_free of {_mib(self._min_free_bytes)}; make room or lower min_free"
            )

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (OSError, FFmpegError) as error:
            while self._takes:
                with suppress(OSError, FFmpegError):
                    self._end_files(0)
            reason = getattr(error, "strerror", None) or str(error)
            advice = _OPERATOR_ERRORS.get(getattr(error, "errno", None) or 0)
            # With libav's EINVAL no name is wrong: it cannot read a keyframe, and the next one may do.
            is_unreadable = isinstance(error, FFmpegError) and error.errno == errno.EINVAL
            if advice and not is_unreadable:
                raise OutputRejected(f"recording {self.path}: {reason}; {advice}") from error
            raise OutputLost(f"recording {self.path}: {reason}") from error
        finally:
            self.bytes_total = self._ended_bytes + sum(take.file.bytes_total for take in self._takes)


class ContainerOutput:
    """Writes files below a directory until the session ends, in a thread of its own.

    A file starts at a keyframe. When the pictures change in size, profile or level, or `rotation` says so, the next
    file begins, and no unit is lost between them. The disk keeps at least `min_free_bytes`: below it the output does
    not start, or ends its file and stops. An attempt after a failure writes a new file.

    With a `transcript` what is said is written beside the files; where that fails they go on without it.
    """

    def __init__(
        self,
        shelf: Shelf,
        rotation: Rotation | None = None,
        *,
        min_free_bytes: int = 0,
        keyframe_s: float | None = 2.0,
        transcript: Transcript | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        free_bytes: Callable[[Path], int] = lambda directory: shutil.disk_usage(directory).free,
    ) -> None:
        self.audio_codec = shelf.audio_codec
        self.keyframe_s = keyframe_s
        self._transcript = transcript
        self._recorder = _Recorder(shelf, rotation or Rotation(), min_free_bytes, now, free_bytes)

    def progress(self) -> OutputProgress:
        return OutputProgress(self._recorder.bytes_total, transcript_errors=self._recorder.transcripts.n_failed)

    async def run(self, units: LiveQueue, listener: OutputListener) -> None:
        """Record until `units` is finished. Raises OutputRejected, OutputLost. See `ports.Output`."""
        has_failed = False
        async with AsyncExitStack() as stack:
            words = stack.enter_context(self._transcript.read()) if self._transcript else None
            worker = await stack.enter_async_context(Worker("recording"))
            try:
                await worker.call(self._recorder.prepare)
                await self._record(worker, units, words, listener)
            except OutputError:
                has_failed = True
                raise
            finally:
                # Cancelled before the queue's end, it is an attempt that is given up, and another one follows.
                await self._close(worker, words.rest() if words else (), units.is_finished and not has_failed)

    async def _record(
        self, worker: Worker, units: LiveQueue, words: TranscriptReader | None, listener: OutputListener
    ) -> None:
        is_published = False
        while (unit := await units.get()) is not None:
            # One call for what waits together: it costs more than the writing.
            written = await worker.call(self._recorder.write, (unit, *units.get_waiting(_BURST - 1)))
            if words is not None and (said := words.new()):
                await worker.call(self._recorder.transcripts.write, said)
            if not written:
                continue
            if not is_published:
                is_published = True
                listener.on_published()
            for unit in written:
                listener.on_written(unit)

    async def _close(self, worker: Worker, last_words: Sequence[Utterance], is_finished: bool) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await worker.call(self._recorder.close, last_words, is_finished=is_finished)
        except TimeoutError:
            path = self._recorder.path
            raise OutputLost(f"recording {path}: the disk did not answer for {CLOSE_TIMEOUT_S:g} s") from None


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.0f} MiB"
