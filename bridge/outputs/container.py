"""Recordings: an output that writes MP4, Matroska, FLV or MPEG-TS files."""

import asyncio
import errno
import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path, PurePath

import structlog
from av.error import FFmpegError

from bridge.errors import OutputLost, OutputRejected
from bridge.media.access_unit import AccessUnit
from bridge.media.clock import NS_PER_S
from bridge.media.h264 import is_same_format
from bridge.media.live_queue import LiveQueue
from bridge.media.recording_name import check_is_below, check_name, name_at
from bridge.outputs.recording import CONTAINERS, Recording
from bridge.ports import OutputListener, OutputProgress
from bridge.worker import Worker

# The end of a file is a few kilobytes; a disk that takes longer than this to take them does not answer.
CLOSE_TIMEOUT_S = 5.0
# At 50 Mb/s, far above any avatar, 6 MB are written between two looks at the free space.
LOOK_AT_SPACE_EVERY_NS = NS_PER_S
MOST_FILES_OF_A_NAME = 10_000
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

log = structlog.get_logger()


class _File(io.FileIO):
    """A file that writes all or raises, and counts the bytes, on top of those of the files before it."""

    bytes_total = 0

    def write(self, data: bytes | memoryview, /) -> int:  # type: ignore[override]
        left = memoryview(data)
        while left:
            n_written = super().write(left)
            self.bytes_total += n_written
            left = left[n_written:]
        return len(data)


class RecordingNames:
    """Where the recordings of one output go: `directory` and a name in which `{start:FORMAT}` is the time in UTC.

    Directories are made. A file that exists is kept: the new one gets -1, -2 and so on behind its name.
    """

    def __init__(self, directory: Path, template: str) -> None:
        """Raises ConfigError if the name leaves the directory, or is no name of a recording."""
        check_name(template)
        check_is_below(template)
        self.container = CONTAINERS[PurePath(template).suffix]
        self.directory = directory
        self.template = template

    def create(self, start: datetime) -> _File:
        """A new, empty file. Raises OSError, OutputRejected."""
        path = self.directory / name_at(self.template, start)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.parent.resolve().is_relative_to(self.directory.resolve()):
            raise OutputRejected(f"recording {path} is led out of {self.directory} by a link: choose another name")
        for number in range(MOST_FILES_OF_A_NAME):
            with suppress(FileExistsError):
                return _File(path.with_stem(f"{path.stem}-{number}") if number else path, "xb")
        raise OutputRejected(f"recording {path}: there are {MOST_FILES_OF_A_NAME} files of this name; move them away")


class _Recorder:
    """The blocking half: one file after the other. A failure closes the file and is an OutputError that names it."""

    def __init__(
        self,
        names: RecordingNames,
        min_free_bytes: int,
        now: Callable[[], datetime],
        free_bytes: Callable[[Path], int],
    ) -> None:
        self._names = names
        self._min_free_bytes = min_free_bytes
        self._now = now
        self._free_bytes = free_bytes
        self._file: _File | None = None
        self._recording: Recording | None = None
        self._looked_ns = 0
        self.path = names.directory / names.template

    @property
    def bytes_total(self) -> int:
        return self._file.bytes_total if self._file else 0

    def prepare(self) -> None:
        """See before the first picture that there is a place to write to. Raises OutputRejected, OutputLost."""
        with self._failures():
            self._names.directory.mkdir(parents=True, exist_ok=True)
            if not os.access(self._names.directory, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            self._look_at_space()

    def write(self, units: Iterable[AccessUnit]) -> list[AccessUnit]:
        """Those that were written; none before a keyframe has begun a file. Raises OutputRejected, OutputLost."""
        written: list[AccessUnit] = []
        with self._failures():
            for unit in units:
                if unit.codec.kind == "video":
                    self._open_or_change(unit)
                if self._recording is not None:
                    self._recording.write(unit)
                    written.append(unit)
        return written

    def close(self) -> None:
        """End the file. Raises OutputRejected, OutputLost: then it ends where the last fragment does."""
        with self._failures():
            self._end_file()

    def _open_or_change(self, picture: AccessUnit) -> None:
        if self._recording and picture.pts_ns - self._looked_ns >= LOOK_AT_SPACE_EVERY_NS:
            self._looked_ns = picture.pts_ns
            self._look_at_space()
        if not picture.is_keyframe:
            return
        # No format but MPEG-TS and FLV allows another size further on, and few players follow there.
        if self._recording and not is_same_format(self._recording.codec_config, picture.codec_config):
            self._end_file()
        if not self._recording:
            file = self._names.create(self._now())
            file.bytes_total = self.bytes_total
            self._file = file
            self.path = Path(str(file.name))
            try:
                self._recording = Recording(file, self._names.container, picture)
            except FFmpegError:
                # No header, no recording: retries shall not fill the directory with empty files.
                self.path.unlink(missing_ok=True)
                raise
            self._looked_ns = picture.pts_ns

    def _end_file(self) -> None:
        recording, self._recording = self._recording, None
        try:
            if recording:
                recording.close()
        finally:
            if self._file:
                self._file.close()

    def _look_at_space(self) -> None:
        free_bytes = self._free_bytes(self._names.directory)
        if free_bytes < self._min_free_bytes:
            self._end_file()
            raise OutputRejected(
                f"recording {self.path}: {_mib(free_bytes)} are free in {self._names.directory}, less than "
                f"storage.min_free of {_mib(self._min_free_bytes)}; make room or lower min_free"
            )

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (OSError, FFmpegError) as error:
            with suppress(OSError, FFmpegError):
                self._end_file()
            reason = getattr(error, "strerror", None) or str(error)
            advice = _OPERATOR_ERRORS.get(getattr(error, "errno", None) or 0)
            # With libav's EINVAL no name is wrong: it cannot read a keyframe, and the next one may do.
            is_unreadable = isinstance(error, FFmpegError) and error.errno == errno.EINVAL
            if advice and not is_unreadable:
                raise OutputRejected(f"recording {self.path}: {reason}; {advice}") from error
            raise OutputLost(f"recording {self.path}: {reason}") from error


class ContainerOutput:
    """Writes recordings below a directory until the session ends, in a thread of its own.

    A file starts at a keyframe, at time 0. When the pictures change in size, profile or level, the next file begins.
    The disk keeps at least `min_free_bytes`: below it the output does not start, or ends its file and stops. An
    attempt after a failure writes a new file.
    """

    def __init__(
        self,
        names: RecordingNames,
        *,
        min_free_bytes: int = 0,
        keyframe_s: float | None = 2.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        free_bytes: Callable[[Path], int] = lambda directory: shutil.disk_usage(directory).free,
    ) -> None:
        self.audio_codec = names.container.audio_codec
        self.keyframe_s = keyframe_s
        self._recorder = _Recorder(names, min_free_bytes, now, free_bytes)

    def progress(self) -> OutputProgress:
        return OutputProgress(self._recorder.bytes_total)

    async def run(self, units: LiveQueue, listener: OutputListener) -> None:
        """Record until `units` is finished. Raises OutputRejected, OutputLost. See `ports.Output`."""
        async with Worker("recording") as worker:
            try:
                await worker.call(self._recorder.prepare)
                await self._record(worker, units, listener)
            finally:
                await self._close(worker)

    async def _record(self, worker: Worker, units: LiveQueue, listener: OutputListener) -> None:
        path: Path | None = None
        while (unit := await units.get()) is not None:
            # One call for what waits together: it costs more than the writing.
            written = await worker.call(self._recorder.write, (unit, *units.get_waiting(_BURST - 1)))
            if not written:
                continue
            if path is None:
                listener.on_published()
            if path != self._recorder.path:
                path = self._recorder.path
                log.info("recording_started", path=str(path))
            for unit in written:
                listener.on_written(unit)

    async def _close(self, worker: Worker) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await worker.call(self._recorder.close)
        except TimeoutError:
            path = self._recorder.path
            raise OutputLost(f"recording {path}: the disk did not answer for {CLOSE_TIMEOUT_S:g} s") from None


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.0f} MiB"
