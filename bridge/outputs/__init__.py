"""Stage 6, publishing: `open_output` turns a configured output into what its runner opens for every attempt."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from bridge.config import OutputConfig, SlateConfig, StorageConfig
from bridge.errors import ConfigError
from bridge.ports import Output
from bridge.redact import Secret

if TYPE_CHECKING:
    from bridge.net.ice import IceSettings
    from bridge.net.url_policy import UrlPolicy


def open_output(
    name: str,
    config: OutputConfig,
    storage: StorageConfig,
    ice: "IceSettings | None" = None,
    policy: "UrlPolicy | None" = None,
    *,
    is_strange: bool = False,
) -> Callable[[], Output]:
    """What makes the connection, or the file, of each attempt at this output.

    `ice` is the program's, for WebRTC; `policy` says where a server may lead us besides public hosts; `is_strange`: the
    configuration did not come from the operator's file, so its URL is judged by the policy at every attempt.

    Raises ConfigError, naming the output, if its URL cannot be used.
    """
    try:
        return _opener(config, storage, ice, policy, is_strange)
    except ConfigError as error:
        raise ConfigError(f"outputs.{name}: {error}") from None


def check_slate(config: SlateConfig) -> None:
    """See that the operator's image or clip can be shown; decodes all of it. Raises ConfigError with key and file."""
    from bridge.outputs.slate import SlateMaker

    SlateMaker(config.picture, config.image, config.clip).check()


def _opener(
    config: OutputConfig,
    storage: StorageConfig,
    ice: "IceSettings | None",
    policy: "UrlPolicy | None",
    is_strange: bool,
) -> Callable[[], Output]:
    # Each kind brings what it needs only where it is used: libav, TLS, WebRTC.
    if config.scheme == "file":
        from bridge.outputs.container import ContainerOutput, RecordingNames

        names = RecordingNames(storage.dir, config.address.reveal().partition(":")[2])
        return lambda: ContainerOutput(names, min_free_bytes=storage.min_free, keyframe_s=config.keyframe_s)

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


def _receivers(*secrets: Secret | None) -> frozenset[str] | None:
    """The hosts that may receive all of these; None: any."""
    bound = [secret.hosts for secret in secrets if secret is not None and secret.hosts is not None]
    return frozenset.intersection(*bound) if bound else None
