"""An RTMP server that costs little and keeps nothing: `python -m benchmarks.rtmp_sink` prints its URL.

It takes every stream key, answers as far as a publisher needs it, and throws media away unread.
"""

import asyncio

from bridge.protocols import amf
from bridge.protocols.rtmp_chunks import MAX_MESSAGE_BYTES, ChunkReader, ChunkWriter, Message, MessageType
from bridge.signals import STOP_SIGNALS, on_signals

_HANDSHAKE_BYTES = 1536
_READ_BYTES = 262_144


class Publisher(asyncio.BufferedProtocol):
    """One connection; once it publishes, what comes is read and forgotten."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._handshake = bytearray()
        self._reader: ChunkReader | None = ChunkReader(MAX_MESSAGE_BYTES)
        self._writer = ChunkWriter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._reader is not None:
            self._negotiate(self._reader, bytes(self._buffer[:nbytes]))

    def _negotiate(self, reader: ChunkReader, data: bytes) -> None:
        had_greeting = len(self._handshake) > _HANDSHAKE_BYTES
        missing_bytes = 1 + 2 * _HANDSHAKE_BYTES - len(self._handshake)
        self._handshake += data[:missing_bytes]
        if not had_greeting and len(self._handshake) > _HANDSHAKE_BYTES:
            self._transport.write(b"\3" + bytes(2 * _HANDSHAKE_BYTES))
        for message in reader.receive(data[missing_bytes:]):
            if message.type_id == MessageType.COMMAND_AMF0:
                self._answer(message)

    def _answer(self, message: Message) -> None:
        match amf.decode(message.payload):
            case "connect", number, *_:
                self._say("_result", number, {}, {"level": "status", "code": "NetConnection.Connect.Success"})
            case "createStream", number, *_:
                self._say("_result", number, None, 1.0)
            case "publish", *_:
                self._say("onStatus", 0.0, None, {"level": "status", "code": "NetStream.Publish.Start"})
                self._reader = None

    def _say(self, *values: amf.Value) -> None:
        self._transport.write(self._writer.write(3, Message(MessageType.COMMAND_AMF0, 0, 0, amf.encode(*values))))


async def serve_until_stopped() -> None:
    stopped = asyncio.Event()
    server = await asyncio.get_running_loop().create_server(Publisher, "127.0.0.1", 0)
    async with server:
        print(f"rtmp://127.0.0.1:{server.sockets[0].getsockname()[1]}/live", flush=True)
        with on_signals(STOP_SIGNALS, stopped.set):
            await stopped.wait()


if __name__ == "__main__":
    asyncio.run(serve_until_stopped())
