"""Playlists: M3U, in UTF-8 or Latin-1, and PLS."""

import re
from collections.abc import Sequence

# RFC 8216: a playlist of segments is no list of things to play one after the other.
_HLS = re.compile(r"^#EXT-X-", re.MULTILINE)
_PLS_ENTRY = re.compile(r"file(\d{1,6})\s*=\s*(.+)", re.IGNORECASE)
# One that is longer is no playlist, or nobody's.
MAX_PLAYLIST_BYTES = 1 << 20
MAX_ENTRIES = 10_000

SUFFIXES = (".m3u", ".m3u8", ".pls")
# Their media types; the vendors' HLS ones may be plain lists all the same.
MEDIA_TYPES = (
    *("audio/x-mpegurl", "audio/mpegurl", "application/x-mpegurl", "application/vnd.apple.mpegurl"),
    *("audio/x-scpls", "application/pls+xml"),
)


def is_hls(text: str) -> bool:
    return bool(_HLS.search(text))


def decode_text(content: bytes) -> str:
    """What old players write in Latin-1 does not read as UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def parse_playlist(text: str) -> Sequence[str]:
    """The entries of an M3U or a PLS, paths or URLs as they stand there, in the order in which they are played."""
    lines = [line.strip() for line in text.splitlines()]
    if any(line.lower() == "[playlist]" for line in lines[:20]):
        numbered = {int(match[1]): match[2].strip() for line in lines if (match := _PLS_ENTRY.fullmatch(line))}
        return [numbered[number] for number in sorted(numbered)][:MAX_ENTRIES]
    return [line for line in lines if line and not line.startswith("#")][:MAX_ENTRIES]
