"""The local avatar service: stands in for the cloud on loopback, over real sockets."""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

import structlog
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from bridge.errors import ConfigError
from bridge.local_avatar.clips import NavTalkClipService
from bridge.local_avatar.face import face
from bridge.local_avatar.faults import OPEN_TIMEOUT_S, Faults
from bridge.local_avatar.navtalk import NavTalkService
from bridge.local_avatar.navtalk_legacy import NavTalkLegacyService
from bridge.local_avatar.options import LocalAvatarOptions, ServiceName
from bridge.local_avatar.service import Doorkeeper, Handler, House, Service
from bridge.local_avatar.stun import StunServer
from bridge.net.ice import IceSettings

log = structlog.get_logger()


def _livekit(house: House) -> Service:
    # LiveKit's protobufs are an extra.
    from bridge.local_avatar.livekit import LiveKitService

    return LiveKitService(house)


def _heygen(house: House) -> Service:
    from bridge.local_avatar.heygen import HeyGenService

    return HeyGenService(house)


def _liveavatar(house: House) -> Service:
    from bridge.local_avatar.heygen import LiveAvatarService

    return LiveAvatarService(house)


SERVICES: Mapping[ServiceName, Callable[[House], Service]] = {
    "navtalk": NavTalkService,
    "navtalk-legacy": NavTalkLegacyService,
    "navtalk-clips": NavTalkClipService,
    "livekit": _livekit,
    "heygen": _heygen,
    "liveavatar": _liveavatar,
}
CLOSE_TIMEOUT_S = 1.0
# A photograph of 8 MiB, which no client sends more of, is 10.7 MiB as base64.
MAX_MESSAGE_BYTES = 12 * 2**20
# The library's own log would print request lines, and licences stand in them.
_SILENT = logging.Logger("local-avatar", level=logging.CRITICAL + 1)


class LocalAvatar:
    """Serves any number of sessions. `on_listening` is called with the URLs for clients once they may connect: for each
    service a line, the URLs in it with blanks between them.

    WebSockets are served where the options say, REST interfaces on the port behind that one, or also on any free one.
    Who listens on loopback sends its media there too, and to no other interface.
    """

    def __init__(self, options: LocalAvatarOptions, on_listening: Callable[[str], None] | None = None) -> None:
        self._options = options
        self._on_listening = on_listening
        self._ice = IceSettings(interfaces=("lo",) if _is_loopback(options.listen_host) else ())
        self._sessions = asyncio.TaskGroup()
        self._services: Sequence[Service] = ()

    async def run(self) -> None:
        """Serve until cancelled. Raises ConfigError when it cannot listen."""
        # Half a second of CPU that the first client would otherwise wait for.
        await asyncio.to_thread(face, *self._options.size_px)
        loop = asyncio.get_running_loop()
        stun, _ = await loop.create_datagram_endpoint(StunServer, (self._options.listen_host, 0))
        house = House(self._options, self._ice, stun.get_extra_info("sockname")[1], self._sessions)
        self._services = [SERVICES[name](house) for name in self._options.services]
        try:
            server = await self._listen()
            # Sessions live in a group of their own: the library would only log what goes wrong in its handler.
            async with server, self._sessions, self._rest() as rest:
                self._tell(next(iter(server.sockets)), rest)
                await server.serve_forever()
        finally:
            stun.close()

    def _tell(self, *listening: socket.socket | None) -> None:
        host = self._options.listen_host
        host = f"[{host}]" if ":" in host else host
        sockets, rest = (f"{host}:{one.getsockname()[1]}" if one else "" for one in listening)
        for service in self._services:
            urls = " ".join(service.urls(f"ws://{sockets}", f"http://{rest}"))
            if self._on_listening is not None:
                self._on_listening(urls)

    @contextlib.asynccontextmanager
    async def _rest(self) -> AsyncIterator[socket.socket | None]:
        """Where REST interfaces are served meanwhile, if there are any."""
        routes = [route for service in self._services for route in service.routes]
        if not routes:
            yield None
            return
        from starlette.applications import Starlette

        from bridge.net.http_server import serve_app

        host, port = self._options.listen_host, self._options.listen_port
        port = port + 1 if port else 0
        try:
            listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except OSError as error:
            raise _cannot_listen(host, port, error) from error
        with listening:
            serving = asyncio.create_task(serve_app(Starlette(routes=routes), listening), name="avatar-rest")
            try:
                yield listening
            finally:
                serving.cancel()
                await asyncio.wait((serving,))

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
            raise _cannot_listen(host, port, error) from error

    async def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        url = urlsplit(request.path)
        if self._find(url.path) is None:
            paths = ", ".join(path for service in self._services for path in service.sockets)
            return connection.respond(HTTPStatus.NOT_FOUND, f"there is {paths}\n")
        # Of a fault that cannot be read the session tells the client.
        with contextlib.suppress(ValueError):
            faults = Faults(self._options.faults).and_also(parse_qs(url.query).get("fault", ()))
            if faults.strikes("slow-accept"):
                await asyncio.sleep(faults.value("slow-accept"))
        found = self._find(url.path)
        if found is not None and isinstance(found[0], Doorkeeper):
            refusal = found[0].refusal(request)
            return None if refusal is None else connection.respond(refusal[0], f"{refusal[1]}\n")
        return None

    async def _serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        found = self._find(urlsplit(socket.request.path).path)
        assert found is not None
        await asyncio.wait([self._sessions.create_task(_run(found[1](socket)), name="avatar-session")])

    def _find(self, path: str) -> tuple[Service, Handler] | None:
        """Whose WebSocket it is, and who serves it: the longest pattern tells most."""
        found = [
            (end, service, serve)
            for service in self._services
            for end, serve in service.sockets.items()
            if re.search(f"{end}$", path)
        ]
        return max(found, key=lambda each: len(each[0]))[1:] if found else None


async def _run(serving: Awaitable[None]) -> None:
    try:
        await serving
    except Exception:
        # A bug of ours: it is shown whole, and the other clients keep their sessions.
        log.exception("avatar_session_crashed")


def _cannot_listen(host: str, port: int, error: OSError) -> ConfigError:
    is_taken = error.errno == errno.EADDRINUSE
    reason = "the port is in use: choose another with --listen" if is_taken else error.strerror
    return ConfigError(f"--listen {host}:{port}: {reason}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
