"""Stage 1, hearing: `open_source` finds the source for a URL."""

import os
from pathlib import Path

from bridge.config import InputConfig
from bridge.errors import ConfigError
from bridge.ports import AudioSource
from bridge.protocols import input_urls

__all__ = ["open_source"]


def open_source(name: str, config: InputConfig, base_dir: Path) -> AudioSource:
    """The source that `config.url` names; nothing is opened before it runs.

    base_dir  what relative paths in URLs are relative to.

    Raises ConfigError for what no input can be.
    """
    try:
        return _open(name, config, base_dir)
    except ConfigError as error:
        raise ConfigError(f"input {name}: {error}") from None


def _open(name: str, config: InputConfig, base_dir: Path) -> AudioSource:
    # Each kind brings what it needs only where it is used: libav, HTTP.
    url = config.url.reveal()
    named = input_urls.local_path(url)
    # Without this, a path over `..` would need the directory that it leaves to exist.
    path = Path(os.path.normpath(base_dir / named)) if named is not None else None
    match url.partition(":")[0]:
        case "file":
            from bridge.inputs.file import FileSource
            from bridge.inputs.playlist import PlaylistFile
            from bridge.protocols.playlist import SUFFIXES

            assert path is not None
            kind = PlaylistFile if path.suffix.lower() in SUFFIXES else FileSource
            return kind(name, path, loop=config.loop, start_s=config.start_s)
        case "pcm":
            from bridge.inputs.pcm import PcmSource
            from bridge.inputs.runner import RetryingSource
            from bridge.protocols import pcm_url

            parsed = pcm_url.parse_url(url)
            return RetryingSource(PcmSource(name, path, parsed.format, is_live=parsed.is_live))
        case "tone" | "silence":
            from bridge.inputs.tone import ToneSource

            return ToneSource(name, input_urls.tone_hz(url))
        case scheme:
            raise ConfigError(f"{scheme}: is no kind of input")
