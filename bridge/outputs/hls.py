"""HLS as files: fragmented MP4 in segments, and playlists, for any web server to serve."""

import fcntl
import os
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from bridge.errors import OutputLost, RemoteProtocolError
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_S
from bridge.media.h264 import is_same_format, parameter_sets, parse_sps
from bridge.outputs.recording import Container, Recording
from bridge.outputs.shelf import CountedFile, Take, make_directory
from bridge.protocols import hls

MASTER, MEDIA = "master.m3u8", "media.m3u8"
_PART = ".part"
_AAC_LC = "mp4a.40.2"  # RFC 6381 §3.3
# What is ours to delete: segments and headers of this run and of earlier ones, whole or not.
_OURS = re.compile(r"\d{8}T\d{6}Z-\d+\.(mp4|m4s)(\.part)?")
# Fragments of a second bound what the muxer holds, and what a crash can lose of a segment that is being written. Times
# are the session's in every segment, as no muxer would have it that has just begun.
_CONTAINER = Container(
    "mp4",
    Codec.AAC,
    {
        "movflags": "frag_keyframe+empty_moov+default_base_moof+frag_discont+skip_trailer",
        "frag_duration": "900000",
        "use_editlist": "0",
        "avoid_negative_ts": "disabled",
    },
)
# Segments follow one another by session time, whose pace is that of the avatar's clock: 200 ppm are 17 s a day.
_LARGEST_DRIFT = timedelta(seconds=1)

log = structlog.get_logger()


class _SegmentFile(CountedFile):
    """A segment that is being written; the header that the muxer puts before it stays here.

    starts  time of day of its first picture.
    """

    def __init__(self, path: Path, starts: datetime) -> None:
        super().__init__(path, "wb")
        self.starts = starts
        self.header = b""
        self._head: bytes | None = b""

    def write(self, data: bytes | memoryview, /) -> int:  # type: ignore[override]
        left: bytes | memoryview = data
        if self._head is not None:
            self._head += bytes(data)
            if (end := _end_of_header(self._head)) is None:
                return len(data)
            self.header, left, self._head = self._head[:end], self._head[end:], None
        super().write(left)
        return len(data)


class HlsShelf:
    """A stream in a directory: segments of some `segment_s`, each from a keyframe on, and playlists of `window_s`.

    Picture and sound stand in the same segments, on session time. A change of the picture's format is a discontinuity
    with a header of its own; parameter sets that merely change stand before their keyframes. Every file appears whole,
    under a name that was never used before. Where a stream in the directory was broken off, it goes on with a
    discontinuity; one that has ended is replaced by a new one.
    """

    audio_codec = Codec.AAC

    def __init__(self, top: Path, name: str, *, segment_s: float, keyframe_s: float, window_s: float) -> None:
        self.directory = top
        self.path = top / name / MEDIA
        self._folder = top / name
        self._window_s = window_s
        # A segment ends at the keyframe that is nearest to its time.
        self._target_s = segment_s + keyframe_s / 2
        self._lock: int | None = None
        self._playlist: hls.MediaPlaylist | None = None
        self._run = ""
        self._number = 0
        self._codec_config = b""
        self._init_uri = ""
        self._zero: datetime | None = None
        self._peak_bps = self._duration_s = 0.0
        self._n_pictures = 0
        self._master = ""

    def create(self, start: datetime) -> CountedFile:
        if self._playlist is None:
            self._playlist = self._resume(start)
            self._number = self._playlist.next_sequence
            log.info("hls_started", playlist=str(self._folder / MASTER), sequence=self._number)
        file = _SegmentFile(self._folder / f"{self._run}-{self._number}.m4s{_PART}", start)
        self._number += 1
        return file

    def record(self, file: CountedFile, keyframe: AccessUnit) -> Recording:
        return Recording(file, _CONTAINER, keyframe, zero_ns=0, is_in_band=True)

    def end(self, take: Take) -> None:
        take.close()
        file, recording = take
        assert isinstance(file, _SegmentFile) and self._playlist is not None
        part = Path(str(file.name))
        segment = part.with_suffix("")
        is_new_format = not is_same_format(self._codec_config, recording.codec_config)
        if is_new_format:
            self._codec_config = recording.codec_config
            self._init_uri = segment.with_suffix(".mp4").name
            self._n_pictures, self._duration_s = 0, 0.0
            self._write(self._init_uri, file.header)
        os.replace(part, segment)
        duration_s = (recording.ends_ns - recording.begins_ns) / NS_PER_S
        is_discontinuity = is_new_format and self._playlist.next_sequence > 0
        starts = self._time_of_day(recording.begins_ns, file.starts)
        gone = self._playlist.append(hls.Segment(segment.name, self._init_uri, duration_s, starts, is_discontinuity))
        self._write(MEDIA, self._playlist.text().encode())
        self._describe(file.bytes_total * 8, duration_s, recording)
        self._delete(gone)

    def finish(self, *, is_last: bool) -> None:
        try:
            if self._playlist is not None and is_last:
                self._playlist.is_ended = True
                self._write(MEDIA, self._playlist.text().encode())
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    # ------------------------------------------------------------------------------------- the stream before

    def _resume(self, start: datetime) -> hls.MediaPlaylist:
        make_directory(self._folder, self.directory)
        self._lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputLost(f"hls {self._folder}: another output writes there") from None
        self._run = start.strftime("%Y%m%dT%H%M%SZ")
        playlist = self._before()
        is_old = playlist.ends is None or start - playlist.ends > timedelta(seconds=self._window_s)
        if playlist.is_ended or is_old:
            playlist.forget()
            playlist.is_ended = False
        kept = {uri for segment in playlist.segments for uri in (segment.uri, segment.init_uri)}
        playlist.expired.clear()
        for name in os.listdir(self._folder):
            if _OURS.fullmatch(name) and name not in kept:
                (self._folder / name).unlink()
        return playlist

    def _before(self) -> hls.MediaPlaylist:
        """The playlist that is there."""
        try:
            return hls.parse(self.path.read_text(), self._window_s, self._target_s)
        except FileNotFoundError:
            pass
        except (RemoteProtocolError, UnicodeDecodeError) as error:
            log.warning("hls_playlist_replaced", playlist=str(self.path), error=str(error))
        return hls.MediaPlaylist(self._window_s, self._target_s)

    # ------------------------------------------------------------------------------------- what players read

    def _time_of_day(self, begins_ns: int, starts: datetime) -> datetime:
        since_zero = timedelta(microseconds=begins_ns // 1_000)
        if self._zero is None or abs(starts - self._zero - since_zero) > _LARGEST_DRIFT:
            self._zero = starts - since_zero
        return self._zero + since_zero

    def _describe(self, n_bits: int, duration_s: float, recording: Recording) -> None:
        """Bring the master playlist up to date."""
        self._peak_bps = max(self._peak_bps, n_bits / duration_s)
        self._n_pictures += recording.n_pictures
        self._duration_s += duration_s
        (sps, *_), _ = parameter_sets(recording.codec_config)
        video = parse_sps(sps)
        master = hls.master_playlist(
            MEDIA,
            peak_bps=self._peak_bps,
            codecs=f"avc1.{recording.codec_config[1:4].hex()},{_AAC_LC}",
            width_px=video.width_px,
            height_px=video.height_px,
            fps=round(self._n_pictures / self._duration_s),
        )
        if master != self._master:
            self._write(MASTER, master.encode())
            self._master = master

    def _write(self, name: str, content: bytes) -> None:
        """Put a whole file in the place of what was there."""
        part = self._folder / f"{name}{_PART}"
        part.write_bytes(content)
        os.replace(part, self._folder / name)

    def _delete(self, gone: Iterable[hls.Segment]) -> None:
        assert self._playlist is not None
        needed = {segment.init_uri for segment in (*self._playlist.segments, *self._playlist.expired)}
        for uri in {uri for segment in gone for uri in (segment.uri, segment.init_uri)} - needed:
            # Those of an earlier run were read from a file, which may say anything.
            if _OURS.fullmatch(uri):
                (self._folder / uri).unlink(missing_ok=True)


def _end_of_header(head: bytes) -> int | None:
    """Where `moov` ends (ISO 14496-12 §8.2.1); None: it is not all there."""
    start = 0
    while start + 8 <= len(head):
        end = start + int.from_bytes(head[start : start + 4], "big")
        if end > len(head):
            return None
        if head[start + 4 : start + 8] == b"moov":
            return end
        start = end
    return None
