"""An RTMP server that does what a test says, in the test's own event loop.

async with ScriptedRtmp() as server:
    output = RtmpOutput(f"{server.url}/key")
    ...
    server.publications[0].say("onStatus", 0.0, None, {...})
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

from bridge.protocols import amf
from bridge.protocols.rtmp_chunks import ChunkReader, ChunkWriter, Message, MessageType

HANDSHAKE_BYTES = 1536


@dataclass(eq=False)
class Publication:
    """One connection. `name` is the stream key that it published, `media` what came: kind, milliseconds, FLV body."""

    writer: asyncio.StreamWriter
    name: str = ""
    app: str = ""
    connect_fields: dict[str, amf.Value] = field(default_factory=dict)
    media: list[tuple[str, int, bytes]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    chunks: ChunkWriter = field(default_factory=ChunkWriter)

    def say(self, *values: amf.Value) -> None:
        self.send(MessageType.COMMAND_AMF0, amf.encode(*values))

    def status(self, level: str, code: str, **fields: amf.Value) -> None:
        self.say("onStatus", 0.0, None, {"level": level, "code": code, **fields})

    def send(self, type_id: int, payload: bytes) -> None:
        self.writer.write(self.chunks.write(3, Message(type_id, 0, 0, payload)))

    def ask_to_reconnect(self, tc_url: str | None = None) -> None:
        fields: dict[str, amf.Value] = {} if tc_url is None else {"tcUrl": tc_url}
        self.status("status", "NetConnection.Connect.ReconnectRequest", **fields)

    def reset(self) -> None:
        tcp: socket.socket = self.writer.get_extra_info("socket")
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    @property
    def pictures(self) -> list[tuple[int, bytes]]:
        """Milliseconds and body of each picture, its decoder's configuration left out."""
        return [(time_ms, body) for kind, time_ms, body in self.media if kind == "video" and body[1] == 1]


class ScriptedRtmp:
    """A server on loopback, alive inside its `async with`; its connections by age are `publications`.

    one_per_key  a stream key that is being published is refused, as YouTube and nginx-rtmp do.
    on_publish   says what happens in place of a start; it may close, or say something else. While it waits, nothing is
                 read; receive_buffer_bytes is then what still gets through, the system's choice if 0.
    """

    def __init__(
        self,
        *,
        one_per_key: bool = False,
        on_publish: Callable[[Publication], Awaitable[None]] | None = None,
        receive_buffer_bytes: int = 0,
    ) -> None:
        self.publications: list[Publication] = []
        self.most_live = 0  # at the same time
        self._one_per_key = one_per_key
        self._on_publish = on_publish or self._start
        self._receive_buffer_bytes = receive_buffer_bytes
        self._changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        listening = socket.create_server(("127.0.0.1", 0))
        if self._receive_buffer_bytes:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer_bytes)
        limit = self._receive_buffer_bytes or 2**16
        self._server = await asyncio.start_server(self._accept, sock=listening, limit=limit)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"rtmp://127.0.0.1:{self.port}/live"

    async def until(self, claim: Callable[[], object]) -> None:
        """Wait until the claim holds; it is looked at after every message."""
        async with self._changed:
            await self._changed.wait_for(lambda: bool(claim()))

    @property
    def live(self) -> list[Publication]:
        return [publication for publication in self.publications if publication.name and not publication.ended.is_set()]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        publication = Publication(writer)
        self.publications.append(publication)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
                await self._serve(reader, publication)
        finally:
            publication.ended.set()
            writer.transport.abort()
            self._tasks.discard(task)
            await self._notify()

    async def _serve(self, reader: asyncio.StreamReader, publication: Publication) -> None:
        await reader.readexactly(1 + HANDSHAKE_BYTES)
        publication.writer.write(b"\3" + bytes(2 * HANDSHAKE_BYTES))
        await reader.readexactly(HANDSHAKE_BYTES)
        chunks = ChunkReader(1 << 24)
        while data := await reader.read(65_536):
            for message in chunks.receive(data):
                await self._on_message(publication, message)
            await self._notify()

    async def _on_message(self, publication: Publication, message: Message) -> None:
        match message.type_id:
            case MessageType.AUDIO | MessageType.VIDEO:
                kind = "audio" if message.type_id == MessageType.AUDIO else "video"
                publication.media.append((kind, message.timestamp_ms, message.payload))
            case MessageType.COMMAND_AMF0:
                name, transaction, *arguments = amf.decode(message.payload)
                publication.commands.append(str(name))
                match name:
                    case "connect":
                        assert isinstance(arguments[0], dict)
                        publication.connect_fields = arguments[0]
                        publication.app = str(arguments[0]["app"])
                        success: amf.Value = {"level": "status", "code": "NetConnection.Connect.Success"}
                        publication.say("_result", transaction, {"capsEx": 1.0}, success)
                    case "createStream":
                        publication.say("_result", transaction, None, 1.0)
                    case "publish":
                        name = str(arguments[1])
                        is_taken = any(other.name == name for other in self.live)
                        if self._one_per_key and is_taken:
                            publication.status("error", "NetStream.Publish.BadName", description="Already publishing")
                        else:
                            publication.name = name
                            self.most_live = max(self.most_live, len(self.live))
                            await self._notify()
                            await self._on_publish(publication)

    async def _start(self, publication: Publication) -> None:
        publication.status("status", "NetStream.Publish.Start")

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
