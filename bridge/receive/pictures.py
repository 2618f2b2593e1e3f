"""How the packets of a video track become pictures that can be decoded, whatever their codec."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from bridge.media.access_unit import Codec, ReceivedUnit
from bridge.media.rtp import RtpPacket
from bridge.receive.jitter import ReceiveStats
from bridge.receive.sender_clock import SenderClock

# A picture that never ends must not take memory without limit. No live picture comes near: at 25 per second this
# would be 840 Mb/s.
MAX_UNIT_BYTES = 4 * 2**20


@dataclass(slots=True)
class Picture(ABC):
    """Payloads of one timestamp as they come together.

    rtp_timestamp     as on the wire; rtp_ticks: unwrapped.
    is_after_loss     packets are missing right before its first one: they may have belonged to it.
    is_broken         cannot be completed any more.
    captured_ntp_ns   as in `ReceivedUnit`.
    """

    rtp_timestamp: int
    rtp_ticks: int
    is_after_loss: bool
    first_arrival_ns: int
    last_arrival_ns: int
    is_broken: bool = False
    is_keyframe: bool = False
    n_bytes: int = 0
    captured_ntp_ns: int = 0

    @abstractmethod
    def take(self, payload: bytes) -> bool:
        """Add one packet's payload, which is not empty; false when it breaks its format."""

    @abstractmethod
    def lacks_start_of(self, payload: bytes) -> bool:
        """Whether a payload that could not be taken goes on with something whose start may be what was lost."""

    @property
    @abstractmethod
    def has_pictures(self) -> bool:
        """Whether anything of it is to be shown."""

    @property
    @abstractmethod
    def payload(self) -> bytes:
        """As in `AccessUnit`."""


PictureT = TypeVar("PictureT", bound=Picture)


class PictureDepacketizer(ABC, Generic[PictureT]):
    """Collects packets into pictures; a codec's own one knows how they are read, and what it takes to decode one.

    A picture is handed out at its marker bit, or when the next timestamp begins without one. After a loss nothing is
    handed out until an intact keyframe.
    """

    codec: ClassVar[Codec]

    def __init__(self, clock: SenderClock, stats: ReceiveStats) -> None:
        self.lacks_keyframe = False
        self._clock = clock
        self._stats = stats
        self._ssrc = self._expected = -1
        self._picture: PictureT | None = None
        self._is_after_loss = False
        self._awaiting_keyframe = True
        self._has_delivered = False
        self._is_discontinuity = False

    @abstractmethod
    def _begin(self, rtp_timestamp: int, rtp_ticks: int, is_after_loss: bool, arrival_ns: int) -> PictureT:
        """A picture of which nothing has come yet."""

    @abstractmethod
    def _configuration(self, picture: PictureT) -> bytes | None:
        """What a decoder needs before a picture, `codec_config`; None when it cannot be decoded."""

    def push(self, packet: RtpPacket) -> Sequence[ReceivedUnit]:
        units: list[ReceivedUnit] = []
        picture, arrival_ns = self._picture, packet.arrival_ns
        if packet.sequence_number != self._expected or packet.ssrc != self._ssrc:
            self._is_after_loss = True
            self._is_discontinuity = self._has_delivered
            if picture is not None:
                self._drop(picture)  # its end may be what is missing
        self._expected = (packet.sequence_number + 1) & 0xFFFF
        self._ssrc = packet.ssrc
        is_next = picture is None or packet.rtp_timestamp != picture.rtp_timestamp
        if is_next and not packet.payload:
            return units  # padding between pictures
        if picture is None or is_next:
            if picture is not None:
                self._finish(picture, units)
            rtp_ticks = self._clock.ticks(packet.ssrc, packet.rtp_timestamp)
            picture = self._begin(packet.rtp_timestamp, rtp_ticks, self._is_after_loss, arrival_ns)
            self._picture = picture
        # A retransmitted packet arrives after those that follow it.
        elif arrival_ns > picture.last_arrival_ns:
            picture.last_arrival_ns = arrival_ns
        elif arrival_ns < picture.first_arrival_ns:
            picture.first_arrival_ns = arrival_ns
        self._is_after_loss = False
        if packet.captured_ntp_ns:
            picture.captured_ntp_ns = packet.captured_ntp_ns
        if packet.payload and not picture.is_broken and not picture.take(packet.payload):
            if not picture.lacks_start_of(packet.payload):
                self._stats.invalid += 1
            self._drop(picture)
        if packet.marker:
            self._finish(picture, units)
            self._picture = None
        return units

    def _drop(self, picture: PictureT) -> None:
        """The picture cannot be decoded, and with it all that refer to it."""
        picture.is_broken = True
        self._is_discontinuity = self._has_delivered
        self._awaiting_keyframe = True
        self.lacks_keyframe = True

    def _finish(self, picture: PictureT, units: list[ReceivedUnit]) -> None:
        """Hand the picture out, if it is one and can be decoded."""
        self._on_end(picture)
        if picture.is_after_loss:
            self._awaiting_keyframe = True
        if picture.is_broken or not picture.has_pictures:
            return
        codec_config = self._configuration(picture)
        if codec_config is None or (self._awaiting_keyframe and not picture.is_keyframe):
            self._drop(picture)
            return
        units.append(
            ReceivedUnit(
                self.codec,
                picture.payload,
                picture.rtp_ticks,
                0,
                picture.is_keyframe,
                codec_config,
                picture.first_arrival_ns,
                picture.last_arrival_ns,
                self._is_discontinuity,
                captured_ntp_ns=picture.captured_ntp_ns,
            )
        )
        self._has_delivered = True
        self._is_discontinuity = False
        if picture.is_keyframe:
            self._awaiting_keyframe = False
            self.lacks_keyframe = False

    def _on_end(self, picture: PictureT) -> None:
        """All of a picture is there that will come, even of a broken one."""
