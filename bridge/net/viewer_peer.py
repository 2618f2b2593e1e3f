"""The peer of one viewer: it answers an offer to receive what a session shows to many."""

import time
from collections.abc import Callable, Mapping

from aiortc import RTCDtlsTransport

from bridge.media.access_unit import Kind
from bridge.media.clock import NS_PER_S
from bridge.net.aiortc_sender import SenderClock
from bridge.net.ice import IceSettings
from bridge.net.sdp import Description, trickling, without_extension
from bridge.net.sending_peer import SendingPeer
from bridge.net.shared_track import SharedTrack
from bridge.net.viewer_sender import ViewerSender
from bridge.protocols.header_extension import CAPTURE_TIME_URI
from bridge.protocols.whip_sdp import H264Profile, with_profile

# A player reports what it has received every second, RFC 3550 §6.2 has it do so every five at the least. Whoever has
# reported nothing new for as long as four of those does not read, or is not there: ICE may still have its consent.
UNREAD_S = 20.0


class ViewerPeer(SendingPeer):
    """Sends H.264 or Opus, or both, whatever the offer asks for; `protocols.whep` has seen to it that it can be had.

    pictures   what they are.  profile: of the offer's payload type for them; empty: it wants none.
    on_ready   a track of it can begin.  on_gone: the connection is lost, as `run` finds out too.
    may_reach  whether ICE may try an address of the viewer's; others are counted among `rejected_candidates`.
    """

    def __init__(
        self,
        ice: IceSettings,
        tracks: Mapping[Kind, SharedTrack],
        clock: SenderClock,
        pictures: H264Profile,
        *,
        profile: str,
        on_ready: Callable[[ViewerSender], None],
        on_gone: Callable[[], None],
        on_keyframe_request: Callable[[], None],
        may_reach: Callable[[str], bool],
    ) -> None:
        # As offered, with the level of the pictures (RFC 6184 §8.2.2).
        self._answered = H264Profile(profile or pictures.profile, pictures.level_idc)
        super().__init__(ice, on_keyframe_request, profile_level_id=self._answered.known_id, clock=clock)
        self.senders: list[ViewerSender] = []
        self._tracks = tracks
        self._on_ready = on_ready
        self._on_gone = on_gone
        self._may_reach = may_reach
        self._received_ns = 0

    def has_stopped_reading(self, now_ns: int) -> bool:
        """Whether it is connected, and has not said for long that anything has come."""
        if self._received_ns == 0 and self.is_connected:
            self._received_ns = now_ns
        return self._received_ns > 0 and now_ns - self._received_ns > UNREAD_S * NS_PER_S

    def _make_sender(self, kind: Kind, transport: RTCDtlsTransport) -> ViewerSender:
        sender = ViewerSender(
            self._tracks[kind],
            transport,
            self._clock,
            self._on_ready,
            self._on_gone,
            self._on_keyframe_request,
            self._on_received,
        )
        self.senders.append(sender)
        return sender

    def _on_received(self) -> None:
        self._received_ns = time.monotonic_ns()

    def _may_try(self, address: str) -> bool:
        return self._may_reach(address)

    def _check_codecs(self, description: Description, what: str) -> None:
        pass

    def _amended(self, sdp: str) -> str:
        return trickling(with_profile(without_extension(sdp, CAPTURE_TIME_URI), self._answered))
