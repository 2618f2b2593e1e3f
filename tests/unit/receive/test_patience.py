import pytest

from bridge.media.access_unit import Kind
from bridge.receive.patience import (
    MAX_COPIES,
    MAX_REORDER_WAIT_NS,
    MAX_UNANSWERED,
    MIN_SPACING_NS,
    UNKNOWN_ROUND_TRIP_NS,
    Missing,
    Patience,
    RoundTrip,
)
from tests.unit.receive.streams import ms


def answered(patience: Patience, round_trip_ms: float, times: int = 30) -> None:
    """So many packets were lost, asked for once and came."""
    for index in range(times):
        missing = Missing(ms(1000 * index), ms(1000 * index))
        missing.ask(ms(1000 * index), patience.spacing_ns(0))
        assert patience.on_arrival(missing, ms(1000 * index + round_trip_ms), is_retransmission=True)


def wait_ms(kind: Kind, round_trip_ms: float) -> float:
    patience = Patience(kind)
    answered(patience, round_trip_ms)
    return patience.wait_ns / 1e6


@pytest.mark.parametrize(
    ("kind", "round_trip_ms", "expected_ms"),
    [
        ("video", 1, 100),  # four rounds and an answer take less
        ("video", 50, 248),  # 52 ms, and 1.25 and 1.56 of them, and the answer
        ("video", 80, 394),
        ("video", 300, 400),
        ("audio", 1, 40),
        ("audio", 30, 64),
        ("audio", 300, 120),
    ],
)
def test_the_wait_follows_the_round_trip_within_its_limits(
    kind: Kind, round_trip_ms: float, expected_ms: float
) -> None:
    assert wait_ms(kind, round_trip_ms) == pytest.approx(expected_ms, abs=3)


def test_before_any_answer_the_connections_own_measurement_counts_or_a_usual_path() -> None:
    assert Patience("video", ms(70)).answer_ns == ms(72)
    assert Patience("video").answer_ns == UNKNOWN_ROUND_TRIP_NS + ms(2)


def test_a_path_with_jitter_is_given_more_time() -> None:
    steady, unsteady = RoundTrip(), RoundTrip()
    for index in range(100):
        steady.measure(ms(50))
        unsteady.measure(ms(50 + (10 if index % 2 else -10)))
    assert steady.patience_ns <= ms(53)
    assert ms(65) <= unsteady.patience_ns <= ms(80)


def test_rounds_are_never_closer_than_a_sender_paces() -> None:
    patience = Patience("video", ms(1))
    assert patience.spacing_ns(0) == MIN_SPACING_NS


def test_an_answer_after_several_rounds_says_nothing_about_the_path() -> None:
    patience = Patience("video", ms(50))
    missing = Missing(0, 0)
    for at_ms in (0, 52, 62, 117):
        missing.ask(ms(at_ms), patience.spacing_ns(missing.n_rounds))
    patience.on_arrival(missing, ms(167), is_retransmission=True)
    assert patience.answer_ns == ms(52)


def test_an_answer_right_after_the_second_round_is_one_to_the_first() -> None:
    patience = Patience("video", ms(50))
    missing = Missing(0, 0)
    missing.ask(0, patience.spacing_ns(0))
    missing.ask(ms(52), patience.spacing_ns(1))
    patience.on_arrival(missing, ms(58), is_retransmission=True)
    assert patience.answer_ns > ms(58)


def test_a_path_that_has_become_longer_than_the_spacing_is_learnt() -> None:
    patience = Patience("video", ms(20))
    for index in range(60):
        missing = Missing(ms(1000 * index), ms(1000 * index))
        while missing.ask_at_ns < ms(1000 * index + 150):
            missing.ask(missing.ask_at_ns, patience.spacing_ns(missing.n_rounds))
        patience.on_arrival(missing, ms(1000 * index + 150), is_retransmission=True)
    assert ms(150) <= patience.answer_ns <= ms(200)


def test_each_round_asks_once_more_than_the_one_before_up_to_a_limit() -> None:
    missing = Missing(0, 0)
    times = []
    while missing.n_rounds < 5:
        times.append(missing.n_rounds)
        missing.ask(missing.ask_at_ns, ms(100))
    per_round = [times.count(n) for n in range(1, 5)]
    assert per_round == [1, 2, MAX_COPIES, MAX_COPIES]


def test_a_sender_that_answers_nothing_is_not_waited_for_and_one_answer_changes_that() -> None:
    patience = Patience("audio", ms(80))
    assert patience.wait_ns == ms(120)
    patience.on_given_up(MAX_UNANSWERED)
    assert patience.wait_ns == ms(40)
    answered(patience, 80, times=1)
    assert patience.wait_ns == ms(120)


def test_what_is_overtaken_moves_the_first_request_and_losses_move_it_back() -> None:
    patience = Patience("video", ms(80))
    assert patience.ask_after_ns == 0
    assert not patience.on_arrival(Missing(0, 0), ms(6), is_retransmission=False)
    assert ms(6) < patience.ask_after_ns < ms(8)
    assert not patience.on_arrival(Missing(0, 0), ms(60), is_retransmission=False)
    assert patience.ask_after_ns == MAX_REORDER_WAIT_NS
    answered(patience, 80, times=100)
    assert patience.ask_after_ns < ms(1)


def test_an_original_that_comes_too_soon_for_an_answer_was_overtaken() -> None:
    patience = Patience("video", ms(80))
    missing = Missing(0, 0)
    missing.ask(0, patience.spacing_ns(0))
    assert not patience.on_arrival(missing, ms(10), is_retransmission=False)
    assert ms(10) < patience.ask_after_ns < ms(13)
