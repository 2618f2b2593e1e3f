import asyncio
import errno
import gc
import socket
from typing import Any, cast

from bridge.errors import OutputLost
from bridge.net.tls import Trust
from bridge.outputs.rtmp_link import RtmpLink
from bridge.protocols.rtmp import State
from bridge.protocols.rtmp_address import parse_url


class ResetUnnoticed(asyncio.Transport):
    """Its far end has reset the connection, which the loop has not seen yet."""

    def __init__(self, link: RtmpLink) -> None:
        super().__init__({"socket": socket.socket()})
        self._link = link

    def write(self, data: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    def abort(self) -> None:
        self.get_extra_info("socket").close()
        self._link.connection_lost(None)


async def test_closing_a_connection_that_was_reset_a_moment_ago_ends_well() -> None:
    link = RtmpLink(parse_url("rtmp://127.0.0.1/app/key", None), Trust(), chunk_bytes=4096)
    link.connection_made(ResetUnnoticed(link))
    link._publisher.state = State.LIVE
    await link.close(1.0)


async def test_a_connection_that_is_called_off_at_any_moment_leaves_no_socket() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        for n_turns in range(20):
            link = RtmpLink(parse_url(f"rtmp://127.0.0.1:{port}/live/key"), Trust(), chunk_bytes=4096)
            connecting = asyncio.create_task(link.connect(["127.0.0.1"], 5.0))
            for _ in range(n_turns):
                await asyncio.sleep(0)
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            await link.close(0.1)
    gc.collect()  # what is not closed is an error here


class Backlogged(RtmpLink):
    """At once it sends more than the kernel takes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        cast(asyncio.Transport, transport).write(bytes(2**24))


async def test_a_connection_that_ended_with_its_last_bytes_can_be_given_up() -> None:
    async def read_to_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        while await reader.read(2**20):
            pass
        writer.close()

    server = await asyncio.start_server(read_to_the_end, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        link = Backlogged(parse_url(f"rtmp://127.0.0.1:{port}/live/key"), Trust(), chunk_bytes=4096)
        await link.connect(["127.0.0.1"], 5.0)
        async with asyncio.timeout(5.0):
            await link._lost.wait()
        link.give_up(OutputLost("the server is gone"))
        await link.close(1.0)
