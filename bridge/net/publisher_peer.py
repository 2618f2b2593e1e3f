"""The peer that receives what a publisher sends: its sound."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

from aiortc import RTCRtpTransceiver
from aiortc.sdp import MediaDescription

from bridge.errors import SourceLost
from bridge.media.access_unit import Codec
from bridge.media.clock import NS_PER_S
from bridge.net.codecs import codec_name, preferences
from bridge.net.data_channels import DataChannels
from bridge.net.ice import IceSettings
from bridge.net.receiving_peer import MEDIA_LOST_S, ReceivingPeer
from bridge.net.sdp import Description, Section, offered_codecs, trickling, unusable, with_nack
from bridge.ports import RemoteTrack, TrackSink

_TELEPHONY = (Codec.PCMU, Codec.PCMA)


class PublisherPeer(ReceivingPeer):
    """Answers an offer to send sound: Opus, or G.711 where there is no Opus. Other sections are declined.

    A publisher that sends nothing stays as long as ICE has its consent (30 s, RFC 7675): it may be muted.

    may_reach  whether ICE may try an address of the publisher's; others are counted among `rejected_candidates`.
    """

    def __init__(
        self,
        ice: IceSettings,
        on_track: Callable[[RemoteTrack], TrackSink],
        may_reach: Callable[[str], bool],
        data: DataChannels | None = None,
    ) -> None:
        super().__init__(ice, on_track, lost=SourceLost, data=data)
        self._may_reach = may_reach
        self._began_ns = time.monotonic_ns()

    @property
    def is_silent(self) -> bool:
        """Whether nothing has come for so long that this publisher is likely to have gone."""
        heard_ns = max((receiver.last_arrival_ns for receiver in self._receivers), default=0)
        return time.monotonic_ns() - max(heard_ns, self._began_ns) >= MEDIA_LOST_S * NS_PER_S

    async def _watch(self) -> Any:
        await asyncio.Event().wait()

    def _may_try(self, address: str) -> bool:
        return self._may_reach(address)

    def _check_codecs(self, description: Description, what: str) -> None:
        if not any(map(self._takes, description.outline)):
            there_is = ", ".join(description.codecs("audio")) or "no sound"
            raise unusable(f"the {what} has no Opus, PCMU or PCMA (it has {there_is})")

    def _takes(self, section: Section) -> bool:
        return section.kind == "audio" and bool(_taken(section.codecs))

    def _amended(self, sdp: str) -> str:
        assert self._remote is not None
        sections = filter(self._takes, self._remote.outline)
        sound = next((section for section in sections if section.kind == "audio"), None)
        return trickling(sdp if sound is None else with_nack(sdp, sound))

    def _prefer(self, transceiver: RTCRtpTransceiver, offered: MediaDescription | None) -> None:
        assert offered is not None
        transceiver.setCodecPreferences(preferences(*_taken(offered_codecs(offered))))


def _taken(names: Iterable[str]) -> tuple[Codec, ...]:
    """Of the codecs of a section those to agree to: one rate, whatever the publisher switches to."""
    known = {name.lower() for name in names}
    if Codec.OPUS in known:
        return (Codec.OPUS,)
    return tuple(codec for codec in _TELEPHONY if codec_name(codec).lower() in known)
