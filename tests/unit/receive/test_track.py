from collections.abc import Iterable
from itertools import pairwise

import pytest

from bridge.media.access_unit import Codec, ReceivedUnit
from bridge.media.rtp import RtpPacket, SenderReport
from bridge.receive.track import UNANSWERED_LIMIT, TrackReceiver
from tests.unit.receive.streams import H264_TYPE, OPUS_20_MS, OPUS_TYPE, PICTURE, SPS, SSRC, Sender, ms, opus_sender


class Session:
    """Drives a video track receiver through time as its owner does, and keeps what it asks for."""

    def __init__(self, round_trip_ns: int = 0) -> None:
        self.receiver = TrackReceiver({H264_TYPE: Codec.H264}, "video", now_ns=0, round_trip_ns=round_trip_ns)
        self.units: list[ReceivedUnit] = []
        self.requests: list[tuple[float, str]] = []
        self.nacks: list[tuple[float, list[int]]] = []
        self._now_ns = 0

    def run_until(self, end_ms: float) -> None:
        while (deadline_ns := self.receiver.next_deadline_ns()) is not None and deadline_ns <= ms(end_ms):
            self._now_ns = max(self._now_ns, deadline_ns)
            self._poll(self._now_ns)
        self._now_ns = max(self._now_ns, ms(end_ms))

    def feed(self, packets: Iterable[RtpPacket]) -> None:
        """Each packet at its arrival; what falls due before that first."""
        for packet in packets:
            self.run_until(packet.arrival_ns / 1e6)
            before_ns = self.receiver.next_deadline_ns()
            units = self.receiver.push(packet)
            self.units += units
            if not units and self.receiver.is_calm:
                # Owners count on it: they do not ask again.
                assert (self.receiver.next_deadline_ns() or 0) >= (before_ns or 0)
            self.run_until(packet.arrival_ns / 1e6)

    def _poll(self, now_ns: int) -> None:
        feedback = self.receiver.poll(now_ns)
        self.units += feedback.units
        if feedback.nacks:
            self.nacks.append((now_ns / 1e6, list(feedback.nacks)))
        if feedback.keyframe_reason is not None:
            self.requests.append((now_ns / 1e6, feedback.keyframe_reason))

    @property
    def reasons(self) -> list[str]:
        return [reason for _, reason in self.requests]


@pytest.fixture
def session() -> Session:
    return Session()


def lose(packets: list[RtpPacket], index: int) -> list[RtpPacket]:
    return packets[:index] + packets[index + 1 :]


# ------------------------------------------------------------------------------------------- packets to units


def test_a_loss_free_stream_becomes_units_and_nothing_is_asked_for(session: Session) -> None:
    sender = Sender()
    session.feed([*sender.keyframe(), *sender.pictures(50)])
    assert len(session.units) == 51
    assert (session.requests, session.nacks) == ([], [])


def test_a_receiver_is_calm_from_its_first_keyframe_on_while_nothing_is_missing(session: Session) -> None:
    sender = Sender()
    *beginning, end = sender.keyframe()
    session.feed(beginning)
    assert not session.receiver.is_calm
    session.feed([end, *sender.pictures(3)])
    assert session.receiver.is_calm
    late, next_one = sender.pictures(1)
    session.feed([next_one])
    assert not session.receiver.is_calm
    session.feed([late._replace(arrival_ns=next_one.arrival_ns + ms(1))])
    assert session.receiver.is_calm
    session.receiver.request_keyframe()
    assert not session.receiver.is_calm


def test_a_missing_packet_is_asked_for_and_its_picture_comes_when_it_does(session: Session) -> None:
    sender = Sender()
    session.feed(sender.keyframe())
    first, second = sender.picture()
    session.feed([second])
    assert session.nacks == [(40, [first.sequence_number])]
    session.feed([first._replace(arrival_ns=ms(55), is_retransmission=True)])
    assert len(session.units) == 2
    assert (session.units[-1].first_arrival_ns, session.units[-1].arrival_ns) == (ms(40), ms(55))
    assert session.requests == []


def test_a_whole_keyframe_does_not_wait_for_what_is_missing_before_it(session: Session) -> None:
    sender = Sender()
    session.feed(sender.keyframe())
    sender.picture()
    session.feed(sender.keyframe())
    assert [unit.is_discontinuity for unit in session.units] == [False, True]
    assert session.units[-1].arrival_ns == ms(80)
    assert session.receiver.stats.lost == 2
    session.feed(sender.picture())
    assert len(session.units) == 3


def test_a_keyframe_that_is_not_whole_itself_waits(session: Session) -> None:
    sender = Sender()
    session.feed(sender.keyframe())
    sender.picture()
    *most, last = sender.keyframe()
    session.feed(most)
    assert len(session.units) == 1
    session.feed([last._replace(arrival_ns=ms(95))])
    assert len(session.units) == 2


def test_packets_of_an_unknown_payload_type_leave_no_hole(session: Session) -> None:
    sender = Sender()
    session.feed(sender.keyframe())
    session.feed(packet._replace(payload_type=49) for packet in sender.unit([b"forward error correction"]))
    session.feed(sender.picture())
    assert len(session.units) == 2
    assert session.receiver.stats.invalid == 1


def test_an_audio_track_delivers_its_units_and_never_asks_for_keyframes() -> None:
    receiver = TrackReceiver({OPUS_TYPE: Codec.OPUS}, "audio", now_ns=0)
    sender = opus_sender()
    (packet,) = sender.unit([OPUS_20_MS])
    assert len(receiver.push(packet)) == 1
    receiver.request_keyframe()
    assert receiver.next_deadline_ns() is None
    assert receiver.poll(ms(10_000)).keyframe_reason is None


def test_a_lost_audio_packet_is_waited_for_until_two_requests_must_have_been_answered() -> None:
    receiver = TrackReceiver({OPUS_TYPE: Codec.OPUS}, "audio", now_ns=0, round_trip_ns=ms(28))
    sender = opus_sender()
    packets = [packet for _ in range(3) for packet in sender.unit([OPUS_20_MS])]
    receiver.push(packets[0])
    assert receiver.push(packets[2]) == []
    assert receiver.poll(ms(40)).nacks == [packets[1].sequence_number]
    assert receiver.poll(ms(99)).units == []
    (unit,) = receiver.poll(ms(100)).units
    assert unit.is_discontinuity


def test_silence_that_nothing_is_sent_for_is_no_loss() -> None:
    receiver = TrackReceiver({OPUS_TYPE: Codec.OPUS}, "audio", now_ns=0)
    sender = opus_sender()
    (first,), (after,) = sender.unit([OPUS_20_MS]), sender.unit([OPUS_20_MS])
    # RFC 7587 §3.1.3: DTX leaves out packets, not sequence numbers; the timestamp goes on.
    after = after._replace(rtp_timestamp=first.rtp_timestamp + 48_000, arrival_ns=ms(1000))
    assert len(receiver.push(first)) == 1
    (unit,) = receiver.push(after)
    assert not unit.is_discontinuity and unit.rtp_ticks == first.rtp_timestamp + 48_000
    assert receiver.next_deadline_ns() is None


@pytest.mark.parametrize("change", [{"ssrc": 77}, {"sequence_number": 20_000}, {"ssrc": 77, "timestamp": 1}])
def test_a_sender_that_begins_anew_goes_on_at_its_next_keyframe(session: Session, change: dict[str, int]) -> None:
    before = Sender(timestamp=900_000)
    session.feed([*before.keyframe(), *before.pictures(3)])
    after = Sender(**({"timestamp": before.timestamp, "at_ms": int(before.at_ms)} | change))  # type: ignore[arg-type]
    session.feed([*after.pictures(2), *after.keyframe(), *after.pictures(2)])
    assert [unit.is_keyframe for unit in session.units[4:]] == [True, False, False]
    assert session.receiver.stats.lost == 0


@pytest.mark.parametrize("leap_ticks", [-450_000, 90_000 * 3600])
def test_timestamps_that_leap_while_the_numbers_go_on_cost_nothing(session: Session, leap_ticks: int) -> None:
    sender = Sender(timestamp=2**31)
    session.feed([*sender.keyframe(), *sender.picture()])
    sender.timestamp += leap_ticks
    session.feed(sender.pictures(3))
    assert len(session.units) == 5
    assert session.units[2].rtp_ticks - session.units[1].rtp_ticks == 3600 + leap_ticks
    assert (session.nacks, session.requests) == ([], [])


def test_another_payload_type_of_the_same_codec_goes_on() -> None:
    receiver = TrackReceiver({H264_TYPE: Codec.H264, 108: Codec.H264}, "video", now_ns=0)
    sender = Sender()
    units = [unit for packet in sender.keyframe() for unit in receiver.push(packet)]
    for packet in sender.pictures(2):
        units += receiver.push(packet._replace(payload_type=108))
    assert len(units) == 3 and receiver.stats.invalid == 0


def test_padding_between_pictures_and_within_one_changes_nothing(session: Session) -> None:
    sender = Sender()
    session.feed(sender.keyframe())
    first, second = PICTURE
    session.feed(sender.unit([first, b"", second]))
    session.feed(sender.unit([b"", b""], marked=False))
    session.feed(sender.picture())
    assert len(session.units) == 3
    assert (session.nacks, session.receiver.stats.invalid) == ([], 0)


def test_a_sender_report_is_converted_to_the_ticks_of_the_units(session: Session) -> None:
    sender = Sender(timestamp=2**32 - 1000)
    session.feed(sender.keyframe())
    report = SenderReport(SSRC, ntp_q32=1 << 32, rtp_timestamp=500, arrival_ns=0)
    assert session.receiver.report_ticks(report) == session.units[0].rtp_ticks + 1500


# ------------------------------------------------------------------------------------------- keyframe requests


def test_a_sender_that_starts_with_a_keyframe_is_not_asked_for_one(session: Session) -> None:
    session.feed(Sender(at_ms=250).keyframe())
    session.run_until(700)
    assert session.reasons == []


def test_a_sender_that_starts_with_other_pictures_is_asked_at_once(session: Session) -> None:
    session.feed(Sender(at_ms=100).picture())
    assert session.requests == [(100, "start")]


def test_a_sender_that_does_not_start_is_asked_and_asked_again(session: Session) -> None:
    session.feed(Sender(at_ms=100).unit([SPS], marked=False))
    session.run_until(3100)
    assert session.requests == [(100 + at_ms, "start") for at_ms in (300, 600, 900, 1900, 2900)]


def test_nothing_is_asked_of_a_sender_before_its_first_packet(session: Session) -> None:
    session.receiver.set_keyframe_interval_ns(ms(1000))
    session.receiver.request_keyframe()
    session.run_until(60_000)
    assert session.receiver.next_deadline_ns() is None
    assert session.receiver.poll(ms(60_000)).keyframe_reason is None
    assert session.receiver.unanswered_keyframe_requests == 0


def test_what_was_demanded_before_the_first_packet_is_asked_for_with_it(session: Session) -> None:
    session.receiver.request_keyframe()
    (packet,) = Sender(at_ms=5000).unit([SPS], marked=False)
    session.feed([packet])
    assert session.requests == [(5000, "demand")]


def test_a_sender_that_starts_late_with_a_keyframe_is_not_asked_for_one(session: Session) -> None:
    session.feed(Sender(at_ms=7000).keyframe())
    session.run_until(7400)
    assert session.requests == []


def test_a_packet_that_is_asked_for_in_vain_for_100_ms_asks_for_a_keyframe_as_well(session: Session) -> None:
    sender = Sender()
    session.feed([*sender.keyframe(), *lose(sender.picture(), 0), *sender.pictures(6)])
    # Missing since 40 ms; rounds begin 52 and 117 ms later on a path of 50 ms.
    assert session.requests == [(157, "loss")]


def test_a_loss_that_no_second_request_could_repair_asks_for_a_keyframe_when_it_is_final() -> None:
    session = Session(round_trip_ns=ms(399))
    sender = Sender()
    session.feed([*sender.keyframe(), *lose(sender.picture(), 0), *sender.pictures(12)])
    assert session.requests == [(40 + 400, "loss")]


def test_a_request_for_a_loss_is_repeated_when_its_answer_should_be_there(session: Session) -> None:
    sender = Sender()
    session.feed([*sender.keyframe(), *lose(sender.picture(), 0), *sender.pictures(55)])
    times_ms = [at_ms for at_ms, _ in session.requests]
    # The path's 52 ms and 100 ms to encode, twice; then as rarely as a sender answers at most, then once a second.
    assert [b - a for a, b in pairwise(times_ms)] == [152, 152, 300, 1000]


def test_after_an_answer_the_next_request_waits_300_ms(session: Session) -> None:
    sender = Sender()
    session.feed(sender.keyframe())
    for _ in range(4):
        session.feed([*lose(sender.picture(), 0), *sender.pictures(3), *sender.keyframe()])
    times_ms = [at_ms for at_ms, _ in session.requests]
    assert times_ms
    assert all(b - a >= 300 for a, b in pairwise(times_ms))


def test_a_keyframe_that_arrives_broken_is_asked_for_again(session: Session) -> None:
    sender = Sender()
    session.feed([*sender.keyframe(), *lose(sender.picture(), 0), *sender.pictures(3)])
    session.feed([*lose(sender.keyframe(), 1), *sender.pictures(4)])
    assert session.requests == [(157, "loss"), (309, "loss")]
    session.feed(sender.keyframe())
    assert session.receiver.unanswered_keyframe_requests == 0


def test_a_request_that_is_open_when_the_track_goes_silent_is_about_the_silence(session: Session) -> None:
    sender = Sender()
    session.feed([*sender.keyframe(), *sender.picture()])
    session.run_until(300)
    session.receiver.request_keyframe()
    session.run_until(1000)
    assert [reason for _, reason in session.requests] == ["demand", "stall", "stall"]


def test_a_track_that_goes_silent_is_asked_for_a_keyframe_after_500_ms(session: Session) -> None:
    sender = Sender()
    session.feed([*sender.keyframe(), *sender.picture()])
    session.run_until(1200)
    assert session.requests == [(540, "stall"), (840, "stall"), (1140, "stall")]


def test_a_keyframe_can_be_demanded(session: Session) -> None:
    sender = Sender()
    session.feed(sender.keyframe())
    session.receiver.request_keyframe()
    session.receiver.request_keyframe()
    session.run_until(100)
    assert session.requests == [(0, "demand")]


def test_three_unanswered_requests_are_counted_and_then_made_once_a_second(session: Session) -> None:
    sender = Sender()
    session.feed(sender.keyframe())
    session.receiver.request_keyframe()
    session.feed(sender.pictures(75))
    assert session.receiver.unanswered_keyframe_requests >= UNANSWERED_LIMIT
    times_ms = [at_ms for at_ms, _ in session.requests]
    assert [b - a for a, b in pairwise(times_ms)] == [300, 300, 1000, 1000]
    assert session.receiver.ignores_keyframe_requests
    session.feed(sender.keyframe())
    assert session.receiver.unanswered_keyframe_requests == 0
    assert not session.receiver.ignores_keyframe_requests


# ------------------------------------------------------------------------------------------- periodic keyframes


def play(session: Session, sender: Sender, seconds: float, response_ms: float, own_interval_ms: float = 1e9) -> None:
    """A sender that answers each request after `response_ms`, or makes keyframes of its own accord."""
    answered = len(session.requests)
    last_ms = sender.at_ms
    session.feed(sender.keyframe())
    while sender.at_ms < seconds * 1000:
        session.run_until(sender.at_ms)
        requested = len(session.requests) > answered and sender.at_ms >= session.requests[-1][0] + response_ms
        if requested or sender.at_ms - last_ms >= own_interval_ms:
            answered = len(session.requests)
            last_ms = sender.at_ms
            session.feed(sender.keyframe())
        else:
            session.feed(sender.picture())


def spacings_ms(session: Session) -> list[float]:
    times = [unit.arrival_ns / 1e6 for unit in session.units if unit.is_keyframe]
    return [b - a for a, b in pairwise(times)]


@pytest.mark.parametrize("response_ms", [0, 30, 150, 280])
def test_periodic_keyframes_come_at_the_interval_whatever_the_sender_takes_to_answer(
    session: Session, response_ms: float
) -> None:
    session.receiver.set_keyframe_interval_ns(ms(2000))
    play(session, Sender(), 30, response_ms)
    assert set(session.reasons) == {"periodic"}
    spacings = spacings_ms(session)
    assert len(spacings) >= 13
    assert all(1800 <= spacing <= 2200 for spacing in spacings[1:])  # the first one measures the response


def test_a_sender_with_keyframes_of_its_own_is_not_asked(session: Session) -> None:
    session.receiver.set_keyframe_interval_ns(ms(2000))
    play(session, Sender(), 10, response_ms=50, own_interval_ms=1000)
    assert session.requests == []


def test_one_slow_answer_does_not_change_the_pace(session: Session) -> None:
    session.receiver.set_keyframe_interval_ns(ms(2000))
    sender = Sender()
    play(session, sender, 12, response_ms=40)
    n_before = len(session.units)
    session.feed(sender.pictures(60))  # one request stays unanswered for long
    play(session, sender, 26, response_ms=40)
    later = [u.arrival_ns / 1e6 for u in session.units[n_before:] if u.is_keyframe]
    assert all(1800 <= b - a <= 2200 for a, b in pairwise(later))


def test_without_an_interval_no_periodic_request_is_made(session: Session) -> None:
    sender = Sender()
    session.feed([*sender.keyframe(), *sender.pictures(200)])
    assert session.requests == []
