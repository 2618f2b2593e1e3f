"""Stage 6, publishing: `open_output` turns a configured output into what its runner opens for every attempt."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from bridge.config import MAX_VIEWERS, OutputConfig, OverlayConfig, SlateConfig, StorageConfig
from bridge.errors import ConfigError
from bridge.media.clock import NS_PER_S
from bridge.ports import Output, Transcript
from bridge.presets import find_preset
from bridge.redact import Secret

if TYPE_CHECKING:
    from bridge.net.ice import IceSettings
    from bridge.net.url_policy import UrlPolicy
    from bridge.outputs.choice import PictureWants
    from bridge.outputs.overlay import OverlaySettings


def open_output(
    name: str,
    config: OutputConfig,
    storage: StorageConfig,
    ice: "IceSettings | None" = None,
    policy: "UrlPolicy | None" = None,
    transcript: Transcript | None = None,
    *,
    is_strange: bool = False,
) -> Callable[[], Output]:
    """What makes the connection, or the file, of each attempt at this output.

    `ice` is the program's, for WebRTC; `policy` says where a server may lead us besides public hosts; `transcript`:
    what is said, for a recording; `is_strange`: the configuration did not come from the operator's file, so its URL is
    judged by the policy at every attempt.

    Raises ConfigError, naming the output, if its URL cannot be used.
    """
    try:
        return _opener(name, config, storage, ice, policy, transcript, is_strange)
    except ConfigError as error:
        raise ConfigError(f"outputs.{name}: {error}") from None


def picture_wants(config: OutputConfig) -> "PictureWants":
    """What pictures this output is to get."""
    from bridge.outputs.choice import PictureWants
    from bridge.outputs.encoder import Profile

    # A recording goes on in another file when the size changes, HLS in another segment, and WebRTC's decoders follow;
    # a server that passes a broadcast on asks for one size, and for filler. Neither files nor WebRTC need keyframes.
    is_broadcast = config.scheme in ("rtmp", "rtmps", "srt")
    needs_keyframes = is_broadcast or config.scheme == "hls"
    preset = find_preset(config.preset) if config.preset else None
    # Baseline is what every WebRTC receiver decodes (RFC 7742 §6.2).
    profiles: tuple[Profile, ...] = (
        ("baseline", "main", "high") if config.is_whip or config.is_whep else ("main", "baseline", "high")
    )
    taken = preset.taken("video.profile", config.scheme) if preset else None
    most_px = [preset and preset.most(f"video.{side}_side_px", config.scheme) for side in ("long", "short")]
    return PictureWants(
        video=config.video,
        size=config.size,
        fit=config.fit,
        background=config.background.removeprefix("#"),
        fps=config.fps,
        bit_rate=config.bitrate,
        keyframe_s=config.keyframe_s,
        profiles=[profile for profile in profiles if taken is None or profile in taken],
        most_px=(most_px[0] or math.inf, most_px[1] or math.inf),
        is_constant=is_broadcast,
        needs_one_size=is_broadcast,
        # Twice, because a request or its keyframe may be lost on the way.
        longest_group_s=2 * config.keyframe_s if needs_keyframes else None,
        overlay=overlay_settings(config.overlay) if config.overlay else None,
        preset=preset,
        scheme=config.scheme,
        is_strict=config.strict,
    )


def check_slate(config: SlateConfig) -> None:
    """See that the operator's image or clip can be shown; decodes all of it. Raises ConfigError with key and file."""
    from bridge.outputs.slate import SlateMaker

    SlateMaker(config.picture, config.image, config.clip).check()


def overlay_settings(config: OverlayConfig) -> "OverlaySettings":
    """What is to be painted over an output's pictures."""
    from bridge.outputs.overlay import OverlaySettings

    return OverlaySettings(**{key: getattr(config, key) for key in OverlayConfig.model_fields})


def check_overlay(name: str, config: OutputConfig) -> None:
    """See that what is to be painted over an output's pictures can be read. Raises ConfigError with key and file."""
    if config.overlay is None:
        return
    from bridge.outputs.overlay import Overlay

    try:
        Overlay(overlay_settings(config.overlay), 1280, 720)
    except ConfigError as error:
        raise ConfigError(f"outputs.{name}: {error}") from None


def _opener(
    name: str,
    config: OutputConfig,
    storage: StorageConfig,
    ice: "IceSettings | None",
    policy: "UrlPolicy | None",
    transcript: Transcript | None,
    is_strange: bool,
) -> Callable[[], Output]:
    # Each kind brings what it needs only where it is used: libav, TLS, WebRTC.
    if config.scheme == "file":
        from bridge.outputs.container import ContainerOutput, Rotation
        from bridge.outputs.shelf import RecordingNames

        names = RecordingNames(storage.dir, config.address.reveal().partition(":")[2])
        after_ns = None if config.rotate_s is None else round(config.rotate_s * NS_PER_S)
        rotation = Rotation(after_ns=after_ns, after_bytes=config.rotate_bytes)
        return lambda: ContainerOutput(
            names,
            rotation,
            min_free_bytes=storage.min_free,
            keyframe_s=config.keyframe_s,
            transcript=transcript if config.transcript else None,
        )

    if config.scheme == "hls":
        from bridge.outputs.container import ContainerOutput, Rotation
        from bridge.outputs.hls import HlsShelf

        lengths = {"segment_s": config.segment_s, "keyframe_s": config.keyframe_s, "window_s": config.window_s}
        # The keyframe that is nearest to a segment's end ends it.
        rotation = Rotation(after_ns=round((config.segment_s - config.keyframe_s / 2) * NS_PER_S))
        return lambda: ContainerOutput(
            HlsShelf(storage.dir, config.address.reveal().partition(":")[2], **lengths),
            rotation,
            min_free_bytes=storage.min_free,
            keyframe_s=config.keyframe_s,
        )

    if config.is_whep:
        from bridge.net.ice import IceSettings
        from bridge.outputs.whep import WhepOutput

        return lambda: WhepOutput(
            name,
            ice or IceSettings(),
            max_viewers=config.max_viewers,
            keyframe_s=config.keyframe_s,
            ice_links=_ice_links(config, ice),
        )

    if config.is_whip:
        from bridge.net.ice import IceServer, IceSettings
        from bridge.outputs.whip import WhipOutput
        from bridge.outputs.whip_succession import Room

        room = Room()
        settings = ice or IceSettings()
        strange: tuple[IceServer, ...] = ()
        if config.ice_servers is not None:
            own = tuple(IceServer(s.urls, s.username or "", s.password) for s in config.ice_servers)
            own, strange = ((), own) if is_strange else (own, ())
            settings = replace(settings, servers=own)
        return lambda: WhipOutput(
            config.address.reveal(),
            config.bearer,
            settings,
            keyframe_s=config.keyframe_s,
            policy=policy,
            is_strange=is_strange,
            strange_ice_servers=strange,
            room=room,
        )

    if config.scheme == "srt":
        from bridge.outputs.srt import SrtOutput, find_program

        return partial(
            SrtOutput,
            config.address.reveal(),
            config.cipher_passphrase,
            program=find_program(),
            keyframe_s=config.keyframe_s,
            policy=policy,
            is_strange=is_strange,
        )

    from bridge.net.tls import Trust
    from bridge.outputs.rtmp import RtmpOutput, in_turn

    trust = Trust(config.tls_ca_file, config.tls_pin_sha256)

    def open_at(address: Secret) -> RtmpOutput:
        return RtmpOutput(
            address.reveal(),
            config.key,
            keyframe_s=config.keyframe_s,
            trust=trust,
            policy=policy,
            is_strange=is_strange,
            receivers=_receivers(address, config.key),
        )

    return in_turn([partial(open_at, address) for address in config.addresses])


def open_preview(name: str, ice: "IceSettings") -> Callable[[], Output]:
    """What makes the output that every session has for viewers, whether or not one comes."""
    from bridge.outputs.whep import WhepOutput

    links = _ice_links(None, ice)
    return lambda: WhepOutput(name, ice, max_viewers=MAX_VIEWERS, keyframe_s=None, ice_links=links)


def _ice_links(config: OutputConfig | None, ice: "IceSettings | None") -> list[str]:
    """Link headers for viewers: the ICE servers that are named for them, else the general ones that have no secret."""
    from bridge.protocols.whep import ice_server_link

    if config is None or config.ice_servers is None:
        servers = [server for server in ice.servers if server.credential is None] if ice else []
        return [ice_server_link(url) for server in servers for url in server.urls]
    return [
        ice_server_link(url, server.username or "", server.password.reveal() if server.password else "")
        for server in config.ice_servers
        for url in server.urls
    ]


def _receivers(*secrets: Secret | None) -> frozenset[str] | None:
    """The hosts that may receive all of these; None: any."""
    bound = [secret.hosts for secret in secrets if secret is not None and secret.hosts is not None]
    return frozenset.intersection(*bound) if bound else None
