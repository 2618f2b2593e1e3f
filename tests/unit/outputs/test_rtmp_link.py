import asyncio
import errno
import socket
from typing import Any

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
