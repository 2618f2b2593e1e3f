"""One viewer of a `whep:` output, from its offer to its end."""

import asyncio
from collections import Counter
from collections.abc import Callable

import structlog

from bridge.errors import OutputLost
from bridge.net.answered import Answered
from bridge.net.peer import ViewerPeer
from bridge.protocols.whep import Wanted

# One viewer makes the avatar produce at most one keyframe more in this time: it is ten pictures' worth of bits, which
# the pictures after it lack, at every output.
KEYFRAME_EVERY_S = 10.0

log = structlog.get_logger()


class Viewer(Answered):
    """Its connection.

    wanted        what its offer asks for.
    open_peer     makes the peer of this viewer.  on_end: told of its end, before the connection is closed.
    want_keyframe its decoder is in need of one.
    """

    peer: ViewerPeer

    def __init__(
        self,
        wanted: Wanted,
        open_peer: Callable[["Viewer"], ViewerPeer],
        on_end: Callable[["Viewer"], None],
        want_keyframe: Callable[[], None],
    ) -> None:
        self.wanted = wanted
        self._on_end = on_end
        self._want_keyframe = want_keyframe
        self._keyframes_asked = 0
        self._asked_s = -KEYFRAME_EVERY_S
        super().__init__(open_peer(self), OutputLost("the session has ended"))

    def counts(self) -> Counter[str]:
        """What it has had so far, and what it has asked for."""
        counts = Counter(bytes=self.peer.payload_bytes_sent, keyframes_asked=self._keyframes_asked)
        for sender in self.peer.senders:
            counts.update(repeats_asked=sender.repeats_asked, packets_dropped=sender.dropped_packets)
        return counts

    def end(self, why: str) -> None:
        log.info("viewer_ended", reason=why)
        self.task.cancel()

    def on_end(self) -> None:
        self._on_end(self)

    def on_gone(self) -> None:
        """Its connection is lost, as `run` finds out too."""
        self.task.cancel()

    def on_keyframe_request(self) -> None:
        self._keyframes_asked += 1
        now_s = asyncio.get_running_loop().time()
        if now_s - self._asked_s >= KEYFRAME_EVERY_S:
            self._asked_s = now_s
            self._want_keyframe()
