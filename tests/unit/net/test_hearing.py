"""When a far end counts as silent, in virtual time."""

from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.net.hearing import Hearing


class Line:
    """A far end that answers and reports as a test says, looked at four times a second, with media that never ends."""

    def __init__(self, *, reports_every_s: float | None = None) -> None:
        self.now_ns = 0
        self.hearing = Hearing(0, spread=lambda: 0.5)
        self.answers = self.receives = True
        self.asked_s: list[float] = []
        self._reports_every_s = reports_every_s
        self._reported_s = 0.0

    @property
    def now_s(self) -> float:
        return self.now_ns / NS_PER_S

    def step(self) -> None:
        self.now_ns += 250 * NS_PER_MS
        self.hearing.sent(self.now_ns)
        if self._reports_every_s and self.receives and self.now_s - self._reported_s >= self._reports_every_s:
            self._reported_s = self.now_s
            self.hearing.reported(self.now_ns)
        if self.hearing.wants_to_ask(self.now_ns):
            self.asked_s.append(self.now_s)
            self.hearing.asked(self.now_ns)
            if self.answers:
                self.hearing.answered(self.now_ns + 50 * NS_PER_MS)

    def run(self, seconds: float) -> bool:
        """Whether it was silent at any time."""
        was_silent = False
        until_ns = self.now_ns + round(seconds * NS_PER_S)
        while self.now_ns < until_ns:
            self.step()
            was_silent |= self.hearing.is_silent(self.now_ns)
        return was_silent

    def silent_after_s(self, most_s: float = 40.0) -> float | None:
        since_s = self.now_s
        while self.now_s - since_s < most_s:
            self.step()
            if self.hearing.is_silent(self.now_ns):
                return self.now_s - since_s
        return None

    def cut(self) -> None:
        self.answers = self.receives = False


def test_a_far_end_that_answers_and_never_reports_is_not_silent() -> None:
    line = Line()
    assert not line.run(600.0)


def test_consent_is_asked_for_every_five_seconds_while_all_is_well() -> None:
    for every_s in (None, 1.0, 5.0):
        line = Line(reports_every_s=every_s)
        line.run(60.0)
        assert line.asked_s == [5.0 * n for n in range(1, 13)]


def test_without_reports_silence_is_noticed_within_nine_seconds() -> None:
    line = Line()
    line.run(20.0)
    line.cut()
    after_s = line.silent_after_s()
    assert after_s is not None and after_s <= 9.0


def test_where_reports_came_every_second_silence_is_noticed_within_six_seconds() -> None:
    for cut_after_s in (20.0, 21.0, 22.0, 23.0, 24.0):
        line = Line(reports_every_s=1.0)
        line.run(cut_after_s)
        line.cut()
        after_s = line.silent_after_s()
        assert after_s is not None and after_s <= 6.0


def test_a_pause_of_two_seconds_is_no_silence() -> None:
    for cut_after_s in (20.0, 21.0, 22.0, 23.0, 24.75):
        line = Line(reports_every_s=1.0)
        line.run(cut_after_s)
        line.cut()
        was_silent = line.run(2.0)
        line.answers = line.receives = True
        assert not was_silent and not line.run(60.0)


def test_reports_that_were_few_and_stop_are_no_silence_while_questions_are_answered() -> None:
    line = Line(reports_every_s=1.0)
    line.run(50.0)
    line.receives = False
    assert not line.run(600.0)


def test_reports_that_were_a_habit_and_stop_are_silence_although_questions_are_answered() -> None:
    line = Line(reports_every_s=1.0)
    line.run(70.0)
    line.receives = False
    after_s = line.silent_after_s()
    assert after_s is not None and 4.0 <= after_s <= 6.0


def test_seldom_reports_are_waited_for_as_long_as_they_take() -> None:
    line = Line(reports_every_s=7.0)
    line.run(120.0)
    line.receives = False
    after_s = line.silent_after_s()
    assert after_s is not None and after_s >= 14.0


def test_a_far_end_that_is_sent_nothing_owes_no_reports() -> None:
    line = Line(reports_every_s=1.0)
    line.run(70.0)
    line.hearing.reported(line.now_ns)
    for _ in range(240):
        line.now_ns += 250 * NS_PER_MS
        if line.hearing.wants_to_ask(line.now_ns):
            line.hearing.asked(line.now_ns)
            line.hearing.answered(line.now_ns)
        assert not line.hearing.is_silent(line.now_ns)


def test_any_answer_and_any_report_ends_a_silence() -> None:
    for speaks in (lambda line: line.hearing.answered(line.now_ns), lambda line: line.hearing.reported(line.now_ns)):
        line = Line()
        line.cut()
        assert line.silent_after_s() is not None
        speaks(line)
        assert not line.hearing.is_silent(line.now_ns)


def test_consent_ends_thirty_seconds_after_its_last_answer_whatever_is_reported() -> None:
    line = Line(reports_every_s=1.0)
    line.run(20.0)
    line.answers = False
    line.run(29.0)
    assert line.hearing.has_consent(line.now_ns)
    line.run(2.0)
    assert not line.hearing.has_consent(line.now_ns)


def test_an_unanswered_question_is_asked_again_every_second() -> None:
    line = Line()
    line.cut()
    line.run(9.0)
    assert line.asked_s == [5.0, 6.0, 7.0, 8.0, 9.0]
