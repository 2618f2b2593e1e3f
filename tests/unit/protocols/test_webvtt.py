import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.media.clock import NS_PER_S
from bridge.media.utterance import Utterance
from bridge.protocols.webvtt import MOST_CHARACTERS, block, cues


def spoken(text: str, begins_s: float = 0.0, ends_s: float = 10.0, name: str = "leo") -> Utterance:
    times = {"begins_ns": round(begins_s * NS_PER_S), "ends_ns": round(ends_s * NS_PER_S)}
    return Utterance(speaker="avatar", name=name, text=text, **times)


def test_a_cue_names_its_speaker_and_its_time() -> None:
    cue = spoken("Good evening.", 3_723.004, 3_725.5)
    assert block(cue) == b"01:02:03.004 --> 01:02:05.500\n<v leo>Good evening.\n\n"


def test_what_is_said_is_no_markup() -> None:
    (cue,) = cues(spoken("a < b && c --> d <v Eve>me</v>"))
    assert b"<v leo>a &lt; b &amp;&amp; c --&gt; d &lt;v Eve&gt;me&lt;/v&gt;\n" in block(cue)
    assert block(spoken("x", name="a>b&c")).endswith(b"<v a&gt;b&amp;c>x\n\n")


@pytest.mark.parametrize("text", ["one\n\ntwo", "one\r\ntwo", "one\u2028two", "one\0two", "one\ud800two"])
def test_no_line_ends_a_cue(text: str) -> None:
    (cue,) = cues(spoken(text))
    assert cue.text == "one two"
    assert block(cue).count(b"\n") == 3


def test_a_cue_lasts_however_short_it_is() -> None:
    assert block(spoken("x", 1.0, 1.0)).startswith(b"00:00:01.000 --> 00:00:01.001\n")


def test_long_speech_is_cut_between_sentences_and_each_has_its_share_of_the_time() -> None:
    sentences = ["This is the first sentence, which has some words. ", "The second one has about as many words as it. "]
    found = list(cues(spoken("".join(sentences) + "Third.", 2.0, 12.2)))
    assert [cue.text for cue in found] == [sentences[0].strip(), sentences[1] + "Third."]
    assert [cue.begins_ns for cue in found[1:]] == [cue.ends_ns for cue in found[:-1]]
    assert (found[0].begins_ns, found[-1].ends_ns) == (2 * NS_PER_S, round(12.2 * NS_PER_S))
    assert found[0].ends_ns / NS_PER_S == pytest.approx(2 + 10.2 * len(sentences[0]) / (len("".join(sentences)) + 6))


def test_east_asian_sentences_have_no_spaces() -> None:
    assert [cue.text for cue in cues(spoken("今日は" * 20 + "。" + "明日も" * 20 + "。"))] == [
        "今日は" * 20 + "。",
        "明日も" * 20 + "。",
    ]


@given(st.text(max_size=400))
def test_no_word_is_lost_and_every_cue_can_be_read_at_a_glance(text: str) -> None:
    found = list(cues(spoken(text)))
    assert all(0 < len(cue.text) <= MOST_CHARACTERS for cue in found)
    written = b"".join(block(cue) for cue in found).decode()
    assert written.count("\n\n") == len(found)
    assert "".join(cue.text for cue in found).replace(" ", "") == "".join(
        character for character in text if not character.isspace() and not 0x7F <= ord(character) <= 0x9F
    ).translate(dict.fromkeys(range(32))).replace("\ud800", "")
