"""RTP payloads to access units: the front door of what there is for each codec.

Packets come in sequence order; a step of more than one is a loss. Nothing that arrives makes a depacketizer raise:
payloads that break their format are counted and dropped with the unit they belong to.
"""

from collections.abc import Sequence
from typing import Protocol

from bridge.media.access_unit import Codec, ReceivedUnit
from bridge.media.rtp import RtpPacket
from bridge.receive.depacketize_h264 import H264Depacketizer
from bridge.receive.depacketize_sound import SoundDepacketizer
from bridge.receive.depacketize_vp8 import Vp8Depacketizer
from bridge.receive.jitter import ReceiveStats
from bridge.receive.pictures import MAX_UNIT_BYTES
from bridge.receive.sender_clock import SenderClock

__all__ = [
    "MAX_UNIT_BYTES",
    "Depacketizer",
    "H264Depacketizer",
    "SenderClock",
    "SoundDepacketizer",
    "Vp8Depacketizer",
    "open_depacketizer",
]


class Depacketizer(Protocol):
    """Collects the packets of one track into units.

    `lacks_keyframe`: something was lost or dropped, and no keyframe has come since. Never true for sound.
    """

    @property
    def lacks_keyframe(self) -> bool: ...

    def push(self, packet: RtpPacket) -> Sequence[ReceivedUnit]: ...

    def starts_keyframe(self, payload: bytes) -> bool:
        """Whether a packet begins a picture that can be decoded without anything before it."""
        ...


def open_depacketizer(codec: Codec, clock: SenderClock, stats: ReceiveStats) -> Depacketizer:
    """A fresh one for what a track sends from now on."""
    match codec:
        case Codec.H264:
            return H264Depacketizer(clock, stats)
        case Codec.VP8:
            return Vp8Depacketizer(clock, stats)
        case _:
            return SoundDepacketizer(codec, clock, stats)
