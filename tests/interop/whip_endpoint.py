"""A WHIP server on loopback with real peers behind it, which misbehaves as a test says."""

import asyncio
import contextlib
import datetime
import ipaddress
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bridge.net.peer import ReceivingPeer
from bridge.ports import RemoteTrack, TrackSink
from tests.net.loopback import LOOPBACK, Tracks

TOKEN = "canary-token-5d1c"
PATH = "/live/canary-key-9a31"

Edit = Callable[[str], str]
Behaviour = Callable[[Request, bytes], Awaitable[Response | None]]


@dataclass
class Seen:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: str


@dataclass
class Session:
    """What an accepted offer has made."""

    peer: ReceivingPeer
    tracks: Tracks
    offer: str
    fragments: list[str] = field(default_factory=list)

    def fall_silent(self) -> None:
        """Its sockets stay and nothing that comes is read; what it has to say by itself it still says."""
        for connection in self.peer._connections:
            for protocol in connection._protocols:
                protocol.datagram_received = lambda data, addr: None


class WhipEndpoint:
    """`behaviour` may answer a request in the server's place, or leave it alone with None; `edit` changes answers,
    `edit_offer` what reaches the server's peer of an offer.

    sessions  that are there now, by path.  ended: those that were deleted.  links: values of Link headers.
    mute      sessions are made, and their media never connects.  on_track: where media goes, instead of `tracks`.
    """

    def __init__(self, on_track: Callable[[RemoteTrack], TrackSink] | None = None) -> None:
        self._on_track = on_track
        self.behaviour: Behaviour | None = None
        self.edit: Edit = lambda answer: answer
        self.edit_offer: Edit = lambda offer: offer
        self.links: list[str] = []
        self.mute = False
        self.location = "{path}"
        self.seen: list[Seen] = []
        self.sessions: dict[str, Session] = {}
        self.ended: list[Session] = []
        self.changed = asyncio.Event()
        self.origin = ""
        self._stack = contextlib.AsyncExitStack()

    @property
    def url(self) -> str:
        return f"whip+{self.origin}{PATH}"

    def methods(self) -> list[str]:
        return [request.method for request in self.seen]

    async def session(self) -> Session:
        """The only session, once it is there."""
        while not self.sessions:
            self.changed.clear()
            await self.changed.wait()
        (found,) = self.sessions.values()
        return found

    @contextlib.asynccontextmanager
    async def serving(self, tls: tuple[str, str] | None = None) -> AsyncIterator[Self]:
        """Listen on a free port; `tls`: files of the certificate and its key."""
        listening = socket.create_server(("127.0.0.1", 0))
        self.origin = f"http{'s' if tls else ''}://127.0.0.1:{listening.getsockname()[1]}"
        app = Starlette(routes=[Route("/{path:path}", self._handle, methods=["POST", "PATCH", "DELETE", "OPTIONS"])])
        certfile, keyfile = tls or (None, None)
        config = uvicorn.Config(
            app, log_level="error", lifespan="off", ws="none", ssl_certfile=certfile, ssl_keyfile=keyfile
        )
        server = QuietServer(config)
        running = asyncio.create_task(server.serve([listening]))
        async with self._stack:
            yield self
            server.should_exit = server.force_exit = True
            await running

    async def _handle(self, request: Request) -> Response:
        body = await request.body()
        self.seen.append(Seen(request.method, request.url.path, dict(request.headers), body.decode()))
        if self.behaviour is not None and (response := await self.behaviour(request, body)) is not None:
            return response
        match request.method:
            case "POST":
                return await self._publish(request.url.path, body.decode())
            case "OPTIONS":
                return self._linked(Response(status_code=204))
            case "DELETE":
                return await self._delete(request.url.path)
        session = self.sessions.get(request.url.path)
        if session is None:
            return Response(status_code=404)
        session.fragments.append(body.decode())
        for line in body.decode().splitlines():
            if line.startswith("a=candidate:"):
                await session.peer.add_candidate(line[2:], None, 0)
        return Response(status_code=204)

    async def _publish(self, path: str, offer: str) -> Response:
        tracks = Tracks()
        session = Session(ReceivingPeer(LOOPBACK, self._on_track or tracks.on_track), tracks, offer)
        await self._stack.enter_async_context(session.peer)
        answer = await session.peer.answer(self.edit_offer(offer))
        if self.mute:
            await session.peer.__aexit__(None, None, None)
        where = f"/session/canary-session-{len(self.sessions) + len(self.ended)}"
        self.sessions[where] = session
        self.changed.set()
        headers = {"ETag": '"first"'}
        if self.location:
            headers["Location"] = self.location.format(path=where, origin=self.origin)
        return self._linked(Response(self.edit(answer), 201, headers, "application/sdp"))

    def _linked(self, response: Response) -> Response:
        for link in self.links:
            response.headers.append("Link", link)
        return response

    async def _delete(self, path: str) -> Response:
        session = self.sessions.pop(path, None)
        if session is None:
            return Response(status_code=404)
        self.ended.append(session)
        await session.peer.__aexit__(None, None, None)
        return Response(status_code=200)


class QuietServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


def make_certificate(directory: Path) -> tuple[str, str]:
    """Files of a certificate for 127.0.0.1 and whip.test that vouches for itself, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "WHIP peer")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("whip.test")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    certfile, keyfile = directory / "certificate.pem", directory / "key.pem"
    certfile.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    keyfile.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(certfile), str(keyfile)
