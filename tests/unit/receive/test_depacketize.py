from collections.abc import Iterable
from itertools import pairwise

import pytest

from bridge.media.access_unit import Codec, ReceivedUnit
from bridge.media.clock import NS_PER_MS
from bridge.media.h264 import decoder_configuration
from bridge.media.rtp import RtpPacket, SenderReport
from bridge.receive.depacketize import (
    MAX_UNIT_BYTES,
    Depacketizer,
    SenderClock,
    open_depacketizer,
)
from bridge.receive.jitter import ReceiveStats
from tests.unit.receive.streams import (
    IDR,
    IDR_GOES_ON,
    OPUS_20_MS,
    OPUS_TYPE,
    PPS,
    SLICE,
    SPS,
    SSRC,
    TALL_SPS,
    Sender,
    avcc,
    fu_a,
    idr_with_pps,
    ms,
    opus_sender,
    packet,
    pps_with_ids,
    sps_with_id,
    stap_a,
)


class Rig:
    def __init__(self, codec: Codec = Codec.H264) -> None:
        self.stats = ReceiveStats()
        self.depacketizer: Depacketizer = open_depacketizer(codec, SenderClock(), self.stats)

    def push(self, packets: Iterable[RtpPacket]) -> list[ReceivedUnit]:
        return [unit for packet in packets for unit in self.depacketizer.push(packet)]


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def opus() -> Rig:
    return Rig(Codec.OPUS)


def without(packets: list[RtpPacket], *indexes: int) -> list[RtpPacket]:
    return [packet for index, packet in enumerate(packets) if index not in indexes]


# ------------------------------------------------------------------------------------------- packet formats


def test_single_nal_units_become_one_unit_at_the_marker_bit(rig: Rig) -> None:
    sender = Sender(timestamp=5000)
    packets = sender.unit([SPS, PPS, IDR])
    assert rig.push(packets[:2]) == []
    (unit,) = rig.push(packets[2:])
    assert unit == ReceivedUnit(Codec.H264, avcc(IDR), 5000, 0, True, decoder_configuration(SPS, PPS), 0, 0)


def test_aggregated_nal_units_are_taken_apart(rig: Rig) -> None:
    (unit,) = rig.push(Sender().unit([stap_a(SPS, PPS, IDR)]))
    assert unit.payload == avcc(IDR)
    assert unit.codec_config == decoder_configuration(SPS, PPS)


@pytest.mark.parametrize("n_packets", [2, 3, 50])
def test_fragments_are_joined(rig: Rig, n_packets: int) -> None:
    (unit,) = rig.push(Sender().unit([SPS, PPS, *fu_a(IDR, n_packets)]))
    assert unit.payload == avcc(IDR)


def test_several_slices_make_one_picture(rig: Rig) -> None:
    (unit,) = rig.push(Sender().unit([SPS, PPS, *fu_a(IDR, 2), *fu_a(IDR_GOES_ON, 2)]))
    assert unit.payload == avcc(IDR, IDR_GOES_ON)


def test_delimiters_and_filler_are_left_out_and_sei_stays(rig: Rig) -> None:
    delimiter, filler, sei = b"\x09\xf0", b"\x0c\xff\xff\x80", b"\x06\x05\x01\x00\x80"
    (unit,) = rig.push(Sender().unit([stap_a(delimiter, SPS, PPS, sei), IDR, filler]))
    assert unit.payload == avcc(sei, IDR)


def test_a_picture_that_is_no_keyframe_has_no_codec_config(rig: Rig) -> None:
    sender = Sender()
    keyframe, picture = rig.push([*sender.keyframe(), *sender.picture()])
    assert (keyframe.is_keyframe, picture.is_keyframe) == (True, False)
    assert picture.codec_config == b""
    assert picture.payload == avcc(SLICE)


def test_a_picture_whose_sender_sets_no_marker_is_handed_out_when_the_next_one_begins(rig: Rig) -> None:
    sender = Sender()
    assert rig.push(sender.unit([SPS, PPS, IDR], marked=False)) == []
    (unit,) = rig.push(sender.unit([SLICE], marked=False))
    assert unit.is_keyframe


def test_arrival_is_that_of_the_first_and_of_the_last_packet_to_come(rig: Rig) -> None:
    packets = Sender().unit([SPS, PPS, IDR])
    arrivals = [ms(3), ms(40), ms(5)]  # the second one was retransmitted
    (unit,) = rig.push(p._replace(arrival_ns=at_ns) for p, at_ns in zip(packets, arrivals, strict=True))
    assert (unit.first_arrival_ns, unit.arrival_ns) == (ms(3), ms(40))


# ------------------------------------------------------------------------------------------- parameter sets


def test_parameter_sets_are_kept_for_keyframes_that_come_without(rig: Rig) -> None:
    sender = Sender()
    units = rig.push([*sender.unit([SPS, PPS, IDR]), *sender.unit([IDR])])
    assert units[1].codec_config == units[0].codec_config == decoder_configuration(SPS, PPS)


def test_changed_parameter_sets_change_the_codec_config(rig: Rig) -> None:
    sender = Sender()
    units = rig.push([*sender.unit([SPS, PPS, IDR]), *sender.unit([TALL_SPS, PPS, IDR])])
    assert [u.codec_config for u in units] == [decoder_configuration(s, PPS) for s in (SPS, TALL_SPS)]


def test_parameter_sets_may_come_in_a_picture_of_their_own(rig: Rig) -> None:
    sender = Sender()
    units = rig.push([*sender.unit([SPS]), *sender.unit([PPS]), *sender.unit([IDR])])
    assert [unit.payload for unit in units] == [avcc(IDR)]


def test_parameter_sets_of_a_broken_keyframe_are_kept(rig: Rig) -> None:
    sender = Sender()
    assert rig.push(without(sender.keyframe(), 2)) == []
    (unit,) = rig.push(sender.unit([IDR]))
    assert unit.codec_config == decoder_configuration(SPS, PPS)


def test_a_keyframe_without_any_parameter_sets_is_dropped(rig: Rig) -> None:
    assert rig.push(Sender().unit([IDR])) == []
    assert rig.depacketizer.lacks_keyframe


def test_a_broken_sps_is_counted_and_its_keyframe_dropped(rig: Rig) -> None:
    sender = Sender()
    assert rig.push(sender.unit([SPS[:6], PPS, IDR])) == []
    assert rig.stats.invalid == 1
    assert len(rig.push(sender.keyframe())) == 1


OTHER_SPS, OTHER_PPS = sps_with_id(1, TALL_SPS), pps_with_ids(1, 1)


@pytest.mark.parametrize("sets", [[SPS, OTHER_SPS, PPS], [OTHER_SPS, SPS, PPS], [OTHER_SPS, OTHER_PPS, SPS, PPS]])
def test_a_keyframe_has_the_sps_that_its_slices_refer_to_and_no_other(rig: Rig, sets: list[bytes]) -> None:
    (unit,) = rig.push(Sender().unit([stap_a(*sets), IDR]))
    assert unit.codec_config == decoder_configuration(SPS, PPS)


def test_a_keyframe_has_the_pps_that_its_slices_refer_to_and_no_other(rig: Rig) -> None:
    second = pps_with_ids(1, 0)
    sender = Sender()
    first_unit, second_unit = rig.push([*sender.unit([stap_a(SPS, PPS, second), IDR]), *sender.unit([idr_with_pps(1)])])
    assert first_unit.codec_config == decoder_configuration(SPS, PPS)
    assert second_unit.codec_config == decoder_configuration(SPS, second)


def test_parameter_sets_that_are_sent_twice_are_taken_once(rig: Rig) -> None:
    sets = [SPS, OTHER_SPS, pps_with_ids(0, 1)]
    (unit,) = rig.push(Sender().unit([*sets, *sets, IDR]))
    assert unit.codec_config == decoder_configuration(OTHER_SPS, pps_with_ids(0, 1))


def test_a_keyframe_whose_slices_refer_to_two_pps_has_both(rig: Rig) -> None:
    second = pps_with_ids(1, 0)
    (unit,) = rig.push(Sender().unit([SPS, PPS, second, idr_with_pps(1), idr_with_pps(0, first_mb=9)]))
    assert unit.codec_config == decoder_configuration(SPS, PPS, second)


def test_a_keyframe_whose_slices_refer_to_two_sps_is_broken(rig: Rig) -> None:
    sets = [SPS, PPS, OTHER_SPS, OTHER_PPS]
    assert rig.push(Sender().unit([*sets, idr_with_pps(0), idr_with_pps(1, first_mb=9)])) == []
    assert rig.stats.invalid == 1


def test_parameter_sets_that_are_numbered_anew_at_every_keyframe_are_followed(rig: Rig) -> None:
    sender = Sender()
    for number in range(32):
        sps, pps = sps_with_id(number), pps_with_ids(number, number)
        (unit,) = rig.push(sender.unit([stap_a(sps, pps), idr_with_pps(number)]))
        assert unit.codec_config == decoder_configuration(sps, pps)


@pytest.mark.parametrize("sets", [[SPS, OTHER_PPS], [SPS, pps_with_ids(2, 0)], [PPS]])
def test_a_keyframe_one_of_whose_parameter_sets_has_not_come_is_dropped(rig: Rig, sets: list[bytes]) -> None:
    assert rig.push(Sender().unit([*sets, idr_with_pps(1)])) == []
    assert rig.depacketizer.lacks_keyframe
    assert rig.stats.invalid == 0


def test_a_keyframe_after_a_loss_that_brings_only_anothers_sps_is_not_intact(rig: Rig) -> None:
    sender = Sender()
    rig.push(sender.unit([SPS, PPS, IDR]))
    assert rig.push(without(sender.unit([SPS, OTHER_SPS, PPS, IDR]), 0)) == []
    assert len(rig.push(sender.unit([SPS, OTHER_SPS, PPS, IDR]))) == 1


@pytest.mark.parametrize("idr", [b"\x65", b"\x65\x80", b"\x65\x88\0\0\0\0\1", idr_with_pps(256)])
def test_a_keyframe_whose_slice_header_cannot_be_read_is_dropped_and_counted(rig: Rig, idr: bytes) -> None:
    assert rig.push(Sender().unit([SPS, PPS, idr])) == []
    assert rig.stats.invalid == 1


def test_the_slice_headers_of_other_pictures_are_not_read(rig: Rig) -> None:
    sender = Sender()
    rig.push(sender.keyframe())
    assert len(rig.push(sender.unit([b"\x61\x80"]))) == 1


# ------------------------------------------------------------------------------------------- loss


def test_pictures_before_the_first_keyframe_are_dropped(rig: Rig) -> None:
    sender = Sender()
    assert rig.push(sender.pictures(3)) == []
    assert rig.depacketizer.lacks_keyframe
    (unit,) = rig.push(sender.keyframe())
    assert not unit.is_discontinuity  # there is none before it
    assert not rig.depacketizer.lacks_keyframe


def test_after_a_loss_nothing_is_handed_out_until_a_keyframe(rig: Rig) -> None:
    sender = Sender()
    rig.push(sender.keyframe())
    assert rig.push(without(sender.picture(), 0)) == []
    assert rig.push(sender.pictures(3)) == []
    keyframe, picture = rig.push([*sender.keyframe(), *sender.picture()])
    assert keyframe.is_keyframe and keyframe.is_discontinuity
    assert not picture.is_discontinuity


def test_a_hole_inside_fragments_is_known_at_once(rig: Rig) -> None:
    sender = Sender()
    rig.push(sender.keyframe())
    packets = sender.unit(fu_a(SLICE, 4))
    assert rig.push([packets[0], packets[2]]) == []
    assert rig.depacketizer.lacks_keyframe
    assert rig.push([packets[3]]) == []


def test_a_lost_marker_packet_breaks_its_picture_and_all_that_refer_to_it(rig: Rig) -> None:
    sender = Sender()
    rig.push(sender.keyframe())
    assert rig.push(without(sender.picture(), 1)) == []
    assert rig.push(sender.picture()) == []
    assert rig.depacketizer.lacks_keyframe


def test_a_whole_picture_lost_between_two_breaks_those_that_refer_to_it(rig: Rig) -> None:
    sender = Sender()
    rig.push(sender.keyframe())
    sender.picture()
    assert rig.push(sender.picture()) == []
    assert rig.depacketizer.lacks_keyframe


def test_a_keyframe_right_after_a_loss_is_intact_when_it_brings_its_parameter_sets(rig: Rig) -> None:
    sender = Sender()
    rig.push(sender.keyframe())
    sender.picture()
    (unit,) = rig.push(sender.keyframe())
    assert unit.is_discontinuity
    assert not rig.depacketizer.lacks_keyframe


def test_a_keyframe_that_lost_its_parameter_sets_is_not_intact(rig: Rig) -> None:
    sender = Sender()
    rig.push(sender.keyframe())
    assert rig.push(without(sender.unit([stap_a(TALL_SPS, PPS), IDR]), 0)) == []
    assert rig.depacketizer.lacks_keyframe


def test_a_keyframe_that_lost_its_first_slice_is_not_intact(rig: Rig) -> None:
    sender = Sender()
    rig.push(sender.keyframe())
    assert rig.push(without(sender.unit([IDR, SPS, PPS, IDR_GOES_ON]), 0)) == []


def test_a_keyframe_in_the_middle_of_a_loss_free_stream_needs_no_parameter_sets(rig: Rig) -> None:
    sender = Sender()
    rig.push([*sender.keyframe(), *sender.picture()])
    (unit,) = rig.push(sender.unit([IDR]))
    assert not unit.is_discontinuity


def test_a_loss_inside_one_picture_does_not_taint_the_keyframe_after_it(rig: Rig) -> None:
    sender = Sender()
    rig.push(sender.keyframe())
    rig.push(without(sender.unit(fu_a(SLICE, 4)), 1))
    (unit,) = rig.push(sender.unit([IDR]))
    assert unit.is_keyframe and unit.is_discontinuity


def test_a_new_ssrc_waits_for_its_own_keyframe(rig: Rig) -> None:
    old, new = Sender(), Sender(sequence_number=1004, ssrc=99)
    rig.push(old.keyframe())
    assert rig.push(new.picture()) == []
    (unit,) = rig.push(new.keyframe())
    assert unit.is_discontinuity


# ------------------------------------------------------------------------------------------- odd and broken payloads


def test_padding_between_and_inside_pictures_is_no_loss(rig: Rig) -> None:
    sender = Sender()
    first = sender.unit([SPS, PPS, b"", IDR, b""])
    padding = sender.unit([b"", b""], marked=False)
    assert len(rig.push([*first, *padding, *sender.picture()])) == 2


def test_a_padding_packet_that_carries_the_marker_ends_the_picture(rig: Rig) -> None:
    assert len(rig.push(Sender().unit([SPS, PPS, IDR, b""]))) == 1


def test_a_loss_before_padding_still_counts(rig: Rig) -> None:
    sender = Sender()
    rig.push(sender.keyframe())
    sender.picture()
    rig.push(sender.unit([b""], marked=False))
    assert rig.push(sender.picture()) == []


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\xe1\x88\x00", id="forbidden bit"),
        pytest.param(b"\x60\x88\x00", id="type 0"),
        pytest.param(b"\x79\x00\x00\x00\x02\x61\x88", id="STAP-B"),
        pytest.param(b"\x7d\x81\x00\x00\x88", id="FU-B"),
        pytest.param(b"\x7f\x88", id="type 31"),
        pytest.param(b"\x7c", id="fragment without its header"),
        pytest.param(b"\x7c\x01abc", id="fragment without a start"),
        pytest.param(b"\x7c\x81abc", id="fragment without an end"),
        pytest.param(b"\x7c\xdcabc", id="fragmented fragment"),
        pytest.param(b"\x78\x00", id="aggregate with half a length"),
        pytest.param(b"\x78\x00\x00", id="aggregate of nothing"),
        pytest.param(b"\x78\x00\x09\x61\x88", id="aggregate past its end"),
        pytest.param(b"\x78\x00\x03\x78\x00\x01", id="aggregate in an aggregate"),
    ],
)
def test_a_payload_that_breaks_the_format_drops_its_picture_only(rig: Rig, payload: bytes) -> None:
    sender = Sender()
    rig.push(sender.keyframe())
    assert rig.push(sender.unit([payload])) == []
    assert rig.depacketizer.lacks_keyframe
    assert len(rig.push(sender.keyframe())) == 1


def test_broken_payloads_are_counted(rig: Rig) -> None:
    rig.push(Sender().unit([b"\x60", b"\x60"]))
    assert rig.stats.invalid == 1  # the rest of a broken picture is not looked at


def test_a_fragment_whose_start_was_lost_is_not_the_senders_mistake(rig: Rig) -> None:
    sender = Sender()
    assert rig.push(without(sender.unit(fu_a(SLICE, 3)), 0)) == []  # the stream is joined in the middle
    rig.push(sender.keyframe())
    assert rig.push(without(sender.unit(fu_a(SLICE, 3)), 0)) == []
    assert rig.stats.invalid == 0
    assert rig.depacketizer.lacks_keyframe


def test_a_fragment_without_a_start_is_counted_when_nothing_was_lost(rig: Rig) -> None:
    sender = Sender()
    rig.push(sender.keyframe())
    rig.push(sender.unit(fu_a(SLICE, 3)[1:]))
    assert rig.stats.invalid == 1


def test_a_fragment_begun_twice_is_broken(rig: Rig) -> None:
    start, *rest = fu_a(IDR, 3)
    assert rig.push(Sender().unit([SPS, PPS, start, start, *rest])) == []


def test_a_picture_without_end_is_cut_off(rig: Rig) -> None:
    packets = Sender().unit([stap_a(SPS, PPS), b"\x7c\x85" + bytes(1200)], marked=False)
    endless = [
        packets[-1]._replace(sequence_number=packets[-1].sequence_number + n, payload=b"\x7c\x05" + bytes(60_000))
        for n in range(1, MAX_UNIT_BYTES // 60_000 + 3)
    ]
    assert rig.push([*packets, *endless]) == []
    assert rig.stats.invalid == 1


# ------------------------------------------------------------------------------------------- clocks


def test_sequence_numbers_and_timestamps_wrap_unnoticed(rig: Rig) -> None:
    # 10 s before both wraps, at 3 packets per picture.
    sender = Sender(sequence_number=2**16 - 750, timestamp=2**32 - 10 * 90_000)
    units = rig.push(sender.keyframe())
    for _ in range(500):
        units += rig.push(sender.unit(fu_a(SLICE, 3)))
    assert len(units) == 501
    assert {b.rtp_ticks - a.rtp_ticks for a, b in pairwise(units)} == {3600}
    assert not any(unit.is_discontinuity for unit in units)


def test_a_sender_report_is_placed_on_the_same_ticks_across_the_wrap() -> None:
    clock = SenderClock()
    assert clock.ticks(SSRC, 2**32 - 100) == 2**32 - 100
    assert clock.report_ticks(SenderReport(SSRC, 1, 50, 0)) == 2**32 + 50
    assert clock.ticks(SSRC, 2**32 - 90) == 2**32 - 90


def test_reports_of_another_sender_or_without_a_time_are_not_placed() -> None:
    clock = SenderClock()
    assert clock.report_ticks(SenderReport(SSRC, 1, 50, 0)) is None
    clock.ticks(SSRC, 0)
    assert clock.report_ticks(SenderReport(99, 1, 50, 0)) is None
    assert clock.report_ticks(SenderReport(SSRC, 0, 50, 0)) is None


def test_the_ticks_of_a_new_ssrc_leap_whatever_its_timestamps_are() -> None:
    clock = SenderClock()
    clock.ticks(SSRC, 1000)
    assert clock.ticks(99, 4600) - 1000 > 2**39
    assert clock.report_ticks(SenderReport(99, 1, 4600, 0)) == clock.ticks(99, 4600)


# ------------------------------------------------------------------------------------------- Opus


def test_every_opus_packet_is_a_unit_with_its_duration(opus: Rig) -> None:
    sender = opus_sender(timestamp=7)
    (unit,) = opus.push(sender.unit([OPUS_20_MS]))
    assert unit == ReceivedUnit(Codec.OPUS, OPUS_20_MS, 7, 20 * NS_PER_MS, True, b"", 0, 0)
    (unit,) = opus.push(sender.unit([OPUS_20_MS]))
    assert not unit.is_discontinuity


def test_a_lost_opus_packet_is_a_discontinuity(opus: Rig) -> None:
    sender = opus_sender()
    packets = [packet for _ in range(4) for packet in sender.unit([OPUS_20_MS])]
    units = opus.push(without(packets, 1))
    assert [unit.is_discontinuity for unit in units] == [False, True, False]
    assert [unit.lost_ns // NS_PER_MS for unit in units] == [0, 20, 0]


def test_as_much_sound_is_lost_as_is_missing(opus: Rig) -> None:
    sender = opus_sender(sequence_number=65_530, timestamp=2**32 - 5 * 960)
    packets = [packet for _ in range(12) for packet in sender.unit([OPUS_20_MS])]
    assert [unit.lost_ns // NS_PER_MS for unit in opus.push([packets[0], *packets[8:]])] == [0, 140, 0, 0, 0]


def test_silence_that_was_not_sent_is_no_loss(opus: Rig) -> None:
    sender = opus_sender()
    opus.push(sender.unit([OPUS_20_MS]))
    sender.timestamp += 19 * 960
    (unit,) = opus.push(sender.unit([OPUS_20_MS]))
    assert not unit.is_discontinuity
    assert unit.lost_ns == 0


def test_a_packet_that_was_lost_in_silence_that_was_not_sent_held_no_more_than_its_neighbours(opus: Rig) -> None:
    sender = opus_sender()
    opus.push(sender.unit([OPUS_20_MS]))
    sender.timestamp += 19 * 960
    sender.unit([OPUS_20_MS])
    sender.timestamp += 19 * 960
    (unit,) = opus.push(sender.unit([OPUS_20_MS]))
    assert unit.lost_ns == 20 * NS_PER_MS


def test_a_broken_opus_packet_is_lost_sound(opus: Rig) -> None:
    sender = opus_sender()
    opus.push(sender.unit([OPUS_20_MS]))
    assert opus.push(sender.unit([b"\x03"])) == []
    (unit,) = opus.push(sender.unit([OPUS_20_MS]))
    assert unit.lost_ns == 20 * NS_PER_MS


def test_a_missing_packet_that_held_no_sound_is_no_loss(opus: Rig) -> None:
    sender = opus_sender()
    opus.push(sender.unit([OPUS_20_MS]))
    sender.sequence_number += 3
    (unit,) = opus.push(sender.unit([OPUS_20_MS]))
    assert unit.lost_ns == 0
    opus.push([packet(sender.sequence_number, timestamp=sender.timestamp, payload=b"", payload_type=OPUS_TYPE)])
    sender.sequence_number += 1
    (unit,) = opus.push(sender.unit([OPUS_20_MS]))
    assert unit.lost_ns == 0


@pytest.mark.parametrize(("sequence_step", "ssrc"), [(4_000, SSRC), (-4_000, SSRC), (3, SSRC + 1)])
def test_sound_that_begins_anew_follows_no_loss(opus: Rig, sequence_step: int, ssrc: int) -> None:
    sender = opus_sender()
    opus.push(sender.unit([OPUS_20_MS]))
    again = opus_sender(sequence_number=sender.sequence_number + sequence_step, timestamp=10**6, ssrc=ssrc)
    (unit,) = opus.push(again.unit([OPUS_20_MS]))
    assert not unit.is_discontinuity


def test_empty_opus_packets_are_tolerated_and_broken_ones_counted(opus: Rig) -> None:
    sender = opus_sender()
    assert opus.push(sender.unit([b""])) == []
    assert opus.push(sender.unit([b"\x03"])) == []  # code 3 without its frame count
    assert opus.stats.invalid == 1


def test_a_change_of_packet_duration_is_no_discontinuity(opus: Rig) -> None:
    sender = opus_sender()
    opus.push(sender.unit([OPUS_20_MS]))
    (unit,) = opus.push(sender.unit([bytes([8 << 3]) + b"10 ms"]))
    assert (unit.duration_ns, unit.is_discontinuity) == (10 * NS_PER_MS, False)


@pytest.mark.parametrize("codec", [Codec.PCMU, Codec.PCMA])
def test_g711_counts_its_bytes_and_what_is_lost_between_them(codec: Codec) -> None:
    rig = Rig(codec)
    packets = [RtpPacket(7, 0, n, 160 * n, False, bytes(160), n * 20 * NS_PER_MS) for n in range(5)]
    units = rig.push([packet for packet in packets if packet.sequence_number not in (2, 3)])
    assert [(unit.codec, unit.rtp_ticks, unit.duration_ns) for unit in units] == [
        (codec, n * 160, 20 * NS_PER_MS) for n in (0, 1, 4)
    ]
    assert [unit.lost_ns for unit in units] == [0, 0, 40 * NS_PER_MS]
