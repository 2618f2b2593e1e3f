from bridge.receive.jitter import MAX_LATE_RUN, MAX_MISSING, MAX_STEP, JitterBuffer, ReceiveStats
from tests.unit.receive.streams import SSRC, ms, numbers, packet

# On a path of 38 ms, with 2 ms for timers: rounds every 40 ms at first, and a wait of four of them and an answer.
ROUND_TRIP_MS = 38
ROUNDS_MS = [0, 40, 90, 152.5]
WAIT_MS = 192.5


class Rig:
    """A video jitter buffer; packets arrive when they are pushed, at times in milliseconds."""

    def __init__(self, round_trip_ms: float = ROUND_TRIP_MS) -> None:
        self.stats = ReceiveStats()
        self.buffer = JitterBuffer("video", self.stats, ms(round_trip_ms))

    def push(
        self, sequence_number: int, at_ms: float = 0, timestamp: int = 0, ssrc: int = SSRC, is_answer: bool = False
    ) -> list[int]:
        arrived = packet(sequence_number, at_ms, timestamp=timestamp, ssrc=ssrc)._replace(is_retransmission=is_answer)
        return numbers(self.buffer.push(arrived, arrived.arrival_ns))

    def expire(self, at_ms: float) -> list[int]:
        return numbers(self.buffer.expire(ms(at_ms)))

    def nacks(self, at_ms: float) -> list[int]:
        return self.buffer.due_nacks(ms(at_ms))

    def nack_times_ms(self, begin_ms: float = 0) -> list[float]:
        """When requests go out, from then to the end of the wait, if nothing comes."""
        times_ms = []
        while (deadline_ns := self.buffer.next_deadline_ns()) is not None:
            at_ms = max(begin_ms, deadline_ns / 1e6)
            if self.nacks(at_ms):
                times_ms.append(at_ms)
            self.expire(at_ms)
        return times_ms


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


def test_the_request_is_repeated_in_rounds_of_growing_spacing_until_the_packet_is_given_up() -> None:
    rig = Rig()
    rig.push(10)
    rig.push(12)
    # The second round asks twice, later ones three times.
    assert rig.nack_times_ms() == [0, 40, 50, 90, 100, 110, 152.5, 162.5, 172.5]
    assert rig.stats.lost == 1
    assert rig.nacks(1000) == []


def test_the_spacing_of_requests_follows_the_round_trip_seen_before() -> None:
    rig = Rig()
    for n in range(0, 40, 2):
        rig.push(n, at_ms=200 * n)
        rig.push(n + 2, at_ms=200 * n)
        rig.nacks(200 * n)
        rig.push(n + 1, at_ms=200 * n + 60, is_answer=True)
    rig.push(50, at_ms=9000)
    rig.push(52, at_ms=9000)
    times_ms = rig.nack_times_ms(9000)
    assert times_ms[:2] == [9000, 9062]


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
    assert rig.expire(100 + WAIT_MS - 0.001) == []
    assert rig.expire(100 + WAIT_MS) == list(range(2, 1000))
    assert rig.stats.lost == 1


def test_sound_is_waited_for_less_long() -> None:
    stats = ReceiveStats()
    buffer = JitterBuffer("audio", stats, ms(ROUND_TRIP_MS))
    buffer.push(packet(10), 0)
    buffer.push(packet(12), 0)
    assert buffer.expire(ms(79)) == ()
    assert numbers(buffer.expire(ms(80))) == [12]


def test_two_gaps_are_given_up_each_at_its_own_time() -> None:
    rig = Rig()
    rig.push(10)
    rig.push(12, at_ms=0)
    rig.push(14, at_ms=100)
    assert rig.expire(WAIT_MS) == [12]
    assert rig.expire(100 + WAIT_MS) == [14]
    assert rig.stats.lost == 2


def test_a_packet_given_up_is_late_when_it_comes_after_all() -> None:
    rig = Rig()
    rig.push(10)
    rig.push(12)
    rig.expire(WAIT_MS)
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


def test_the_longest_that_a_packet_was_held_back_can_be_read_once() -> None:
    rig = Rig()
    rig.push(10)
    assert rig.buffer.longest_hold_ns(ms(5)) == 0
    rig.push(12, at_ms=10)
    rig.push(13, at_ms=20)
    assert rig.buffer.longest_hold_ns(ms(35)) == ms(25)
    rig.push(11, at_ms=50)
    rig.push(14, at_ms=60)
    assert rig.buffer.longest_hold_ns(ms(1000)) == ms(40)
    assert rig.buffer.longest_hold_ns(ms(2000)) == 0


def test_the_next_deadline_is_the_sooner_of_repeat_and_give_up() -> None:
    rig = Rig()
    rig.push(10)
    rig.push(12)
    rig.nacks(0)
    assert rig.buffer.next_deadline_ns() == ms(40)
    for at_ms in (*ROUNDS_MS, *ROUNDS_MS, 190, 190):
        rig.nacks(at_ms)
    assert rig.buffer.next_deadline_ns() == ms(WAIT_MS)


def test_what_is_merely_overtaken_is_not_asked_for_once_that_is_known_to_happen() -> None:
    rig = Rig()
    asked = 0
    for n in range(0, 400, 2):
        rig.push(n, at_ms=10 * n)
        rig.push(n + 2, at_ms=10 * n + 5)
        asked += len(rig.nacks(10 * n + 5))
        asked += len(rig.nacks(10 * n + 8))
        assert rig.push(n + 1, at_ms=10 * n + 9) == [n + 1, n + 2]
        asked += len(rig.nacks(10 * n + 9))
    assert asked == 1  # the first one
    assert (rig.stats.recovered, rig.stats.lost) == (0, 0)


def test_on_a_path_that_keeps_the_order_a_loss_is_asked_for_at_once() -> None:
    rig = Rig()
    rig.push(10)
    for n in range(12, 300, 2):
        rig.push(n, at_ms=100 * n)
        assert rig.nacks(100 * n) == [n - 1]
        rig.push(n - 1, at_ms=100 * n + ROUND_TRIP_MS, is_answer=True)


def test_everything_before_a_picture_that_is_whole_can_be_given_up_for_it() -> None:
    rig = Rig()
    rig.push(10)
    rig.push(12)
    rig.push(14)
    rig.buffer.push(packet(15)._replace(marker=True), 0)
    rig.push(17)
    assert not rig.buffer.has_whole_picture(12)
    assert rig.buffer.has_whole_picture(14)
    assert numbers(rig.buffer.skip_to(14, 0)) == [12, 14, 15]
    assert (rig.stats.lost, rig.nacks(0)) == (2, [16])


def test_answers_that_come_too_late_teach_to_wait_longer() -> None:
    rig = Rig(round_trip_ms=10)
    for n in range(10, 60, 2):
        at_ms = 1000 * n
        rig.push(n, at_ms=at_ms)
        rig.push(n + 2, at_ms=at_ms)
        rig.nack_times_ms(at_ms)
        rig.push(n + 1, at_ms=at_ms + 150, is_answer=True)
    rig.push(62, at_ms=200_000)
    assert rig.expire(200_150) == []
    assert rig.push(61, at_ms=200_151, is_answer=True) == [61, 62]
