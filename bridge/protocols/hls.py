"""HLS playlists (RFC 8216): the newest segments of a live stream, and what they are made of."""

import math
import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bridge.errors import RemoteProtocolError

# RFC 8216 §7: EXT-X-MAP in a playlist of more than I-frames needs 6, and EXT-X-INDEPENDENT-SEGMENTS adds nothing.
VERSION = 7
# §6.2.2: a live playlist has at least three target durations.
_FEWEST_TARGETS = 3


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the stream in a file of its own.

    uri, init_uri     its file, and that of the header which it needs, relative to the playlist.
    starts            the time of day of its first picture.
    is_discontinuity  coded otherwise than the one before, or on another clock.
    """

    uri: str
    init_uri: str
    duration_s: float
    starts: datetime
    is_discontinuity: bool = False


class MediaPlaylist:
    """The segments of the last `window_s` seconds, and the duration that none of them exceeds.

    Longer segments than `target_s` raise it: the alternative would be not to show them.
    """

    def __init__(self, window_s: float, target_s: float, sequence: int = 0, discontinuity_sequence: int = 0) -> None:
        self.window_s = window_s
        self.target_s = _rounded(target_s)
        self.sequence = sequence
        self.discontinuity_sequence = discontinuity_sequence
        self.segments: deque[Segment] = deque()
        self.expired: deque[Segment] = deque()
        self.is_ended = False

    @property
    def next_sequence(self) -> int:
        return self.sequence + len(self.segments)

    @property
    def ends(self) -> datetime | None:
        """When the last segment ends, by the time of day."""
        if not self.segments:
            return None
        return self.segments[-1].starts + timedelta(seconds=self.segments[-1].duration_s)

    def append(self, segment: Segment) -> list[Segment]:
        """Those that no player reads any more: gone from the playlist for as long as the playlist is (§6.2.2)."""
        self.segments.append(segment)
        self.target_s = max(self.target_s, _rounded(segment.duration_s))
        shown_s = max(self.window_s, _FEWEST_TARGETS * self.target_s)
        while _duration_s(self.segments) - self.segments[0].duration_s >= shown_s:
            self._expire(self.segments.popleft())
        gone: list[Segment] = []
        while self.expired and _duration_s(self.expired) - self.expired[0].duration_s >= shown_s:
            gone.append(self.expired.popleft())
        return gone

    def forget(self) -> None:
        """Leave out all segments; those to come follow on them."""
        while self.segments:
            self._expire(self.segments.popleft())

    def text(self) -> str:
        lines = [
            "#EXTM3U",
            f"#EXT-X-VERSION:{VERSION}",
            f"#EXT-X-TARGETDURATION:{self.target_s}",
            f"#EXT-X-MEDIA-SEQUENCE:{self.sequence}",
            f"#EXT-X-DISCONTINUITY-SEQUENCE:{self.discontinuity_sequence}",
            "#EXT-X-INDEPENDENT-SEGMENTS",
        ]
        init_uri = ""
        for segment in self.segments:
            if segment.is_discontinuity:
                lines.append("#EXT-X-DISCONTINUITY")
            if segment.init_uri != init_uri:
                init_uri = segment.init_uri
                lines.append(f'#EXT-X-MAP:URI="{init_uri}"')
            starts = segment.starts.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3]
            lines += [f"#EXT-X-PROGRAM-DATE-TIME:{starts}Z", f"#EXTINF:{segment.duration_s:.5f},", segment.uri]
        return "\n".join([*lines, *(["#EXT-X-ENDLIST"] if self.is_ended else []), ""])

    def _expire(self, segment: Segment) -> None:
        self.sequence += 1
        self.discontinuity_sequence += segment.is_discontinuity
        self.expired.append(segment)


def parse(text: str, window_s: float, target_s: float) -> MediaPlaylist:
    """A playlist that `MediaPlaylist.text` has written. Raises RemoteProtocolError for any other."""
    values = dict(re.findall(r"^#EXT-X-([A-Z-]+):(\d+)$", text, re.MULTILINE))
    try:
        sequence, discontinuity_sequence = int(values["MEDIA-SEQUENCE"]), int(values["DISCONTINUITY-SEQUENCE"])
        playlist = MediaPlaylist(
            window_s, max(target_s, float(values["TARGETDURATION"])), sequence, discontinuity_sequence
        )
        playlist.segments.extend(_segments(text.splitlines()))
    except (KeyError, ValueError) as error:
        raise RemoteProtocolError(f"is no playlist of ours: {error}") from None
    playlist.is_ended = text.endswith("#EXT-X-ENDLIST\n")
    return playlist


def _segments(lines: Iterable[str]) -> Iterable[Segment]:
    tags: dict[str, str] = {}
    for line in lines:
        if line.startswith("#"):
            tag, _, value = line.partition(":")
            tags[tag] = value
        elif line:
            yield Segment(
                line,
                tags["#EXT-X-MAP"].removeprefix('URI="').removesuffix('"'),
                float(tags.pop("#EXTINF").removesuffix(",")),
                datetime.fromisoformat(tags["#EXT-X-PROGRAM-DATE-TIME"]),
                tags.pop("#EXT-X-DISCONTINUITY", None) is not None,
            )


def master_playlist(uri: str, *, peak_bps: float, codecs: str, width_px: int, height_px: int, fps: float) -> str:
    """The playlist that names the only one there is (§4.3.4.2), and what a player has to be able to decode."""
    attributes = (
        f"BANDWIDTH={math.ceil(peak_bps)}",
        f'CODECS="{codecs}"',
        f"RESOLUTION={width_px}x{height_px}",
        f"FRAME-RATE={fps:.3f}",
    )
    head = ("#EXTM3U", f"#EXT-X-VERSION:{VERSION}", "#EXT-X-INDEPENDENT-SEGMENTS")
    return "\n".join([*head, f"#EXT-X-STREAM-INF:{','.join(attributes)}", uri, ""])


def _rounded(duration_s: float) -> int:
    """§4.3.3.1: to the nearest second, and up where there are two."""
    return math.floor(duration_s + 0.5)


def _duration_s(segments: Iterable[Segment]) -> float:
    return sum(segment.duration_s for segment in segments)
