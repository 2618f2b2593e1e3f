"""Any audio source, as AudioBlocks: `open_source` finds the right one for a URL."""

import os
from pathlib import Path

from bridge.config import InputConfig
from bridge.errors import ConfigError
from bridge.inputs.file import FileSource
from bridge.ports import AudioSource

__all__ = ["open_source"]


def open_source(name: str, config: InputConfig, base_dir: Path) -> AudioSource:
    """The source that `config.url` names; nothing is opened before it runs.

    base_dir  what a relative path in a `file:` URL is relative to.

    Raises ConfigError for a scheme that no input has.
    """
    scheme, _, rest = config.url.reveal().partition(":")
    match scheme.lower():
        case "file":
            # Without this, a path over `..` would need the directory that it leaves to exist.
            path = Path(os.path.normpath(base_dir / _local_path(rest)))
            return FileSource(name, path, loop=config.loop)
    raise ConfigError(f"input {name}: {scheme}: is no kind of input; there is file:PATH")


def _local_path(rest: str) -> str:
    """Path of `file:PATH`, `file:/PATH` or `file:///PATH` (RFC 8089); taken literally, % has no meaning in it."""
    return rest.removeprefix("//") if rest.startswith("///") else rest
