"""When pictures were captured, by a sender whose clock is years from ours."""

from dataclasses import dataclass

import pytest

from bridge.media.access_unit import CaptureTime, Codec, ReceivedUnit
from bridge.media.clock import NS_PER_S, VIDEO_CLOCK_HZ, ns_to_ticks
from bridge.timeline.capture import MAX_REPORT_AGE_NS, N_REPORTS, N_SURE_REPORTS, CaptureTimes
from tests.unit.receive.streams import ms

NTP_AT_0_NS = 3_900_000_000 * NS_PER_S
ROUND_TRIP_NS = ms(40)


@dataclass
class Sender:
    """Its packets take `there_ns`. `ahead_ns`: of what its clock was at first; `media_ns`: of its RTP clock."""

    times: CaptureTimes
    there_ns: int = ROUND_TRIP_NS // 2
    ahead_ns: int = 0
    media_ns: int = 0
    now_ns: int = 0

    def ntp_ns(self, at_ns: int) -> int:
        return NTP_AT_0_NS + self.ahead_ns + at_ns

    def ticks(self, at_ns: int) -> int:
        return ns_to_ticks(self.media_ns + at_ns, VIDEO_CLOCK_HZ)

    def reports(self, n_reports: int = N_SURE_REPORTS, *, queued_ns: int = 0, late_ns: int = 0) -> None:
        """One a second, of pictures. late_ns: before it leaves a report is this old."""
        for _ in range(n_reports):
            self.now_ns += NS_PER_S
            arrival_ns = self.now_ns + late_ns + self.there_ns + queued_ns
            self.times.on_sender_report(self.ntp_ns(self.now_ns), arrival_ns, self.ticks(self.now_ns))

    def picture(self, *, age_ns: int = ms(30), is_stamped: bool = True, stamp_ns: int = 0) -> CaptureTime | None:
        """Sent now, captured so long ago. stamp_ns: what it claims more."""
        captured_ns = self.now_ns - age_ns
        arrival_ns = self.now_ns + self.there_ns
        stamp = self.ntp_ns(captured_ns) + stamp_ns if is_stamped else 0
        ticks = self.ticks(captured_ns)
        return self.times.of(
            ReceivedUnit(Codec.H264, b"", ticks, 0, False, b"", arrival_ns, arrival_ns, captured_ntp_ns=stamp)
        )

    def error_ns(self, told: CaptureTime | None, age_ns: int = ms(30)) -> int:
        assert told is not None
        return told.at_ns - (self.now_ns - age_ns)


@pytest.fixture
def sender() -> Sender:
    return Sender(CaptureTimes(ROUND_TRIP_NS))


@pytest.mark.parametrize("is_stamped", [True, False])
def test_the_capture_of_a_picture_is_known_on_our_clock(sender: Sender, is_stamped: bool) -> None:
    sender.reports()
    told = sender.picture(is_stamped=is_stamped)
    assert abs(sender.error_ns(told)) < ms(0.1)
    assert told is not None
    assert told.basis == ("capture" if is_stamped else "sender_report")


@pytest.mark.parametrize("extra_ms", [-15, 15])
def test_it_errs_by_half_of_what_one_way_takes_longer(sender: Sender, extra_ms: int) -> None:
    sender.there_ns += ms(extra_ms)  # and the way back as much less
    sender.reports()
    assert abs(sender.error_ns(sender.picture()) - ms(extra_ms)) < ms(0.1)


def test_a_report_that_was_not_held_up_outvotes_those_that_were(sender: Sender) -> None:
    sender.reports(3, queued_ns=ms(70))
    sender.reports(1)
    sender.reports(3, queued_ns=ms(25))
    assert abs(sender.error_ns(sender.picture())) < ms(0.1)


def test_reports_that_are_old_when_they_leave_move_no_capture_behind_its_arrival(sender: Sender) -> None:
    sender.reports(5, late_ns=ms(33))
    # Stamped when sent: such senders' RTP timestamps are about nothing earlier.
    told = sender.picture(age_ns=0, is_stamped=False)
    assert abs(sender.error_ns(told, age_ns=0)) < ms(0.1)


def test_what_is_not_stamped_follows_what_was(sender: Sender) -> None:
    sender.reports()
    sender.picture(age_ns=ms(80))
    sender.now_ns += ms(960)
    told = sender.picture(age_ns=ms(90), is_stamped=False)
    assert told is not None and told.basis == "capture"
    assert abs(sender.error_ns(told, age_ns=ms(90))) < ms(0.1)


def test_a_stamp_of_long_ago_tells_nothing_any_more(sender: Sender) -> None:
    sender.reports()
    sender.picture()
    sender.reports(6)
    told = sender.picture(is_stamped=False)
    assert told is not None and told.basis == "sender_report"


def test_nothing_is_known_of_a_sender_that_does_not_report(sender: Sender) -> None:
    assert sender.picture() is None
    sender.reports(N_SURE_REPORTS - 1)
    assert sender.picture() is None


def test_nothing_is_known_without_a_round_trip() -> None:
    sender = Sender(CaptureTimes(0))
    sender.reports()
    assert sender.picture() is None


def test_nothing_is_known_once_reports_have_stopped(sender: Sender) -> None:
    sender.reports()
    sender.now_ns += MAX_REPORT_AGE_NS + ms(1)
    assert sender.picture() is None


@pytest.mark.parametrize("stamp_ms", [100, 1_000_000, -10_000, -3_600_000, -(2**32 - 1) * 1000], ids=str)
def test_a_stamp_that_cannot_be_true_is_none(sender: Sender, stamp_ms: int) -> None:
    sender.reports()
    assert sender.picture(stamp_ns=ms(stamp_ms)) is None
    assert sender.picture() is not None


@pytest.mark.parametrize("step_s", [-3600, -5, 5, 3600])
def test_a_clock_that_is_set_is_measured_anew(sender: Sender, step_s: int) -> None:
    sender.reports(N_REPORTS)
    sender.ahead_ns = step_s * NS_PER_S
    sender.reports(1)
    assert sender.picture() is None
    sender.reports(N_SURE_REPORTS - 1)
    assert abs(sender.error_ns(sender.picture())) < ms(0.1)


def test_a_small_step_is_followed_within_eight_reports(sender: Sender) -> None:
    sender.reports(N_REPORTS)
    sender.ahead_ns = -ms(300)
    sender.reports(N_REPORTS)
    assert abs(sender.error_ns(sender.picture())) < ms(0.1)


@pytest.mark.parametrize("leap_ns", [2**40 * 11_111, -1000 * NS_PER_S], ids=["another sender", "timestamps reset"])
def test_a_media_clock_that_begins_anew_is_tied_anew(sender: Sender, leap_ns: int) -> None:
    sender.media_ns = 2000 * NS_PER_S
    sender.reports(5)
    sender.media_ns += leap_ns
    sender.now_ns += ms(40)
    assert sender.picture(is_stamped=False) is None
    assert abs(sender.error_ns(sender.picture())) < ms(0.1)  # a stamp needs no tie
    sender.now_ns += ms(6000)
    sender.reports(1)
    told = sender.picture(is_stamped=False)
    assert told is not None and told.basis == "sender_report"
    assert abs(sender.error_ns(told)) < ms(0.1)


def test_reports_about_sound_tell_of_the_same_clock(sender: Sender) -> None:
    for second in range(1, N_SURE_REPORTS + 1):
        sent_ns = second * NS_PER_S
        sender.times.on_sender_report(sender.ntp_ns(sent_ns), sent_ns + sender.there_ns, None)
    sender.now_ns = 4 * NS_PER_S
    assert sender.picture(is_stamped=False) is None
    assert abs(sender.error_ns(sender.picture())) < ms(0.1)
