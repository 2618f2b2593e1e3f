"""Playlists: several sources, one after the other."""

import errno
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from bridge.errors import SourceError, SourceLost, SourceRejected
from bridge.inputs.decoding import EndsBeforeStart
from bridge.inputs.file import FileSource
from bridge.media.audio import AudioBlock
from bridge.media.clock import NS_PER_S
from bridge.ports import AudioSource
from bridge.protocols import playlist
from bridge.redact import redact_url
from bridge.worker import Worker

# Opens an entry; `start_s` is where in it to begin. Raises SourceRejected.
OpenEntry = Callable[[str, float], AudioSource]


class Playlist:
    """Plays entries in turn, without a gap; one that cannot be played is skipped with a warning.

    loop     starts over at the end, for ever.
    start_s  where in the whole list it begins, as if it were one file; a loop starts over at the beginning.
    """

    is_live = False

    def __init__(
        self,
        name: str,
        label: str,
        entries: Sequence[str],
        open_entry: OpenEntry,
        *,
        loop: bool = False,
        start_s: float = 0.0,
    ) -> None:
        """`label` is how errors call the list."""
        self.name = name
        self._label = label
        self._entries = entries
        self._open_entry = open_entry
        self._loop = loop
        self._start_s = start_s
        self._end_ns = 0
        self._log = structlog.get_logger().bind(input=name)

    async def run(self, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        """Deliver. Raises SourceRejected when no entry can be played, SourceLost at the end if one was lost."""
        self._end_ns, to_skip_s = 0, self._start_s
        while True:
            before_ns, lost = self._end_ns, None
            for entry in self._entries:
                try:
                    await self._play(self._open_entry(entry, to_skip_s), emit)
                    to_skip_s = 0.0
                except EndsBeforeStart as end:
                    to_skip_s -= end.duration_s
                except SourceError as error:
                    self._log.warning("playlist_entry_skipped", error=str(error))
                    lost = error if isinstance(error, SourceLost) else lost
            if lost is not None:
                # Stations often list several servers: there is nothing behind the last one but the first again.
                raise lost
            if self._end_ns == before_ns:
                raise SourceRejected(f"{self._label} holds no entry that can be played")
            if not self._loop:
                return

    async def _play(self, source: AudioSource, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        start_ns = self._end_ns

        async def take(block: AudioBlock) -> None:
            moved = replace(block, pts_ns=start_ns + block.pts_ns)
            await emit(moved)
            self._end_ns = moved.pts_ns + round(block.duration_s * NS_PER_S)

        await source.run(take)


class PlaylistFile:
    """Plays a playlist that is a file, read anew at each run. Paths in it are relative to where it lies.

    HLS, which has the same suffix and holds one stream in pieces, is left to FFmpeg: pieces that are files are played.

    open_url  opens an entry that is an http or https URL.
    """

    is_live = False

    def __init__(self, name: str, path: Path, open_url: OpenEntry, *, loop: bool = False, start_s: float = 0.0) -> None:
        self.name = name
        self._path = path
        self._open_url = open_url
        self._loop = loop
        self._start_s = start_s

    async def run(self, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        """Deliver. Raises SourceRejected."""
        async with Worker(f"read {self.name}") as worker:
            try:
                text = playlist.decode_text(await worker.call(_read, self._path))
            except OSError as error:
                raise SourceRejected(f"{self._label} cannot be read ({error.strerror})") from None
        source: AudioSource
        if playlist.is_hls(text):
            source = FileSource(self.name, self._path, loop=self._loop, start_s=self._start_s)
        else:
            entries = playlist.parse_playlist(text)
            source = Playlist(self.name, self._label, entries, self._open_entry, loop=self._loop, start_s=self._start_s)
        await source.run(emit)

    def _open_entry(self, entry: str, start_s: float) -> AudioSource:
        scheme = entry.partition("://")[0].lower() if "://" in entry else "file"
        if scheme in ("http", "https"):
            return self._open_url(entry, start_s)
        if scheme != "file":
            raise SourceRejected(f"{self._label} names {redact_url(entry)}, which is neither a file nor http(s):")
        path = self._path.parent / entry.removeprefix("file://")
        return FileSource(self.name, path, start_s=start_s)

    @property
    def _label(self) -> str:
        return f"input {self.name}: {self._path}"


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(playlist.MAX_PLAYLIST_BYTES + 1)
    if len(content) > playlist.MAX_PLAYLIST_BYTES:
        raise OSError(errno.EFBIG, "it has more than 1 MiB, so it is no playlist")
    return content
