"""ICY: what SHOUTcast and Icecast put between the bytes of a stream, and into its first line."""

from collections.abc import Mapping

# The first answer line of SHOUTcast 1, which is otherwise HTTP/1.0.
STATUS_LINE, HTTP_STATUS_LINE = b"ICY ", b"HTTP/1.0 "
# A length byte counts 16 bytes each.
_UNIT_BYTES = 16


def is_station(headers: Mapping[str, str]) -> bool:
    """Whether an answer's headers, in lower case, are those of a station: it has no end, only losses."""
    return any(name.startswith("icy-") for name in headers)


def metadata_interval(headers: Mapping[str, str]) -> int:
    """Bytes between two titles; 0: there are none. Nobody asks for titles, and some send them all the same."""
    text = headers.get("icy-metaint", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


class TitleStripper:
    """Takes the titles out of a stream, wherever its pieces end."""

    def __init__(self, interval: int) -> None:
        """interval: bytes of sound before each title, as `metadata_interval` gives it; 0: nothing is taken out."""
        self._interval = interval
        self._sound_left = interval
        self._title_left = 0

    def push(self, piece: bytes) -> bytes:
        """The sound in a piece."""
        if not self._interval:
            return piece
        sound = b""
        while piece:
            if self._title_left:
                skipped = min(self._title_left, len(piece))
                self._title_left -= skipped
                piece = piece[skipped:]
            elif self._sound_left:
                sound += piece[: self._sound_left]
                taken = min(self._sound_left, len(piece))
                self._sound_left -= taken
                piece = piece[taken:]
            else:
                self._title_left = piece[0] * _UNIT_BYTES
                self._sound_left = self._interval
                piece = piece[1:]
        return sound
