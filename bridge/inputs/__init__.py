"""Stage 1, hearing: `open_source` finds the source for a URL."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.config import ClipConfig, InputConfig
from bridge.errors import ConfigError
from bridge.inputs.runner import RetryingSource
from bridge.net.url_policy import UrlPolicy
from bridge.ports import AudioSource, OpenReception
from bridge.protocols import input_urls, pcm_url

if TYPE_CHECKING:
    from bridge.net.clips import Clip
    from bridge.net.ice import IceSettings

__all__ = ["open_clip", "open_source"]

# Below storage.dir: what was rendered is kept, by a name made of what was ordered.
CLIPS_DIR = "clips"


def open_clip(config: ClipConfig, storage_dir: Path, policy: UrlPolicy, path: Path | None = None) -> "Clip":
    """A clip that is rendered when it is fetched, unless it is there; it is kept at `path`. Raises ConfigError."""
    from bridge.net.clips import Clip, ClipService

    service = ClipService(
        config.url.reveal(),
        config.license_key,
        policy,
        status_url=config.status_url.reveal() if config.status_url else None,
        deadline_s=config.deadline_s,
        max_bytes=config.max_size,
    )
    try:
        order = config.order()
    except OSError as error:
        raise ConfigError(f"cannot read {config.audio_file}: {error.strerror}") from None
    return Clip(service, order, path or storage_dir / CLIPS_DIR / f"{order.digest}.mp4")


def open_source(
    name: str,
    config: InputConfig,
    base_dir: Path,
    policy: UrlPolicy,
    ice: "IceSettings",
    open_reception: OpenReception,
    *,
    is_strange: bool = False,
) -> AudioSource:
    """The source that `config.url` names; nothing is opened before it runs.

    base_dir             what relative paths in URLs are relative to.
    policy               says where servers may lead us besides public hosts.
    ice, open_reception  for WebRTC publishers: how they are reached, and what makes units of their packets.
    is_strange           the configuration did not come from the operator's file: the policy judges its URL at every
                         attempt.

    Raises ConfigError for what no input can be.
    """
    try:
        return _open(name, config, base_dir, policy, ice, open_reception, is_strange)
    except ConfigError as error:
        raise ConfigError(f"input {name}: {error}") from None


def _open(
    name: str,
    config: InputConfig,
    base_dir: Path,
    policy: UrlPolicy,
    ice: "IceSettings",
    open_reception: OpenReception,
    is_strange: bool,
) -> AudioSource:
    # Each kind brings what it needs only where it is used: libav, HTTP, WebRTC.
    url = config.url.reveal()
    named = input_urls.local_path(url)
    # Without this, a path over `..` would need the directory that it leaves to exist.
    path = Path(os.path.normpath(base_dir / named)) if named is not None else None
    match url.partition(":")[0]:
        case "file":
            from bridge.inputs.file import FileSource
            from bridge.protocols.playlist import SUFFIXES

            assert path is not None
            if path.suffix.lower() not in SUFFIXES:
                return FileSource(name, path, loop=config.loop, start_s=config.start_s)
            from bridge.inputs.http import HttpSource
            from bridge.inputs.playlist import PlaylistFile

            def open_url(url: str, start_s: float) -> AudioSource:
                return HttpSource(name, url, policy, is_strange=True, start_s=start_s, may_be_playlist=False)

            return RetryingSource(PlaylistFile(name, path, open_url, loop=config.loop, start_s=config.start_s))
        case "http" | "https":
            from bridge.inputs.http import HttpSource

            return RetryingSource(
                HttpSource(name, url, policy, is_strange=is_strange, loop=config.loop, start_s=config.start_s)
            )
        case "rtsp" | "rtmp":
            from bridge.inputs.stream import StreamSource

            return RetryingSource(StreamSource(name, url, policy, is_strange=is_strange))
        case "sdp":
            from bridge.inputs.sdp import SdpSource

            assert path is not None
            return RetryingSource(SdpSource(name, path, policy, is_strange=is_strange))
        case "clip":
            from bridge.inputs.clip import ClipSource

            assert config.rendering is not None
            clip = open_clip(config.rendering, base_dir, policy)
            return ClipSource(name, clip, loop=config.loop, start_s=config.start_s)
        case "alsa" | "pulse":
            from bridge.inputs.device import DeviceSource

            return RetryingSource(DeviceSource(name, pcm_url.parse_device(url)))
        case "pcm":
            from bridge.inputs.pcm import PcmSource

            parsed = pcm_url.parse_url(url)
            return RetryingSource(PcmSource(name, path, parsed.format, is_live=parsed.is_live))
        case "whip":
            from bridge.inputs.whip import WhipSource

            return WhipSource(name, ice, open_reception)
        case "ws":
            from bridge.inputs.websocket import WebSocketSource

            return WebSocketSource(name, pcm_url.parse_listening_url(url))
        case "tone" | "silence":
            from bridge.inputs.tone import ToneSource

            return ToneSource(name, input_urls.tone_hz(url))
        case scheme:
            raise ConfigError(f"{scheme}: is no kind of input")
