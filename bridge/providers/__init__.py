"""Avatar services, as their clients. `open_provider` is the front door."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from bridge.config import (
    AvatarConfig,
    HeyGenConfig,
    IceConfig,
    LiveAvatarConfig,
    LiveKitConfig,
    NavTalkConfig,
    NavTalkLegacyConfig,
)
from bridge.config import IceServer as IceServerConfig
from bridge.errors import ConfigError, InternalError
from bridge.ports import AvatarProvider

if TYPE_CHECKING:  # WebRTC takes half a second of CPU to import, which `check` and `schema` need not pay
    from bridge.net.ice import IceServer, IceSettings
    from bridge.net.url_policy import UrlPolicy


def open_provider(
    config: AvatarConfig, ice: "IceSettings", history: Sequence[str] = (), policy: "UrlPolicy | None" = None
) -> AvatarProvider:
    """The provider of a configured avatar. Raises ConfigError.

    history  what users said before, read anew at every connection.
    policy   judges at every connection where the avatar leads; None: it came from the operator's file.
    """
    ice = replace(ice, policy=policy)
    # Each brings what it needs only where it is used.
    ice_servers = None if config.ice_servers is None else tuple(map(ice_server, config.ice_servers))
    tools = tuple(tool.function for tool in config.tools) or None
    match config:
        case NavTalkConfig():
            from bridge.providers.navtalk import NavTalkProvider
            from bridge.providers.navtalk_options import NavTalkOptions

            options = NavTalkOptions(
                url=config.url,
                license=config.license_key,
                name=config.name,
                avatar_id=config.avatar_id,
                role=config.role,
                voice=config.voice,
                prompt=config.prompt,
                tools=tools,
                shapes=config.shapes,
                query=config.query,
                ice_servers=ice_servers,
                idle_audio=config.idle_audio,
            )
            return NavTalkProvider(options, ice, history)
        case NavTalkLegacyConfig():
            from bridge.providers.navtalk_legacy import LegacyOptions, NavTalkLegacyProvider

            legacy = LegacyOptions(
                url=config.url,
                license=config.license_key,
                name=config.name,
                role=config.role,
                voice=config.voice,
                prompt=config.prompt,
                tools=tools,
                query=config.query,
                session=config.session,
                signal_url=config.signal_url,
                signal_user_id=config.signal_user_id,
                signal_create=config.signal_create,
                ice_servers=ice_servers,
                idle_audio=config.idle_audio,
            )
            return NavTalkLegacyProvider(legacy, ice, history)
        case LiveKitConfig():
            with _needing_livekit(config):
                return _open_livekit(config, ice, ice_servers)
        case HeyGenConfig() | LiveAvatarConfig():
            with _needing_livekit(config):
                return _open_heygen(config, ice, ice_servers)
    raise InternalError(f"a configuration of {config.service}, and no provider for it")


@contextmanager
def _needing_livekit(config: AvatarConfig) -> Iterator[None]:
    """Raises ConfigError where what rooms need is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("livekit", "livekit.protocol", "google", "google.protobuf", "jwt"):
            raise
        what = f'avatar.service: {config.service} needs more: pip install "avatar-bridge[livekit]"'
        raise ConfigError(what) from None


def _open_livekit(
    config: LiveKitConfig, ice: "IceSettings", ice_servers: "tuple[IceServer, ...] | None"
) -> AvatarProvider:
    from bridge.protocols.livekit_room import Choice
    from bridge.protocols.livekit_token import Grant
    from bridge.providers.livekit import LiveKitOptions, LiveKitProvider
    from bridge.providers.livekit_entry import Entry, MintedToken

    source = config.given_token
    if source is None:
        assert config.api_key and config.given_secret and config.room
        # A worker listens to an agent.
        grant = Grant(config.identity, config.room, "agent", may_publish=False)
        entry = Entry(config.url, MintedToken(config.api_key, config.given_secret, grant))
    else:
        entry = Entry(config.url, source)
    choice = Choice(config.participant, config.participant_kind)
    options = LiveKitOptions(
        entry=entry, choice=choice, drive=config.drive, rate_hz=config.speech_rate_hz, ice_servers=ice_servers
    )
    return LiveKitProvider(options, ice)


def _open_heygen(
    config: HeyGenConfig | LiveAvatarConfig, ice: "IceSettings", ice_servers: "tuple[IceServer, ...] | None"
) -> AvatarProvider:
    from bridge.providers.heygen import HeyGenProvider
    from bridge.providers.heygen_lives import Account, HeyGenLives, LiveAvatarLives, Lives, Room, place_of

    account = Account(
        url=config.url,
        avatar_id=config.avatar_id,
        key=config.given_key,
        token=config.given_token if isinstance(config, HeyGenConfig) else None,
        quality=config.quality,
        extra=config.session,
    )
    lives: Lives
    if isinstance(config, HeyGenConfig):
        lives = HeyGenLives(account, place_of("HeyGen", config.url), policy=ice.policy)
        return HeyGenProvider(lives, config.dialect, ice, ice_servers=ice_servers)
    room = None
    if (own := config.room) is not None:
        room = Room(own.url, own.name, own.api_key, own.given_secret, own.identity)
    where = place_of("LiveAvatar", config.url)
    lives = LiveAvatarLives(account, where, is_sandbox=config.sandbox, room=room, policy=ice.policy)
    return HeyGenProvider(lives, "speak", ice, ice_servers=ice_servers)


def ice_settings(config: IceConfig) -> "IceSettings":
    """What the operator says about ICE, as the network takes it."""
    from bridge.net.ice import IceSettings

    servers = tuple(map(ice_server, config.servers))
    return IceSettings(config.interfaces, servers, config.public_address, config.udp_ports)


def ice_server(config: IceServerConfig) -> "IceServer":
    from bridge.net.ice import IceServer

    return IceServer(config.urls, config.username or "", config.password)
