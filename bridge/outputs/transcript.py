"""What is said during recordings, beside them: NAME.jsonl and NAME.vtt for a recording NAME.mp4. Blocks."""

import errno
import json
import os
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

import structlog

from bridge.media.clock import NS_PER_S
from bridge.media.utterance import Utterance
from bridge.outputs.shelf import CountedFile
from bridge.protocols import webvtt

# What is said may reach back over so many files: a minute of them where a new one begins every second.
_MOST_RECORDINGS = 64
# What a service tells late stands before so many cues at most.
_MOST_MOVED = 16

log = structlog.get_logger()


class Transcripts:
    """Follows the recordings of one attempt of an output. A file is made with the first words that belong into it.

    n_failed  utterances that could not be written. The recordings go on, and the next utterance is tried again.
    """

    def __init__(self) -> None:
        self.n_failed = 0
        self._recordings: deque[_Beside] = deque(maxlen=_MOST_RECORDINGS)

    def begin(self, recording: Path, begins_ns: int) -> None:
        """A recording begins with the picture of that session time, and the one before it ends."""
        if self._recordings:
            self._recordings[-1].ends_ns = begins_ns
        self._recordings.append(_Beside(recording, begins_ns))

    def write(self, utterances: Iterable[Utterance]) -> None:
        """Each into all files during which it sounds. Never raises OSError: the first one is logged."""
        for utterance in utterances:
            try:
                for recording in self._recordings:
                    recording.write(utterance)
            except OSError as error:
                self.n_failed += 1
                if self.n_failed == 1:
                    log.error("transcript_failed", path=str(error.filename or ""), error=error.strerror)


class _Beside:
    """The transcript of one recording; `ends_ns` None: it goes on."""

    def __init__(self, recording: Path, begins_ns: int) -> None:
        self.begins_ns = begins_ns
        self.ends_ns: int | None = None
        self._lines = _Text(recording, ".jsonl")
        self._cues = _Text(recording, ".vtt", webvtt.HEADER.encode())
        self._newest: deque[tuple[int, bytes]] = deque(maxlen=_MOST_MOVED)

    def write(self, utterance: Utterance) -> None:
        """Raises OSError."""
        if (part := utterance.within(self.begins_ns, self.ends_ns)) is None:
            return
        self._lines.put(_line(part))
        for cue in webvtt.cues(utterance):
            if (part := cue.within(self.begins_ns, self.ends_ns)) is not None:
                self._put_cue(part)

    def _put_cue(self, cue: Utterance) -> None:
        """Cues stand in the order of their beginnings (WebVTT §4.1): what was told late goes before later ones."""
        later = list(takewhile(lambda newer: newer[0] > cue.begins_ns, reversed(self._newest)))[::-1]
        blocks = [(cue.begins_ns, webvtt.block(cue)), *later]
        self._cues.put(b"".join(block for _, block in blocks), sum(len(block) for _, block in later))
        for _ in later:
            self._newest.pop()
        self._newest.extend(blocks)


class _Text:
    """A file that is made with its first words, has the recording's name, and grows."""

    def __init__(self, recording: Path, suffix: str, header: bytes = b"") -> None:
        self._names = (recording.with_suffix(suffix), recording.with_name(recording.name + suffix))
        self._header = header
        self._path: Path | None = None

    def put(self, content: bytes, n_replaced: int = 0) -> None:
        """At the end, in the place of the last so many bytes. Raises OSError; then as if nothing had been tried."""
        if self._path is None:
            self._make(self._header + content)
            return
        with CountedFile(self._path, "r+b") as file:
            end = file.seek(-n_replaced, os.SEEK_END)
            kept = file.read(n_replaced)
            file.seek(end)
            _write_or_undo(file, content, end, kept)

    def _make(self, content: bytes) -> None:
        for path in self._names:
            # What is there stays: the recording may have another extension than one of the same name.
            with suppress(FileExistsError), CountedFile(path, "xb") as file:
                try:
                    file.write(content)
                except OSError as error:
                    path.unlink()
                    raise OSError(error.errno, error.strerror, str(path)) from None
                self._path = path
                return
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self._names[-1]))


def _write_or_undo(file: CountedFile, content: bytes, end: int, kept: bytes) -> None:
    try:
        file.write(content)
    except OSError as error:
        # In this order, because what stands on the disk can be overwritten without any room.
        file.seek(end)
        file.write(kept)
        file.truncate()
        raise OSError(error.errno, error.strerror, str(file.name)) from None


def _line(utterance: Utterance) -> bytes:
    said = {
        "begins_s": round(utterance.begins_ns / NS_PER_S, 3),
        "ends_s": round(utterance.ends_ns / NS_PER_S, 3),
        "speaker": utterance.speaker,
        "name": utterance.name,
        "text": utterance.text,
        **({"is_cut": True} if utterance.is_cut else {}),
    }
    # ASCII: halves of surrogate pairs, which a service's JSON can hold, are no UTF-8.
    return json.dumps(said).encode() + b"\n"
