"""The local avatar service: stands in for the cloud on loopback, over real sockets."""

import asyncio
import contextlib
import errno
import ipaddress
import logging
from collections.abc import Callable
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

import structlog
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from bridge.errors import ConfigError
from bridge.local_avatar.face import face
from bridge.local_avatar.faults import OPEN_TIMEOUT_S, Faults
from bridge.local_avatar.navtalk import NavTalkSession
from bridge.local_avatar.options import LocalAvatarOptions
from bridge.local_avatar.stun import StunServer
from bridge.net.ice import IceSettings

log = structlog.get_logger()

NAVTALK_PATH = "/wss/v2/realtime-chat"
CLOSE_TIMEOUT_S = 1.0
# A photograph of 8 MiB, which no client sends more of, is 10.7 MiB as base64.
MAX_MESSAGE_BYTES = 12 * 2**20
# The library's own log would print request lines, and licences stand in them.
_SILENT = logging.Logger("local-avatar", level=logging.CRITICAL + 1)


class LocalAvatar:
    """Serves any number of sessions. `on_listening` is called with the URL for clients once they may connect.

    Who listens on loopback sends its media there too, and to no other interface.
    """

    def __init__(self, options: LocalAvatarOptions, on_listening: Callable[[str], None] | None = None) -> None:
        self._options = options
        self._on_listening = on_listening
        self._ice = IceSettings(interfaces=("lo",) if _is_loopback(options.listen_host) else ())
        self._sessions = asyncio.TaskGroup()
        self._stun_port = 0

    async def run(self) -> None:
        """Serve until cancelled. Raises ConfigError when it cannot listen."""
        # Half a second of CPU that the first client would otherwise wait for.
        await asyncio.to_thread(face, *self._options.size_px)
        server = await self._listen()
        loop = asyncio.get_running_loop()
        stun, _ = await loop.create_datagram_endpoint(StunServer, (self._options.listen_host, 0))
        self._stun_port = stun.get_extra_info("sockname")[1]
        try:
            # Sessions live in a group of their own: the library would only log what goes wrong in its handler.
            async with server, self._sessions:
                if self._on_listening is not None:
                    self._on_listening(self._url(server))
                await server.serve_forever()
        finally:
            stun.close()

    async def _listen(self) -> Server:
        host, port = self._options.listen_host, self._options.listen_port
        try:
            return await serve(
                self._serve,
                host,
                port,
                process_request=self._admit,
                max_size=MAX_MESSAGE_BYTES,
                compression=None,
                open_timeout=OPEN_TIMEOUT_S,
                close_timeout=CLOSE_TIMEOUT_S,
                server_header="avatar-bridge",
                logger=_SILENT,
            )
        except OSError as error:
            is_taken = error.errno == errno.EADDRINUSE
            reason = "the port is in use: choose another with --listen" if is_taken else error.strerror
            raise ConfigError(f"--listen {host}:{port}: {reason}") from error

    async def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        url = urlsplit(request.path)
        if not url.path.endswith(NAVTALK_PATH):
            return connection.respond(HTTPStatus.NOT_FOUND, f"NavTalk v2 is served at {NAVTALK_PATH}\n")
        # Of a fault that cannot be read the session tells the client.
        with contextlib.suppress(ValueError):
            faults = Faults(self._options.faults).and_also(parse_qs(url.query).get("fault", ()))
            if faults.strikes("slow-accept"):
                await asyncio.sleep(faults.value("slow-accept"))
        return None

    async def _serve(self, socket: ServerConnection) -> None:
        session = NavTalkSession(socket, self._options, self._ice, self._stun_port)
        await asyncio.wait([self._sessions.create_task(_run(session), name="avatar-session")])

    def _url(self, server: Server) -> str:
        port = next(iter(server.sockets)).getsockname()[1]
        host = self._options.listen_host
        return f"ws://{f'[{host}]' if ':' in host else host}:{port}{NAVTALK_PATH}"


async def _run(session: NavTalkSession) -> None:
    try:
        await session.run()
    except Exception:
        # A bug of ours: it is shown whole, and the other clients keep their sessions.
        log.exception("avatar_session_crashed")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
