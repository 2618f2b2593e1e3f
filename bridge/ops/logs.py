"""Logging: console on a terminal, JSON lines otherwise; secrets masked, repetitions summed up, libraries tamed.

Modules write `structlog.get_logger().warning("event_name", field=value)`; session and output are bound once. What
libraries send to `logging` takes the same way out.
"""

import asyncio
import contextlib
import json
import logging
import math
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

from bridge.redact import mask

Level = Literal["debug", "info", "warning", "error"]

# A stream of one warning becomes one line in this time.
REPEAT_WINDOW_S = 1.0

# For whoever reads the lines as they are.
_FIRST_KEYS = ("timestamp", "level", "event", "session", "output")

_EVENT_NAME = re.compile(r"[a-z]+(_[a-z]+)*")

# Chatty at info and below, about things the bridge reports itself. libav is silent unless asked (PyAV's default).
_TAMED = ("aiortc", "aioice", "websockets", "libav", "uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "httpx")


def configure_logging(
    level: Level = "info", format: Literal["auto", "console", "json"] = "auto", stream: TextIO | None = None
) -> None:
    """Set up logging for the process. `stream`: standard error unless given."""
    stream = stream or sys.stderr
    is_console = format == "console" or (format == "auto" and stream.isatty())
    repeated = RepeatedWarnings(write=_writer(stream, is_console))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if is_console else "iso", utc=not is_console),
            structlog.processors.format_exc_info,
            mask_secrets,
            repeated,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    logging.root.handlers = [_ToStructlog()]
    logging.root.setLevel(logging.WARNING)
    for name in _TAMED:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


def _writer(stream: TextIO, is_console: bool) -> Callable[[EventDict], None]:
    """What puts one event on one line of `stream`."""
    console = structlog.dev.ConsoleRenderer(
        colors=is_console and stream.isatty(), exception_formatter=structlog.dev.plain_traceback
    )

    def render(event: EventDict) -> str:
        if is_console:
            return console(None, "", event)
        first = {key: event[key] for key in _FIRST_KEYS if key in event}
        return json.dumps({**first, **event}, ensure_ascii=False)

    def write(event: EventDict) -> None:
        # A broadcast does not end because nobody reads its log any more.
        with contextlib.suppress(OSError):
            stream.write(f"{render(event)}\n")
            stream.flush()

    return write


class _ToStructlog(logging.Handler):
    """Hands what libraries log to structlog, under the library's name."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger().bind(logger=record.name)
        try:
            message = record.getMessage()
        except Exception:
            # The library's mistake must not strike it where it logs; `handleError` would print its values unmasked.
            log.exception("log_record_unreadable", origin=f"{record.filename}:{record.lineno}")
            return
        # structlog knows the usual levels only.
        level = min(record.levelno // 10 * 10, logging.CRITICAL)
        log.log(max(level, logging.DEBUG), message, exc_info=record.exc_info)


def mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Make every value text, a number, a truth or nothing, with the secrets in it hidden.

    The names of events and fields stand in the program, and so does the level: a secret that happens to be such a word
    or part of it shows nothing there.
    """
    return {key: value if _is_ours(key, value, event) else _masked(value) for key, value in event.items()}


def _is_ours(key: str, value: Any, event: EventDict) -> bool:
    if key == "event":
        # What a library says is under its name.
        return "logger" not in event and isinstance(value, str) and _EVENT_NAME.fullmatch(value) is not None
    return key in ("timestamp", "level")


def _masked(value: Any) -> Any:
    match value:
        case None | bool() | int():
            return value
        case float() if math.isfinite(value):  # JSON knows no others
            return value
        case str():
            return mask(value)
        case dict():
            return {mask(str(key)): _masked(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_masked(item) for item in value]
        case BaseException():
            return mask(str(value) or type(value).__name__)
        case _:
            return mask(str(value))


@dataclass(slots=True)
class _Window:
    ends_s: float
    count: int = 0
    last: EventDict = field(default_factory=dict)


class RepeatedWarnings:
    """The last processor: writes events, and of a warning that comes again and again one line per window.

    Two warnings are the same when event, session and output are. The first is written at once; those of the next
    `REPEAT_WINDOW_S` are counted, and the last of them is written when it is over, with `repeated` telling how many.
    """

    def __init__(self, write: Callable[[EventDict], None], now_s: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._now_s = now_s
        # Events are code, sessions and outputs are configured: the number of keys is bounded.
        self._windows: dict[tuple[Any, ...], _Window] = {}
        self._lock = threading.RLock()

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        with self._lock:
            # A thread has no loop to set a timer on: whoever logs next closes its windows.
            self.write_overdue()
            self._take(event)
        # Everything is written by now; this keeps structlog from handing it on.
        raise structlog.DropEvent

    def write_overdue(self) -> None:
        """Close the windows that are over."""
        with self._lock:
            now_s = self._now_s()
            for key, window in list(self._windows.items()):
                if window.ends_s > now_s:
                    continue
                del self._windows[key]
                if window.count:
                    self._write({**window.last, "repeated": window.count})
                    self._open(key)

    def _take(self, event: EventDict) -> None:
        if event.get("level") != "warning":
            self._write(event)
            return
        key = (event.get("event"), event.get("session"), event.get("output"), event.get("logger"))
        window = self._windows.get(key)
        if window is None:
            self._write(event)
            self._open(key)
        else:
            window.count += 1
            window.last = event

    def _open(self, key: tuple[Any, ...]) -> None:
        self._windows[key] = _Window(self._now_s() + REPEAT_WINDOW_S)
        try:
            asyncio.get_running_loop().call_later(REPEAT_WINDOW_S, self.write_overdue)
        except RuntimeError:
            pass  # no loop in this thread
