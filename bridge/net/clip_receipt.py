"""What is known of a clip that is ordered and not yet there: kept beside its place, so that the next start goes on."""

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

import structlog

from bridge.atomic_file import replace_file
from bridge.errors import RemoteProtocolError
from bridge.protocols.navtalk_clips import Task, dump_task, parse_task

# The documents do not say how long a service knows a task. Signed addresses of clouds last a day as a rule, and what is
# not rendered by then never will be.
MOST_AGE_S = 86_400.0
# A task is two names and an address.
_MOST_BYTES = 16 * 1024

log = structlog.get_logger()


class Receipt:
    """Of what was `ordered`, a text that tells orders apart, for the clip at a path. Its methods block.

    task  as the service answered the order; None: nothing is known to be ordered.

    The file holds a digest of `ordered` and the task as JSON, a line each; it is replaced as a whole, with mode 0600.
    Of another order, damaged, or older than a day, it counts for nothing.
    """

    def __init__(self, clip: Path, ordered: str) -> None:
        self.task: Task | None = None
        self._until = 0.0
        self._path = clip.with_name(f".{clip.name}.task")
        self._digest = hashlib.sha256(ordered.encode()).hexdigest()

    def load(self) -> None:
        """Read the file, unless the task is known; forget it when it is too old."""
        if self.task is not None and time.time() < self._until:
            return
        self.task = None
        with contextlib.suppress(OSError, UnicodeError, RemoteProtocolError), self._path.open("rb") as file:
            digest, _, task = file.read(_MOST_BYTES).decode().partition("\n")
            self._until = os.fstat(file.fileno()).st_mtime + MOST_AGE_S
            if digest == self._digest and time.time() < self._until:
                self.task = parse_task(task)

    def keep(self, task: Task) -> None:
        """Write it. A disk that refuses is logged: the order is known as long as this object lives."""
        self.task, self._until = task, time.time() + MOST_AGE_S
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._path, [f"{self._digest}\n{json.dumps(dump_task(task))}\n".encode()])
        except OSError as error:
            log.warning("clip_receipt_not_kept", path=str(self._path), error=error.strerror)

    def drop(self) -> None:
        """Forget it: the clip is there, or never will be."""
        self.task = None
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
