"""How recordings are named: `NAME.(mp4|mkv|flv|ts)`, in which `{start:FORMAT}` stands for the start of the file."""

import re
from datetime import UTC, datetime
from pathlib import PurePath

from bridge.errors import ConfigError

SUFFIXES = (".mp4", ".mkv", ".flv", ".ts")

_START = re.compile(r"\{start:([^{}]*)\}")


def check_name(template: str) -> None:
    """Raises ConfigError for what is no name of a recording."""
    if PurePath(template).suffix not in SUFFIXES:
        raise ConfigError(f"file:{template} must end in {', '.join(SUFFIXES)}")
    if {"{", "}"} & set(_START.sub("", template)):
        raise ConfigError(f"file:{template}: only {{start:FORMAT}} can stand in braces, as in {{start:%Y%m%d}}")
    if not template.isprintable():
        raise ConfigError(f"file:{template!r} holds control characters")


def check_directory(name: str) -> None:
    """Raises ConfigError for what is no directory below the one that it is relative to."""
    path = PurePath(name)
    if not path.name or path.is_absolute() or ".." in path.parts:
        raise ConfigError(f"hls:{name} must be a directory below storage.dir: no absolute path and no ..")
    if {"{", "}"} & set(name) or not name.isprintable():
        raise ConfigError(f"hls:{name!r} holds braces or control characters")


def check_is_below(template: str) -> None:
    """Raises ConfigError for a name that leaves the directory it is relative to."""
    path = PurePath(name_at(template, datetime(2000, 1, 1, tzinfo=UTC)))
    if path.is_absolute() or ".." in path.parts:
        raise ConfigError(f"file:{template} must stay below storage.dir: no absolute path and no ..")


def name_at(template: str, start: datetime) -> str:
    """The name of a recording that starts then; FORMAT is that of strftime, in UTC."""
    return _START.sub(lambda match: start.astimezone(UTC).strftime(match[1]), template)
