"""aiortc's peer connection, with what it lacks at its end."""

from aiortc import RTCPeerConnection
from aiortc.exceptions import InvalidStateError

PRIVATE_NAMES = ("aiortc.rtcpeerconnection:RTCPeerConnection._RTCPeerConnection__connect",)


class ClosablePeerConnection(RTCPeerConnection):
    """One that may be closed while it connects."""

    async def _RTCPeerConnection__connect(self) -> None:
        try:
            await getattr(super(), "_RTCPeerConnection__connect")()  # noqa: B009  mypy knows no mangled names
        except InvalidStateError:
            # It runs in a task that nobody waits for, and goes on with the next section after the close.
            if self.signalingState != "closed":
                raise
