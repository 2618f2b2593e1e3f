"""What was said in a session's conversation, for the avatar service to be told again, and for a file."""

import asyncio
import contextlib
import json
import os
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import structlog

from bridge.atomic_file import replace_file
from bridge.errors import ConfigError
from bridge.worker import Worker

# A model remembers this much of a conversation with use; every item is a message of its own at each connection.
MAX_REPLAYED = 50
# Together they stay far below what a realtime model takes as context (16k tokens of some 4 characters).
MAX_REPLAYED_CHARACTERS = 16_000
# Two or three hours of talk. The whole file is written anew after each turn, which this size allows.
MAX_FILE_BYTES = 256 * 1024
# An item longer than any turn that is spoken is cut.
MAX_ITEM_CHARACTERS = 8_000
# A disk that takes longer for so small a file does not hold up the session's end.
LAST_SAVE_S = 2.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Item:
    """One turn; the names are those of the vendor's own page, which keeps its history in a browser."""

    role: Literal["user", "assistant"]
    content: str


class History:
    """The newest turns, oldest first. Of more than `MAX_FILE_BYTES` the oldest are forgotten.

    users  what users said, as far as it is replayed: the list stays the same object and is kept up to date.

    The file holds a JSON object per line, `{"role": "user", "content": "…"}`. After each turn of the avatar's it is
    replaced as a whole, with mode 0600.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.users: list[str] = []
        self._path = path
        self._items: deque[tuple[Item, int]] = deque()
        self._n_bytes = 0
        self._is_saved = True
        self._turn_ended = asyncio.Event()

    async def run(self) -> None:
        """Keep the file up to date until cancelled, and once more then; returns at once where there is none."""
        if self._path is None:
            return
        async with Worker("history") as worker:
            try:
                while True:
                    await self._turn_ended.wait()
                    self._turn_ended.clear()
                    await worker.call(self.save)
            finally:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LAST_SAVE_S):
                        await worker.call(self.save)

    def load(self) -> None:
        """Read the file, if there is one; blocks. Of a longer one than `MAX_FILE_BYTES` the last whole lines count.

        Raises ConfigError when it cannot be read or holds something else.
        """
        if self._path is None:
            return
        try:
            with self._path.open("rb") as file:
                n_surplus_bytes = file.seek(0, os.SEEK_END) - MAX_FILE_BYTES
                file.seek(max(0, n_surplus_bytes - 1))
                if n_surplus_bytes > 0:
                    file.readline(MAX_FILE_BYTES)  # the end of a line, or of the one before
                lines = file.read(MAX_FILE_BYTES).splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            raise ConfigError(f"avatar.history_file {self._path}: {error.strerror or error}") from None
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            item = _read(line)
            if item is None:
                of = f" of those in the last {MAX_FILE_BYTES} bytes" if n_surplus_bytes > 0 else ""
                raise ConfigError(
                    f'avatar.history_file {self._path}: line {number}{of} is no {{"role": "user" or "assistant",'
                    ' "content": TEXT}: mend or move the file'
                )
            self._append(item)

    def add(self, role: Literal["user", "assistant"], text: str) -> None:
        """Remember what was said, unless it is white space; what the avatar has said ends a turn."""
        if text.strip():
            self._append(Item(role, text[:MAX_ITEM_CHARACTERS]))
            self._is_saved = False
            if role == "assistant":
                self._turn_ended.set()

    def save(self) -> None:
        """Replace the file if there is something new; blocks. A disk that refuses is logged, and all goes on."""
        if self._path is None or self._is_saved:
            return
        self._is_saved = True  # beforehand: what is said while this writes is for the next time
        try:
            replace_file(self._path, [_write(item) for item, _ in list(self._items)])
        except OSError as error:
            self._is_saved = False
            log.warning("history_not_saved", path=str(self._path), error=error.strerror)

    def _append(self, item: Item) -> None:
        n_bytes = len(_write(item))
        self._items.append((item, n_bytes))
        self._n_bytes += n_bytes
        while self._n_bytes > MAX_FILE_BYTES:
            _, n_bytes = self._items.popleft()
            self._n_bytes -= n_bytes
        if item.role == "user":
            self.users.append(item.content)
            del self.users[:-MAX_REPLAYED]
            while sum(map(len, self.users)) > MAX_REPLAYED_CHARACTERS:
                del self.users[0]


def _read(line: bytes) -> Item | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.get("role") not in ("user", "assistant"):
        return None
    content = value.get("content")
    return Item(value["role"], content[:MAX_ITEM_CHARACTERS]) if isinstance(content, str) else None


def _write(item: Item) -> bytes:
    return json.dumps(asdict(item)).encode() + b"\n"
