"""Captions: two lines, at the pace of speech, and gone after it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.media.clock import NS_PER_S
from bridge.outputs.caption import CHARACTERS_PER_S, STAYS_NS, Caption

WORDS = "The quick brown fox jumps over the lazy dog and comes back for the cat that it has seen before"


def caption(width: int = 20) -> Caption:
    """Every character is one pixel wide."""
    return Caption(len, width)


def ns(time_s: float) -> int:
    return round(time_s * NS_PER_S)


def test_words_appear_when_they_are_said() -> None:
    shown = caption()
    shown.set(WORDS, ns(5))
    assert shown.lines(ns(5)) == ("The",)
    assert shown.lines(ns(5) + ns(11 / CHARACTERS_PER_S)) == ("The quick brown",)
    assert shown.lines(ns(5) + ns(17 / CHARACTERS_PER_S)) == ("The quick brown fox",)


def test_two_lines_are_seen_and_the_older_one_moves_up() -> None:
    shown = caption()
    shown.set(WORDS, 0)
    seen = [shown.lines(ns(time_s / 10)) for time_s in range(80)]
    assert max(map(len, seen)) == 2
    assert all(len(line) <= 20 for lines in seen for line in lines)
    assert ("The quick brown fox", "jumps over the lazy") in seen
    assert seen[-1] == ("for the cat that it", "has seen before")


def test_words_that_come_bit_by_bit_appear_as_if_they_had_come_together() -> None:
    at_once, bit_by_bit = caption(), caption()
    at_once.set(WORDS, 0)
    for time_ds in range(80):
        bit_by_bit.set(WORDS[: 4 * (time_ds + 1)], ns(time_ds / 10))
        assert bit_by_bit.lines(ns(time_ds / 10)) == at_once.lines(ns(time_ds / 10))


def test_a_pause_of_the_service_is_not_caught_up_with() -> None:
    shown = caption()
    shown.set("One", 0)
    shown.set("One two three four five six", ns(20))
    assert shown.lines(ns(20)) == ("One",)
    assert shown.lines(ns(20.3)) == ("One two",)


def test_a_caption_goes_when_it_has_been_read() -> None:
    shown = caption()
    shown.set("Hello", 0)
    said_ns = ns(5 / CHARACTERS_PER_S)
    assert shown.lines(said_ns + STAYS_NS - 1) == ("Hello",)
    assert shown.lines(said_ns + STAYS_NS) == ()


def test_what_will_not_be_said_is_not_shown() -> None:
    shown = caption()
    shown.set(WORDS, 0)
    assert shown.lines(ns(1))
    shown.set("", ns(1))
    assert shown.lines(ns(1)) == ()


def test_another_text_begins_anew() -> None:
    shown = caption()
    shown.set(WORDS, 0)
    shown.set("And now", ns(3))
    assert shown.lines(ns(3)) == ("And",)


def test_scripts_without_spaces_are_wrapped_and_said_more_slowly() -> None:
    shown = Caption(lambda text: 2 * len(text), 20)
    text = "今天我们来看看播出的字幕是怎么显示的"
    shown.set(text, 0)
    assert shown.lines(ns(1.05)) == (text[:6],), "five characters a second, and the one that is being said"
    assert shown.lines(ns(3.7)) == (text[:10], text[10:])


def test_a_word_that_is_wider_than_a_line_is_cut() -> None:
    shown = caption(8)
    shown.set("Donaudampfschifffahrt", 0)
    assert shown.lines(ns(2)) == ("pfschiff", "fahrt")


def test_long_speeches_are_laid_out_from_a_later_place() -> None:
    laid_out: list[int] = []
    shown = Caption(lambda text: laid_out.append(len(text)) or len(text), 40)
    text = " ".join(f"word{number}" for number in range(2_000))
    shown.set(text, 0)
    lines = shown.lines(ns(len(text) / CHARACTERS_PER_S))
    assert lines[-1].endswith("word1999")
    assert sum(laid_out) <= 4_500 * 2


@given(st.lists(st.tuples(st.text(max_size=30), st.integers(0, 3 * NS_PER_S)), max_size=8), st.integers(1, 30))
def test_any_text_makes_at_most_two_lines_of_the_width(texts: list[tuple[str, int]], width: int) -> None:
    shown, now_ns, text = caption(width), 0, ""
    for more, later_ns in texts:
        text, now_ns = text + more, now_ns + later_ns
        shown.set(text, now_ns)
        lines = shown.lines(now_ns)
        assert len(lines) <= 2 and all(0 < len(line) <= width for line in lines)
        assert not any(
            character in "\r\n\0" or "\ud800" <= character <= "\udfff" for line in lines for character in line
        )


def test_lines_follow_each_other_in_time() -> None:
    shown = caption()
    shown.set(WORDS, 0)
    seen = [" ".join(shown.lines(ns(time_s / 20))) for time_s in range(160)]
    for before, after in pairwise(seen):
        assert after == before or after.startswith(before) or before.split()[-1] in after


@pytest.mark.parametrize("text", ["\n", " ", "\ud800", "\0"])
def test_what_is_no_text_makes_no_line(text: str) -> None:
    shown = caption()
    shown.set(text, 0)
    assert shown.lines(ns(1)) == ()
