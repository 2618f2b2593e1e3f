"""NavTalk v2 as an avatar provider: one WebSocket for sound, events and signalling, one WebRTC peer for the media."""

from collections.abc import Callable, Sequence

from bridge.net.ice import IceSettings
from bridge.ports import AvatarListener
from bridge.providers.navtalk_knowledge import Knowledge
from bridge.providers.navtalk_options import CommonOptions
from bridge.providers.navtalk_session import ClientSession
from bridge.providers.navtalk_socket import open_socket
from bridge.redact import redact_url


class NavTalkProvider:
    """The avatar service NavTalk, or one that speaks its protocol.

    history  what users said before, oldest first; read anew whenever a session begins.
    """

    _open_session: Callable[..., ClientSession] = ClientSession

    def __init__(self, options: CommonOptions, ice: IceSettings, history: Sequence[str] = ()) -> None:
        self.capabilities = options.capabilities
        self._options = options
        self._ice = ice
        self._history = history
        self._knowledge = Knowledge()
        self._where = f"NavTalk at {redact_url(options.url.reveal())}"

    async def run(self, listener: AvatarListener) -> None:
        """Serve one session and raise what ended it: there is no other end than an error or a cancellation.

        Raises ProviderRejected, ProviderUnavailable, RemoteProtocolError; ConfigError for an unknown interface.
        """
        options = self._options
        async with open_socket(
            options.url, options.request_query, self._where, "avatar.url", options.step_s, self._ice.policy
        ) as socket:
            await self._open_session(
                socket, options, self._ice, self._history, listener, self._knowledge, self._where
            ).run()
