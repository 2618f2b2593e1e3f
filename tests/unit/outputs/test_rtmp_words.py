"""What an RTMP server says, as an operator reads it."""

from bridge.outputs.rtmp_link import shown_words
from bridge.redact import Secret


def test_words_are_short_and_printable() -> None:
    shown = shown_words("line\nfeed\x1b[2J" + "x" * 10_000)
    assert shown.isprintable()
    assert len(shown) == 200


def test_a_secret_where_words_are_cut_is_masked_before() -> None:
    Secret("rtmp-canary-4711-canary")
    assert "canary" not in shown_words(f"{'x' * 185}rtmp-canary-4711-canary")
