"""Where recordings stand: their names, and how one follows the other."""

import io
from contextlib import suppress
from datetime import datetime
from pathlib import Path, PurePath
from typing import NamedTuple, Protocol

import structlog

from bridge.errors import OutputRejected
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.recording_name import check_is_below, check_name, name_at
from bridge.outputs.recording import CONTAINERS, Container, Recording

MOST_FILES_OF_A_NAME = 10_000

log = structlog.get_logger()


class CountedFile(io.FileIO):
    """A file that writes all or raises, and counts the bytes."""

    bytes_total = 0

    def write(self, data: bytes | memoryview, /) -> int:  # type: ignore[override]
        left = memoryview(data)
        while left:
            n_written = super().write(left)
            self.bytes_total += n_written
            left = left[n_written:]
        return len(data)


class Take(NamedTuple):
    """A file that is being written."""

    file: CountedFile
    recording: Recording

    def close(self) -> None:
        try:
            self.recording.close()
        finally:
            self.file.close()


class Shelf(Protocol):
    """Where the files of one output stand, one behind the other. All blocks, and raises OSError, av.FFmpegError.

    directory    whose disk is looked at.  path: what errors name before there is a file.
    audio_codec  what the files take.
    """

    directory: Path
    path: Path
    audio_codec: Codec

    def create(self, start: datetime) -> CountedFile:
        """A new, empty file. Raises OutputRejected too."""

    def record(self, file: CountedFile, keyframe: AccessUnit) -> Recording:
        """Begin that file with this picture."""

    def end(self, take: Take) -> None:
        """Close a file; nothing more is written to it."""

    def finish(self, *, is_last: bool) -> None:
        """All files are closed; nothing more is created here. `is_last`: nor by another attempt."""


class RecordingNames:
    """Where the recordings of one output go: `directory` and a name in which `{start:FORMAT}` is the time in UTC.

    Directories are made. A file that exists is kept: the new one gets -1, -2 and so on behind its name.
    """

    def __init__(self, directory: Path, template: str) -> None:
        """Raises ConfigError if the name leaves the directory, or is no name of a recording."""
        check_name(template)
        check_is_below(template)
        self.container: Container = CONTAINERS[PurePath(template).suffix]
        self.audio_codec = self.container.audio_codec
        self.directory = directory
        self.template = template
        self.path = directory / template

    def create(self, start: datetime) -> CountedFile:
        path = self.directory / name_at(self.template, start)
        make_directory(path.parent, self.directory)
        for number in range(MOST_FILES_OF_A_NAME):
            with suppress(FileExistsError):
                return CountedFile(path.with_stem(f"{path.stem}-{number}") if number else path, "xb")
        raise OutputRejected(f"recording {path}: there are {MOST_FILES_OF_A_NAME} files of this name; move them away")

    def record(self, file: CountedFile, keyframe: AccessUnit) -> Recording:
        recording = Recording(file, self.container, keyframe)
        log.info("recording_started", path=str(file.name))
        return recording

    def end(self, take: Take) -> None:
        take.close()

    def finish(self, *, is_last: bool) -> None:
        pass  # every file is whole by itself


def make_directory(directory: Path, top: Path) -> None:
    """Make a directory below `top`. Raises OSError; OutputRejected if a link leads out of there."""
    directory.mkdir(parents=True, exist_ok=True)
    if not directory.resolve().is_relative_to(top.resolve()):
        raise OutputRejected(f"recording {directory} is led out of {top} by a link: choose another name")
