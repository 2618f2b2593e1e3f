"""Far ends that repeat the secrets they were told, in every spelling and in every place that allows it."""

import asyncio
import contextlib
import datetime
import ipaddress
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from bridge.protocols import amf
from bridge.protocols.rtmp_chunks import ChunkWriter, Message, MessageType

_SILENT = logging.Logger("evil", level=logging.CRITICAL + 1)


def spellings(secret: str) -> list[str]:
    """The forms in which a far end may repeat it."""
    forms = (secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret), repr(secret))
    return list(dict.fromkeys(forms))


class EvilService:
    """An avatar service; the first part of the path of its URL says how it fails."""

    def __init__(self, *secrets: str) -> None:
        self._words = " ".join(form for secret in secrets for form in spellings(secret))
        # For where words are cut: after 123 bytes in a close frame.
        self._briefly = [" ".join(spellings(secret)) for secret in secrets]
        self._short = secrets[0]
        self.came = asyncio.Event()
        self._is_over = asyncio.Event()

    @contextlib.asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        async with serve(
            self._serve, "127.0.0.1", 0, process_request=self._refuse, ssl=tls, logger=_SILENT, close_timeout=1.0
        ) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            try:
                yield f"127.0.0.1:{port}"
            finally:
                self._is_over.set()

    async def _refuse(self, socket: ServerConnection, request: Request) -> Response | None:
        way = request.path.split("/")[1]
        if way == "hangs":
            self.came.set()
            await self._is_over.wait()
        if not way.startswith("http-"):
            return None
        response = socket.respond(HTTPStatus(int(way.removeprefix("http-"))), f"{request.path} {self._words}\n")
        response.headers["X-Repeats"] = quote(self._words)
        response.headers["Location"] = f"ws://127.0.0.1:99999/{quote(self._words)}"
        return response

    async def _serve(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        with contextlib.suppress(ConnectionClosed):
            await _WAYS[socket.request.path.split("/")[1]](self, socket, f"{self._words} {socket.request.path}")

    async def _fails(self, socket: ServerConnection, words: str) -> None:
        await _send(socket, "conversation.connected.fail", message=words)

    async def _is_full(self, socket: ServerConnection, words: str) -> None:
        await _send(socket, "conversation.connected.gpu_full", message=self._briefly[3])

    async def _closes(self, socket: ServerConnection, words: str) -> None:
        await socket.close(1008, self._short)

    async def _closes_for_good(self, socket: ServerConnection, words: str) -> None:
        await socket.close(1000, f"Insufficient points {self._short}")

    async def _repeats(self, socket: ServerConnection, words: str) -> None:
        """Puts it into every field of every event."""
        await _send(socket, "conversation.connected.success", sessionId=words, iceServers=[{"urls": words}, words])
        await _send(socket, "conversation.connected.warning", message=words, avatarId=words)
        await _send(socket, "error", message=words, error={"message": words, words: words})
        await _send(socket, words, message=words)
        await _send(socket, f"realtime.{words}", **{words: words})
        call = {"call_id": words, "name": words, "arguments": words}
        await _send(socket, "realtime.response.function_call_arguments.done", **call)
        await _send(socket, "realtime.conversation.item.input_audio_transcription.completed", content=words)
        await _send(socket, "realtime.response.audio_transcript.done", content=words, id=words)
        await _send(socket, "realtime.response.audio.delta", delta=words)
        await _send(socket, "webrtc.signaling.iceCandidate", candidate={"candidate": words, "sdpMid": words})
        await _send(socket, "webrtc.signaling.iceCandidate", candidate=words)
        await socket.send(words)
        await socket.send(words.encode())
        await socket.send(json.dumps(words))
        await _send(socket, "realtime.session.created", session={"id": words})
        await _send(socket, "realtime.session.updated", session={"id": words})
        await _send(
            socket, "webrtc.signaling.offer", sdp={"type": "offer", "sdp": f"v=0\r\no={words}\r\nm={words}\r\n"}
        )
        await socket.wait_closed()

    async def _breaks_frames(self, socket: ServerConnection, words: str) -> None:
        # A text frame that is no UTF-8 (RFC 6455 §8.1).
        socket.transport.write(
            b"\x81\x7e" + len(words.encode() + b"\xff").to_bytes(2, "big") + words.encode() + b"\xff"
        )
        await socket.wait_closed()


_WAYS: Mapping[str, Callable[[EvilService, ServerConnection, str], Awaitable[None]]] = {
    "fails": EvilService._fails,
    "is-full": EvilService._is_full,
    "closes": EvilService._closes,
    "closes-for-good": EvilService._closes_for_good,
    "repeats": EvilService._repeats,
    "breaks-frames": EvilService._breaks_frames,
}
WAYS = (*_WAYS, "http-302", "http-401", "http-403", "http-500")


async def _send(socket: ServerConnection, type_name: str, **data: Any) -> None:
    await socket.send(json.dumps({"type": type_name, "data": data}))


@contextlib.asynccontextmanager
async def evil_rtmp(answer_to: str, *secrets: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """An RTMP server that refuses `connect` or `publish` and says why; gives its address."""
    words = " ".join(form for secret in secrets for form in spellings(secret))
    tasks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readexactly(1537)
            writer.write(b"\3" + bytes(3072))
            chunks = ChunkWriter()

            def say(*values: amf.Value) -> None:
                message = Message(MessageType.COMMAND_AMF0, 0, 0, amf.encode(*values))
                writer.write(chunks.write(3, message))

            await reader.readuntil(b"connect")
            code = f"Net.{answer_to}.Rejected"
            if answer_to == "connect":
                say("_error", 1.0, None, {"level": "error", "code": code, "description": words})
            else:
                say("_result", 1.0, None, 1.0)
                say("_result", 4.0, None, 1.0)
                await reader.readuntil(b"publish")
                say("onStatus", 0.0, None, {"level": "error", "code": code, "description": words})
            await reader.read()
        writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(talk(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for task in tasks:
            task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def self_signed(directory: Path) -> ssl.SSLContext:
    """TLS for 127.0.0.1 with a certificate that nobody has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    path = directory / "server.pem"
    encoding, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(encoding, private, serialization.NoEncryption())
    path.write_bytes(pem + certificate.public_bytes(encoding))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context
