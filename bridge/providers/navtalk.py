"""NavTalk v2 as an avatar provider: one WebSocket for sound, events and signalling, one WebRTC peer for the media."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Sequence
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI, WebSocketException

from bridge.errors import ProviderRejected, ProviderUnavailable
from bridge.net.ice import IceSettings
from bridge.ports import AvatarListener
from bridge.providers.navtalk_knowledge import Knowledge
from bridge.providers.navtalk_options import NavTalkOptions
from bridge.providers.navtalk_session import ClientSession
from bridge.redact import redact_url

# The vendor's workers allow 20 s for the answer to a ping; a dead path is to be noticed sooner by the media than here.
PING_S = 20.0
CLOSE_TIMEOUT_S = 2.0
# An answer's sound in one message is the longest that may come: as base64, 64 kB a second, so this holds four minutes.
MAX_MESSAGE_BYTES = 16 * 2**20
# The library's own log would print the request line, and the licence stands in it.
_SILENT = logging.Logger("navtalk", level=logging.CRITICAL + 1)


class NavTalkProvider:
    """The avatar service NavTalk, or one that speaks its protocol.

    history  what users said before, oldest first; read anew whenever a session begins.
    """

    def __init__(self, options: NavTalkOptions, ice: IceSettings, history: Sequence[str] = ()) -> None:
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
        socket = await self._open()
        session = ClientSession(socket, self._options, self._ice, self._history, listener, self._knowledge, self._where)
        try:
            await session.run()
        finally:
            await _close(socket)

    async def _open(self) -> ClientConnection:
        try:
            is_local = urlsplit(self._options.url.reveal()).hostname in ("localhost", "127.0.0.1", "::1")
            return await connect(
                self._options.request_url(),
                open_timeout=self._options.step_s,
                close_timeout=CLOSE_TIMEOUT_S,
                ping_interval=PING_S,
                ping_timeout=PING_S,
                max_size=MAX_MESSAGE_BYTES,
                compression=None,  # base64 of noise-like sound shrinks by a quarter at best: not worth holding it up
                user_agent_header="avatar-bridge",
                proxy=None if is_local else True,
                logger=_SILENT,
            )
        # `from None` everywhere: the library's exceptions may hold the URL, and with it the licence.
        except InvalidStatus as refusal:
            status = refusal.response.status_code
            if status == 429 or status >= 500:
                what = f"{self._where} is not available now (HTTP {status})"
                raise ProviderUnavailable(what, reason="refused") from None
            what = f"{self._where} refused the WebSocket (HTTP {status}): check avatar.url and the licence"
            raise ProviderRejected(what, reason="refused") from None
        except TimeoutError:
            raise self._unreachable(f"did not open the WebSocket within {self._options.step_s:g} s") from None
        except ssl.SSLCertVerificationError as error:
            what = f"{self._where} shows a certificate that is not trusted: {error.verify_message}"
            raise ProviderRejected(what, reason="unreachable") from None
        except ssl.SSLError as error:
            raise self._unreachable(f"cannot be reached: TLS failed ({error.reason}); does the port take it?") from None
        except OSError as error:
            # asyncio has no words for a far end that closes instead of shaking hands.
            why = error.strerror or str(error) or "it closed the connection; does the port take TLS?"
            raise self._unreachable(f"cannot be reached: {why}") from None
        # A malformed host or port is a ValueError of the URL's reader, or a UnicodeError of the resolver; with a colon
        # in the user name an assertion of the library fails.
        except (InvalidURI, ValueError, AssertionError):
            raise ProviderRejected(f"{self._where}: avatar.url is no WebSocket URL", reason="unreachable") from None
        except (WebSocketException, EOFError) as error:
            name = type(error).__name__
            raise self._unreachable(f"did not complete the WebSocket's opening ({name})") from None

    def _unreachable(self, what: str) -> ProviderUnavailable:
        return ProviderUnavailable(f"{self._where} {what}", reason="unreachable")


async def _close(socket: ClientConnection) -> None:
    """Close the WebSocket within `CLOSE_TIMEOUT_S`, properly if the far end takes part."""
    try:
        # The library's own deadline begins once its buffer is empty, and a far end that does not read never lets it be.
        async with asyncio.timeout(CLOSE_TIMEOUT_S), asyncio.TaskGroup() as tasks:
            tasks.create_task(socket.close(), name="navtalk-close")
            # Of messages that nobody takes the library reads 16, and the answer to the close comes behind them.
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await socket.recv()
    except TimeoutError:
        socket.transport.abort()
        await socket.wait_closed()
