from bridge.media.clock import NS_PER_MS
from bridge.receive.jitter import (
    MAX_LATE_RUN,
    MAX_MISSING,
    MAX_STEP,
    MIN_NACK_SPACING_NS,
    WAIT_NS,
    JitterBuffer,
    ReceiveStats,
)
from tests.unit.receive.streams import SSRC, ms, numbers, packet


class Rig:
    """A video jitter buffer; packets arrive when they are pushed, at times in milliseconds."""

    def __init__(self) -> None:
        self.stats = ReceiveStats()
        self.buffer = JitterBuffer("video", self.stats)

    def push(self, sequence_number: int, at_ms: float = 0, timestamp: int = 0, ssrc: int = SSRC) -> list[int]:
        arrived = packet(sequence_number, at_ms, timestamp=timestamp, ssrc=ssrc)
        return numbers(self.buffer.push(arrived, arrived.arrival_ns))

    def expire(self, at_ms: float) -> list[int]:
        return numbers(self.buffer.expire(ms(at_ms)))

    def nacks(self, at_ms: float) -> list[int]:
        return self.buffer.due_nacks(ms(at_ms))

    def nack_times_ms(self, until_ms: int) -> list[int]:
        return [at_ms for at_ms in range(until_ms) if self.nacks(at_ms)]


def test_packets_in_order_pass_at_once() -> None:
    rig = Rig()
    assert [rig.push(n) for n in range(10, 15)] == [[10], [11], [12], [13], [14]]
    assert rig.buffer.next_deadline_ns() is None
    assert rig.stats == ReceiveStats(received=5)


def test_packets_after_a_gap_wait_and_leave_in_order_when_it_is_filled() -> None:
    rig = Rig()
    assert [rig.push(n) for n in (10, 13, 11, 14, 12)] == [[10], [], [11], [], [12, 13, 14]]
    assert rig.stats.lost == 0
    assert rig.stats.recovered == 0  # nobody had asked for them


def test_the_first_packet_defines_the_order_and_those_before_it_are_late() -> None:
    rig = Rig()
    rig.push(10)
    assert rig.push(9) == []
    assert rig.stats.late == 1


def test_a_missing_packet_is_asked_for_at_once() -> None:
    rig = Rig()
    rig.push(10)
    rig.push(13, at_ms=5)
    assert rig.buffer.next_deadline_ns() == ms(5)
    assert rig.nacks(5) == [11, 12]


def test_the_request_is_repeated_with_growing_spacing_until_the_packet_is_given_up() -> None:
    rig = Rig()
    rig.push(10)
    rig.push(12)
    times_ms = rig.nack_times_ms(WAIT_NS["video"] // NS_PER_MS)
    assert times_ms == [0, 20, 50, 95, 163]
    assert rig.expire(250) == [12]
    assert rig.nacks(1000) == []


def test_the_spacing_of_requests_follows_the_round_trip_seen_before() -> None:
    rig = Rig()
    rig.push(10)
    rig.push(12)
    rig.nacks(0)
    rig.push(11, at_ms=60)
    rig.push(14, at_ms=100)
    assert [at_ms for at_ms in range(100, 300) if rig.nacks(at_ms)] == [100, 160, 250]


def test_a_packet_that_comes_after_it_was_asked_for_counts_as_recovered() -> None:
    rig = Rig()
    rig.push(10)
    rig.push(12)
    rig.nacks(0)
    assert rig.push(11, at_ms=30) == [11, 12]
    assert (rig.stats.recovered, rig.stats.received) == (1, 3)


def test_a_missing_packet_is_waited_for_by_time_not_by_count() -> None:
    rig = Rig()
    rig.push(0)
    for n in range(2, 1000):
        assert rig.push(n, at_ms=100) == []
    assert rig.expire(349.999) == []
    assert rig.expire(350) == list(range(2, 1000))
    assert rig.stats.lost == 1


def test_sound_is_waited_for_less_long() -> None:
    stats = ReceiveStats()
    buffer = JitterBuffer("audio", stats)
    buffer.push(packet(10), 0)
    buffer.push(packet(12), 0)
    assert buffer.expire(ms(59)) == ()
    assert numbers(buffer.expire(ms(60))) == [12]


def test_two_gaps_are_given_up_each_at_its_own_time() -> None:
    rig = Rig()
    rig.push(10)
    rig.push(12, at_ms=0)
    rig.push(14, at_ms=100)
    assert rig.expire(250) == [12]
    assert rig.expire(350) == [14]
    assert rig.stats.lost == 2


def test_a_packet_given_up_is_late_when_it_comes_after_all() -> None:
    rig = Rig()
    rig.push(10)
    rig.push(12)
    rig.expire(250)
    assert rig.push(11, at_ms=260) == []
    assert (rig.stats.late, rig.stats.lost) == (1, 1)


def test_duplicates_are_dropped_before_and_after_release() -> None:
    rig = Rig()
    rig.push(10)
    assert rig.push(10) == []
    rig.push(12)
    assert rig.push(12) == []
    assert (rig.stats.late, rig.stats.received) == (2, 2)


def test_sequence_numbers_wrap_in_order_and_across_a_gap() -> None:
    rig = Rig()
    assert rig.push(65534) == [65534]
    assert rig.push(1) == []
    assert rig.nacks(0) == [65535, 0]
    assert rig.push(0) == []
    assert rig.push(65535) == [65535, 0, 1]
    assert rig.push(2) == [2]


def test_ten_seconds_around_the_wrap_pass_like_any_other() -> None:
    rig = Rig()
    released = [n for i in range(6600) for n in rig.push(65536 - 3300 + i)]
    assert released == [n & 0xFFFF for n in range(65536 - 3300, 65536 + 3300)]
    assert rig.stats == ReceiveStats(received=6600)


def test_a_gap_longer_than_a_sender_remembers_is_given_up_at_once() -> None:
    rig = Rig()
    rig.push(10)
    assert rig.push(10 + MAX_MISSING + 2) == [10 + MAX_MISSING + 2]
    assert rig.stats.lost == MAX_MISSING + 1
    assert rig.nacks(0) == []


def test_the_list_of_missing_packets_is_capped_over_several_gaps() -> None:
    rig = Rig()
    for n in range(0, 4 * MAX_MISSING, 2):
        rig.push(n)
        assert len(rig.nacks(0)) <= MAX_MISSING
    assert rig.stats.lost >= MAX_MISSING


def test_a_leap_in_sequence_numbers_is_believed_on_its_second_packet() -> None:
    rig = Rig()
    rig.push(10)
    assert rig.push(40_000) == []
    assert rig.push(40_001) == [40_000, 40_001]
    assert rig.push(40_002) == [40_002]
    assert rig.stats.received == 4


def test_a_single_stray_packet_changes_nothing() -> None:
    rig = Rig()
    rig.push(10)
    assert rig.push(10 + MAX_STEP + 2) == []
    assert rig.push(11) == [11]
    assert rig.push(20_000) == []
    assert rig.push(12) == [12]
    assert rig.stats.late == 1


def test_a_new_ssrc_restarts_the_order_and_releases_what_was_held() -> None:
    rig = Rig()
    rig.push(10)
    rig.push(12)
    assert rig.push(500, ssrc=99) == []
    assert rig.push(501, ssrc=99) == [12, 500, 501]
    assert rig.push(502, ssrc=99) == [502]
    assert rig.stats.lost == 1
    assert rig.buffer.next_deadline_ns() is None


def test_a_sequence_that_starts_again_a_little_lower_with_newer_media_is_a_new_stream() -> None:
    rig = Rig()
    rig.push(1000, timestamp=90_000)
    rig.push(1001, timestamp=90_000)
    assert rig.push(10, timestamp=93_600) == []
    assert rig.push(11, timestamp=93_600) == [10, 11]


def test_nothing_but_late_packets_for_long_is_a_new_stream_too() -> None:
    rig = Rig()
    rig.push(1000, timestamp=90_000)
    assert [rig.push(n, timestamp=0) for n in range(500, 500 + MAX_LATE_RUN)] == [[]] * MAX_LATE_RUN
    assert rig.push(500 + MAX_LATE_RUN, timestamp=0) == [500 + MAX_LATE_RUN]
    assert rig.push(501 + MAX_LATE_RUN, timestamp=0) == [501 + MAX_LATE_RUN]


def test_late_packets_between_others_never_add_up() -> None:
    rig = Rig()
    rig.push(1000, timestamp=90_000)
    for n in range(1001, 1300):
        assert rig.push(n, timestamp=90_000) == [n]
        assert rig.push(900, timestamp=0) == []


def test_late_retransmissions_in_a_row_do_not_look_like_a_new_stream() -> None:
    rig = Rig()
    for n in (10, 11, 14, 15):
        rig.push(n, timestamp=3600 * n)
    rig.expire(250)
    assert rig.push(12, at_ms=300, timestamp=3600 * 12) == []
    assert rig.push(13, at_ms=300, timestamp=3600 * 13) == []
    assert rig.push(16, at_ms=310, timestamp=3600 * 16) == [16]


def test_how_long_packets_are_held_back_can_be_read() -> None:
    rig = Rig()
    rig.push(10)
    assert rig.buffer.held_ns(ms(5)) == 0
    rig.push(12, at_ms=10)
    rig.push(13, at_ms=20)
    assert rig.buffer.held_ns(ms(35)) == ms(25)


def test_the_next_deadline_is_the_sooner_of_repeat_and_give_up() -> None:
    rig = Rig()
    rig.push(10)
    rig.push(12)
    rig.nacks(0)
    assert rig.buffer.next_deadline_ns() == MIN_NACK_SPACING_NS
    for at_ms in (20, 50, 95, 163):
        rig.nacks(at_ms)
    assert rig.buffer.next_deadline_ns() == WAIT_NS["video"]
