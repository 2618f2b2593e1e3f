"""One session at a WHIP server: the media connection, and the HTTP that has made it and ends it."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

from bridge.errors import OutputLost
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.h264 import with_parameter_sets
from bridge.net.ice import IceSettings
from bridge.net.race import race
from bridge.net.sending_peer import SendingPeer
from bridge.outputs.whip_signalling import WhipSignalling
from bridge.protocols.whip_sdp import (
    H264Profile,
    candidate_fragment,
    check_answer,
    picture_profile,
    publishing_offer,
)

# Direct ways are found within a few round trips, or not at all; relays cost the server, and delay.
DIRECT_S = 1.0


class WhipSession:
    """Offers H.264 and Opus, and sends them as they are.

    Whoever has made one closes it; that deletes the session at the server. The server's requests for keyframes (PLI,
    FIR) go to `on_keyframe_request`.
    """

    def __init__(
        self,
        signalling: WhipSignalling,
        ice: IceSettings,
        pictures: H264Profile,
        on_keyframe_request: Callable[[], None],
    ) -> None:
        self._signalling = signalling
        self._peer = SendingPeer(ice, on_keyframe_request, profile_level_id=pictures.known_id)
        self._pictures = pictures
        self._opened = AsyncExitStack()

    @property
    def payload_bytes_sent(self) -> int:
        return self._peer.payload_bytes_sent

    @property
    def refused_with(self) -> int | None:
        """The HTTP status that the server has refused the offer with; None: it has not."""
        return self._signalling.refused_with

    @property
    def is_lost(self) -> bool:
        return not self._peer.is_connected

    @property
    def is_silent(self) -> bool:
        """Whether the server seems not to hear us."""
        return self._peer.is_silent

    async def connect(self) -> None:
        """Publish, until media can flow. Raises OutputRejected, OutputLost, RemoteProtocolError."""
        # The peer goes last: DELETE tells the server before its media ends.
        await self._opened.enter_async_context(self._peer)
        await self._opened.enter_async_context(self._signalling)
        offer = publishing_offer(await self._peer.offer(), self._pictures)
        answer = await self._signalling.post(offer, f"{self._pictures} and Opus")
        check_answer(answer, self._pictures)
        await self._peer.accept(answer)
        await race(self._find_way(offer), self._peer.run())
        if self.is_lost:
            await self.run()  # raises why

    async def reach(self) -> None:
        """See that the server answers, without publishing. Raises OutputLost, OutputRejected."""
        await self._opened.enter_async_context(self._signalling)
        await self._signalling.reach()

    async def close(self) -> None:
        await self._opened.aclose()

    async def run(self) -> None:
        """Watch the media connection; never returns. Raises OutputLost when it is gone."""
        await self._peer.run()

    async def silent(self) -> None:
        """Wait until the server seems not to hear us."""
        await self._peer.silent()

    async def heard(self) -> None:
        """Wait until the server seems to hear us again."""
        await self._peer.heard()

    def send(self, unit: AccessUnit) -> bool:
        """Whether it has left. Raises OutputLost when the pictures are no longer as negotiated."""
        if unit.codec is Codec.OPUS:
            return self._peer.send_audio(unit.payload, unit.pts_ns)
        return self._peer.send_video(self._nals(unit), unit.pts_ns)

    def _nals(self, unit: AccessUnit) -> list[bytes]:
        """The NAL units of a picture, parameter sets before a keyframe."""
        if unit.codec_config:
            now = picture_profile(unit.codec_config)
            if not self._pictures.covers(now):
                raise OutputLost(f"profile changed from {self._pictures} to {now}: that takes another offer")
        return with_parameter_sets(unit.payload, unit.codec_config)

    async def _find_way(self, offer: str) -> None:
        """Wait for the media connection; where it finds no way at once, try the server's relays too."""
        try:
            async with asyncio.timeout(DIRECT_S):
                await self._peer.connected()
        except TimeoutError:
            await race(self._relay(offer), self._peer.connected())

    async def _relay(self, offer: str) -> None:
        candidates = await self._peer.add_relays(await self._signalling.ice_servers())
        if candidates:
            await self._signalling.trickle(candidate_fragment(offer, candidates))
        await self._peer.connected()
