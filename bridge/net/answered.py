"""Whoever has made us an offer, from our answer to the end of the connection."""

import asyncio
import secrets

from bridge.errors import BridgeError
from bridge.net.peer_connection import Peer
from bridge.ports import MediaSession
from bridge.protocols.webrtc_offers import ice_users


class Answered:
    """The connection of one far end that has offered it.

    accepted  its session, or why there is none.  session: None before there is one.
    task      what runs it.
    """

    task: asyncio.Task[None]

    def __init__(self, peer: Peer, unanswered: BridgeError) -> None:
        """`unanswered`: why there is no answer where the task was cancelled before."""
        self.peer = peer
        self.accepted: asyncio.Future[MediaSession] = asyncio.get_running_loop().create_future()
        self.session: MediaSession | None = None
        self._unanswered = unanswered
        # Whoever has asked may have gone before: then nobody else reads why there is none.
        self.accepted.add_done_callback(asyncio.Future.exception)

    async def answered(self) -> MediaSession:
        """Its session, once there is one. Raises why there is none. Whoever waits may go, and ends nothing by that."""
        await asyncio.wait((self.accepted,))
        return self.accepted.result()

    async def run(self, offer: str) -> None:
        """Raises the error of the peer when the far end has gone without a word."""
        try:
            async with self.peer:
                try:
                    answer = await self.peer.answer(offer)
                    # Long enough not to be guessed: who knows it may end the session.
                    id, etag = secrets.token_urlsafe(16), f'"{secrets.token_hex(8)}"'
                    self.session = MediaSession(id, answer, etag, ice_users(offer))
                    self.accepted.set_result(self.session)
                    await self.peer.run()
                finally:
                    self.on_end()
        except BridgeError as error:
            if self.accepted.done():
                raise
            self.accepted.set_exception(error)
        finally:
            if not self.accepted.done():
                self.accepted.set_exception(self._unanswered)

    def on_end(self) -> None:
        """It is over, also where it has not begun, and the connection about to be closed."""
