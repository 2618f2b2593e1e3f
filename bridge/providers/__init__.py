"""Avatar services, as their clients. `open_provider` is the front door."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bridge.config import AvatarConfig, IceConfig
from bridge.config import IceServer as IceServerConfig
from bridge.ports import AvatarProvider

if TYPE_CHECKING:  # WebRTC takes half a second of CPU to import, which `check` and `schema` need not pay
    from bridge.net.ice import IceServer, IceSettings


def open_provider(config: AvatarConfig, ice: "IceSettings", history: Sequence[str] = ()) -> AvatarProvider:
    """The provider of a configured avatar. `history`: what users said before, read anew at every connection."""
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
        tools=tuple(tool.function for tool in config.tools) or None,
        shapes=config.shapes,
        query=config.query,
        ice_servers=None if config.ice_servers is None else tuple(map(ice_server, config.ice_servers)),
        idle_audio=config.idle_audio,
    )
    return NavTalkProvider(options, ice, history)


def ice_settings(config: IceConfig) -> "IceSettings":
    """What the operator says about ICE, as the network takes it."""
    from bridge.net.ice import IceSettings

    servers = tuple(map(ice_server, config.servers))
    return IceSettings(config.interfaces, servers, config.public_address, config.udp_ports)


def ice_server(config: IceServerConfig) -> "IceServer":
    from bridge.net.ice import IceServer

    return IceServer(config.urls, config.username or "", config.password)
