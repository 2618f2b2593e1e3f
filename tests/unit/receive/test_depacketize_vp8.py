"""VP8 in RTP: whole frames or none, and never one that refers to what is missing."""

from collections.abc import Iterable

import pytest

from bridge.media.access_unit import Codec, ReceivedUnit
from bridge.media.rtp import RtpPacket
from bridge.receive.depacketize import MAX_UNIT_BYTES, Vp8Depacketizer
from bridge.receive.jitter import ReceiveStats
from bridge.receive.sender_clock import SenderClock
from bridge.receive.track import TrackReceiver
from tests.unit.receive.streams import IDR, PPS, SPS, Sender, avcc, stap_a

VP8_TYPE = 98
# RFC 6386 §9.1: frame tag, start code, 160x120.
KEYFRAME = b"\x10\x02\x00\x9d\x01\x2a\xa0\x00\x78\x00" + bytes(range(50))
FRAME = b"\x11\x02\x00" + bytes(range(50))


class Rig:
    def __init__(self) -> None:
        self.stats = ReceiveStats()
        self.depacketizer = Vp8Depacketizer(SenderClock(), self.stats)

    def push(self, packets: Iterable[RtpPacket]) -> list[ReceivedUnit]:
        return [unit for packet in packets for unit in self.depacketizer.push(packet)]


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def sender() -> Sender:
    return Sender(payload_type=VP8_TYPE)


def split(frame: bytes, n_packets: int = 1, extension: bytes = b"") -> list[bytes]:
    """Payloads without an extension, or with these bytes behind the descriptor's first one (RFC 7741 §4.2)."""
    size = -(-len(frame) // n_packets)
    pieces = [frame[i : i + size] for i in range(0, len(frame), size)]
    x = 0x80 if extension else 0
    return [bytes([x | (0x10 if i == 0 else 0)]) + extension + piece for i, piece in enumerate(pieces)]


def numbered(frame: bytes, picture_id: int, n_packets: int = 1) -> list[bytes]:
    return split(frame, n_packets, b"\x80" + (0x8000 | picture_id).to_bytes(2, "big"))


def layered(frame: bytes, picture_id: int, base_picture: int, layer: int) -> list[bytes]:
    return split(frame, 1, b"\xe0" + (0x8000 | picture_id).to_bytes(2, "big") + bytes([base_picture, layer << 6]))


# ------------------------------------------------------------------------------------------- packet formats


@pytest.mark.parametrize("n_packets", [1, 2, 7])
def test_a_frame_is_handed_out_whole_at_its_marker_bit(rig: Rig, sender: Sender, n_packets: int) -> None:
    packets = sender.unit(split(KEYFRAME, n_packets))
    assert rig.push(packets[:-1]) == []
    (unit,) = rig.push(packets[-1:])
    assert unit == ReceivedUnit(Codec.VP8, KEYFRAME, 5000, 0, True, b"", 0, 0)
    (unit,) = rig.push(sender.unit(split(FRAME, n_packets)))
    assert (unit.payload, unit.is_keyframe, unit.is_discontinuity) == (FRAME, False, False)


@pytest.mark.parametrize(
    "extension",
    [
        b"\x00",  # X, and none of what it announces
        b"\x80\x11",  # I, 7 bits
        b"\x80\x91\x22",  # I, 15 bits
        b"\x40\x05",  # L
        b"\x20\x60",  # T
        b"\x10\x03",  # K
        b"\x30\x63",  # T and K share a byte
        b"\xf0\x91\x22\x05\x63",  # all
    ],
    ids=lambda extension: extension.hex(),
)
def test_the_descriptor_is_left_out_whatever_it_says(rig: Rig, sender: Sender, extension: bytes) -> None:
    (unit,) = rig.push(sender.unit(split(KEYFRAME, 3, extension)))
    assert unit.payload == KEYFRAME


def test_later_partitions_go_on_with_the_frame(rig: Rig, sender: Sender) -> None:
    first, second = split(KEYFRAME, 2)
    starts_partition_1 = bytes([0x11]) + second[1:]
    (unit,) = rig.push(sender.unit([first, starts_partition_1]))
    assert unit.payload == KEYFRAME


def test_a_frame_without_a_marker_bit_ends_where_the_next_one_begins(rig: Rig, sender: Sender) -> None:
    packets = sender.unit(split(KEYFRAME, 2), marked=False)
    assert rig.push(packets) == []
    (unit,) = rig.push(sender.unit(split(FRAME), marked=False))
    assert unit.payload == KEYFRAME


@pytest.mark.parametrize(
    "payload",
    [
        b"\x10",
        b"\x90",
        b"\x90\x80",
        b"\x90\x80\x91",
        b"\x90\xf0\x91\x22\x05",
        b"\x90\xf0\x91\x22\x05\x63",
        b"\x00" + FRAME,
        b"\x10" + KEYFRAME[:9],
        b"\x10" + KEYFRAME.replace(b"\x9d\x01\x2a", b"\x9d\x01\x2b"),
    ],
    ids=lambda payload: payload.hex()[:16],
)
def test_a_payload_that_breaks_its_format_is_counted_and_dropped(rig: Rig, sender: Sender, payload: bytes) -> None:
    rig.push(sender.unit(split(KEYFRAME)))
    assert rig.push(sender.unit([payload])) == []
    assert rig.stats.invalid == 1 and rig.depacketizer.lacks_keyframe


def test_a_frame_that_begins_twice_is_none(rig: Rig, sender: Sender) -> None:
    assert rig.push(sender.unit([*split(KEYFRAME), *split(KEYFRAME)])) == []
    assert rig.stats.invalid == 1


def test_a_frame_without_end_takes_no_memory_without_end(rig: Rig, sender: Sender) -> None:
    chunk = bytes(2**20)
    payloads = [*split(KEYFRAME), *[b"\x00" + chunk] * (MAX_UNIT_BYTES // 2**20)]
    assert rig.push(sender.unit(payloads)) == []
    assert rig.stats.invalid == 1


# ------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_after_a_loss_nothing_is_shown_until_a_whole_keyframe(rig: Rig, sender: Sender, lost: int) -> None:
    rig.push(sender.unit(split(KEYFRAME)))
    packets = sender.unit(split(FRAME, 3))
    del packets[lost]
    # A lost end shows with the next frame.
    assert rig.push([*packets, *sender.unit(split(FRAME))]) == []
    assert rig.depacketizer.lacks_keyframe and rig.stats.invalid == 0
    incomplete = sender.unit(split(KEYFRAME, 3))
    assert rig.push(incomplete[:1] + incomplete[2:]) == []
    (unit,) = rig.push(sender.unit(split(KEYFRAME, 3)))
    assert unit.is_keyframe and unit.is_discontinuity
    assert not rig.depacketizer.lacks_keyframe
    assert len(rig.push(sender.unit(split(FRAME)))) == 1


def test_a_keyframe_right_behind_a_loss_is_whole_if_its_beginning_is_there(rig: Rig, sender: Sender) -> None:
    rig.push(sender.unit(split(KEYFRAME)))
    sender.unit(split(FRAME))  # lost
    (unit,) = rig.push(sender.unit(split(KEYFRAME, 2)))
    assert unit.is_discontinuity


@pytest.mark.parametrize("first", [0, 126, 127, 32_766, 32_767])
def test_picture_numbers_wrap(rig: Rig, sender: Sender, first: int) -> None:
    for step in range(3):
        number = (first + step) % 2**15
        assert len(rig.push(sender.unit(numbered(FRAME if step else KEYFRAME, number)))) == 1
    assert not rig.depacketizer.lacks_keyframe


def test_picture_numbers_of_seven_bits_wrap_too(rig: Rig, sender: Sender) -> None:
    for number in (126, 127, 0, 1):
        frame = KEYFRAME if number == 126 else FRAME
        assert len(rig.push(sender.unit(split(frame, 2, bytes([0x80, number]))))) == 1


def test_a_number_left_out_is_a_picture_lost_before_the_last_hop(rig: Rig, sender: Sender) -> None:
    rig.push(sender.unit(numbered(KEYFRAME, 10)))
    assert rig.push(sender.unit(numbered(FRAME, 12))) == []
    assert rig.push(sender.unit(numbered(FRAME, 13))) == []
    assert rig.depacketizer.lacks_keyframe and rig.stats.invalid == 0
    (unit,) = rig.push(sender.unit(numbered(KEYFRAME, 20)))
    assert unit.is_discontinuity
    assert len(rig.push(sender.unit(numbered(FRAME, 21)))) == 1


def test_upper_layers_that_a_middlebox_leaves_out_are_no_loss(rig: Rig, sender: Sender) -> None:
    rig.push(sender.unit(layered(KEYFRAME, 10, 255, 0)))
    assert len(rig.push(sender.unit(layered(FRAME, 12, 0, 0)))) == 1
    assert len(rig.push(sender.unit(layered(FRAME, 14, 1, 0)))) == 1
    assert rig.push(sender.unit(layered(FRAME, 18, 3, 0))) == [], "a picture of the lowest layer is missing"


def test_an_upper_layer_behind_a_gap_may_refer_to_what_is_missing(rig: Rig, sender: Sender) -> None:
    rig.push(sender.unit(layered(KEYFRAME, 10, 1, 0)))
    assert rig.push(sender.unit(layered(FRAME, 12, 1, 1))) == []


# ------------------------------------------------------------------------------------------- as a track


def test_a_track_of_vp8_asks_for_a_keyframe_after_a_loss(sender: Sender) -> None:
    receiver = TrackReceiver({VP8_TYPE: Codec.VP8}, "video", 0)
    units = [unit for packet in sender.unit(split(KEYFRAME)) for unit in receiver.push(packet)]
    assert [unit.is_keyframe for unit in units] == [True]
    sender.unit(numbered(FRAME, 3))
    sender.at_ms += 1000
    for packet in sender.unit(split(FRAME)):
        receiver.push(packet)
    lost_at_ns = receiver.next_deadline_ns()
    assert lost_at_ns is not None
    assert receiver.poll(lost_at_ns).nacks
    assert receiver.poll(lost_at_ns + 300_000_000).keyframe_reason == "loss"


def test_a_track_goes_on_in_another_codec_from_its_keyframe(sender: Sender) -> None:
    receiver = TrackReceiver({102: Codec.H264, VP8_TYPE: Codec.VP8}, "video", 0)

    def push(packets: list[RtpPacket], payload_type: int) -> list[ReceivedUnit]:
        retyped = [packet._replace(payload_type=payload_type) for packet in packets]
        return [unit for packet in retyped for unit in receiver.push(packet)]

    (unit,) = push(sender.unit([stap_a(SPS, PPS), IDR]), 102)
    assert (unit.codec, unit.payload) == (Codec.H264, avcc(IDR))
    assert push(sender.unit(split(FRAME)), VP8_TYPE) == []
    (unit,) = push(sender.unit(split(KEYFRAME)), VP8_TYPE)
    assert (unit.codec, unit.payload) == (Codec.VP8, KEYFRAME)
    (unit,) = push(sender.unit([stap_a(SPS, PPS), IDR]), 102)
    assert unit.codec is Codec.H264
