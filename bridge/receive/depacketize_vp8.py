"""VP8 in RTP (RFC 7741)."""

from dataclasses import dataclass, field
from typing import NamedTuple

from bridge.media.access_unit import Codec
from bridge.receive.jitter import ReceiveStats
from bridge.receive.pictures import MAX_UNIT_BYTES, Picture, PictureDepacketizer
from bridge.receive.sender_clock import SenderClock

# RFC 6386 §9.1: a keyframe's header has this behind its three bytes of frame tag, and seven bytes in all before data.
_START_CODE = b"\x9d\x01\x2a"
_KEYFRAME_HEADER_BYTES = 10


class _Descriptor(NamedTuple):
    """The payload descriptor (RFC 7741 §4.2). None: it is not there.

    starts_frame  S is set and PID is 0: the payload is the beginning of the frame's first partition.
    picture_id    of `n_ids` that there are before they wrap, 2^7 or 2^15.
    base_picture  TL0PICIDX: counts pictures of the lowest temporal layer, 8 bits.  layer: TID.
    """

    n_bytes: int
    starts_frame: bool
    picture_id: int | None = None
    n_ids: int = 0
    base_picture: int | None = None
    layer: int | None = None


def _read_descriptor(payload: bytes) -> _Descriptor | None:
    """None: it goes past the end of the payload, or nothing follows it."""
    try:
        first, position = payload[0], 1
        starts_frame = bool(first & 0x10) and not first & 0x07
        picture_id = base_picture = layer = None
        n_ids = 0
        if first & 0x80:  # X
            extension, position = payload[1], 2
            if extension & 0x80:  # I
                picture_id, n_ids, position = payload[position], 1 << 7, position + 1
                if picture_id & 0x80:  # M
                    picture_id, n_ids = (picture_id & 0x7F) << 8 | payload[position], 1 << 15
                    position += 1
            if extension & 0x40:  # L
                base_picture, position = payload[position], position + 1
            if extension & 0x30:  # T or K
                if extension & 0x20:
                    layer = payload[position] >> 6
                position += 1
    except IndexError:
        return None
    if position >= len(payload):
        return None
    return _Descriptor(position, starts_frame, picture_id, n_ids, base_picture, layer)


@dataclass(slots=True)
class _Picture(Picture):
    descriptor: _Descriptor | None = None
    parts: list[bytes] = field(default_factory=list)

    @property
    def has_pictures(self) -> bool:
        return bool(self.parts)

    @property
    def payload(self) -> bytes:
        return b"".join(self.parts)

    def take(self, payload: bytes) -> bool:
        descriptor = _read_descriptor(payload)
        self.n_bytes += len(payload)
        if descriptor is None or self.n_bytes > MAX_UNIT_BYTES:
            return False
        # One frame has one timestamp, so its first partition begins once.
        if descriptor.starts_frame == bool(self.parts):
            return False
        data = payload[descriptor.n_bytes :]
        if not self.parts:
            self.descriptor = descriptor
            self.is_keyframe = not data[0] & 0x01  # RFC 6386 §9.1: the frame tag's first bit
        self.parts.append(data)
        return True

    def lacks_start_of(self, payload: bytes) -> bool:
        descriptor = _read_descriptor(payload)
        return descriptor is not None and not descriptor.starts_frame and self.is_after_loss and not self.parts


class Vp8Depacketizer(PictureDepacketizer[_Picture]):
    """Frames that can be decoded, each from the first byte of its first partition to its marker bit.

    Numbers of pictures that are left out though no packet is missing (RFC 7741 §4.2, PictureID) are a loss before the
    sender's last hop, unless TL0PICIDX shows that only pictures were left out that this one does not refer to. A
    keyframe refers to none.
    """

    codec = Codec.VP8

    def __init__(self, clock: SenderClock, stats: ReceiveStats) -> None:
        super().__init__(clock, stats)
        self._last: _Descriptor | None = None

    def _begin(self, rtp_timestamp: int, rtp_ticks: int, is_after_loss: bool, arrival_ns: int) -> _Picture:
        return _Picture(rtp_timestamp, rtp_ticks, is_after_loss, arrival_ns, arrival_ns)

    def starts_keyframe(self, payload: bytes) -> bool:
        descriptor = _read_descriptor(payload)
        return descriptor is not None and descriptor.starts_frame and not payload[descriptor.n_bytes] & 0x01

    def _configuration(self, picture: _Picture) -> bytes | None:
        last, self._last = self._last, picture.descriptor
        if picture.is_keyframe and not _is_keyframe(picture.payload):
            self._stats.invalid += 1
            return None
        if not picture.is_keyframe and last is not None and _is_gap(last, picture.descriptor):
            return None
        return b""


def _is_keyframe(frame: bytes) -> bool:
    return len(frame) >= _KEYFRAME_HEADER_BYTES and frame[3:6] == _START_CODE


def _is_gap(last: _Descriptor, now: _Descriptor | None) -> bool:
    """Whether a picture is missing between the two that the second one may refer to."""
    if now is None or last.picture_id is None or now.picture_id is None or last.n_ids != now.n_ids:
        return False
    if now.picture_id == (last.picture_id + 1) % now.n_ids:
        return False
    # Pictures of the lowest layer refer to none but such (RFC 7741 §4.2, TID).
    if now.layer == 0 and last.base_picture is not None and now.base_picture is not None:
        return now.base_picture != (last.base_picture + 1) % 256
    return True
