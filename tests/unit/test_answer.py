"""When an answer has sounded to its end."""

from bridge.answer import Answer
from bridge.media.clock import NS_PER_S


def test_an_answer_that_nobody_waited_for_is_measured_from_its_own_beginning() -> None:
    answer = Answer()
    for began_s, lasts_s in ((10, 2.0), (20, 3.0), (30, 1.0)):
        answer.start(began_s * NS_PER_S)
        answer.lasts(lasts_s)
        answer.done()
        end_ns = round((began_s + lasts_s) * NS_PER_S)
        assert not answer.is_over(end_ns - 1)
        assert answer.is_over(end_ns)


def test_an_answer_that_goes_on_lasts_from_its_beginning() -> None:
    answer = Answer()
    answer.expect()
    answer.start(10 * NS_PER_S)
    answer.lasts(5.0)
    answer.start(12 * NS_PER_S)
    answer.done()
    assert not answer.is_over(14 * NS_PER_S)
    assert answer.is_over(15 * NS_PER_S)
