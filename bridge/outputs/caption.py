"""Live captions: at most two lines of what is being said, at the pace at which it is said."""

import functools
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import NamedTuple

from bridge.media.clock import NS_PER_S

N_LINES = 2
# Services send the words of an answer faster than it sounds. English is read aloud at 12 to 16 characters a second,
# Mandarin at five: what is written wide counts for so much more.
CHARACTERS_PER_S = 14.0
_WIDE_COUNTS = 2.8
# What was said last can be read to its end: a third of a second for each word of a line.
STAYS_NS = 3 * NS_PER_S
# Only the last two lines are seen, and all before them is laid out again with each word. Of a speech of minutes the
# beginning is left out, in steps, because lines would break elsewhere with each.
_LAID_OUT, _STEP = 3000, 1500

# Control characters, line ends and halves of surrogate pairs: no font has them.
_NO_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# A word, or one character of a script without spaces, each with the space before it.
_WIDE = "\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef"
_WORD = re.compile(f"\\s*([{_WIDE}]|[^\\s{_WIDE}]+)")


class _Said(NamedTuple):
    """A state of the text.

    spoken      how far it is with each character, in characters of usual width; it may hold more than those of `text`.
    began_ns    when its first character was said.  changed_ns: when it came to be so long.
    """

    text: str
    spoken: list[float]
    began_ns: int
    changed_ns: int

    @property
    def ends_ns(self) -> int:
        """When its last character is said."""
        return self.began_ns + round(self.spoken[len(self.text) - 1] / CHARACTERS_PER_S * NS_PER_S)


_NOTHING = _Said("", [], 0, 0)


class Caption:
    """What is to be read of what is being said. One thread may `set` it while another one reads `lines`.

    measure   the width of a text, in pixels.  width_px: of a line.
    """

    def __init__(self, measure: Callable[[str], float], width_px: int) -> None:
        self._measure = functools.lru_cache(1024)(measure)
        self._width_px = width_px
        self._said = _NOTHING
        self._laid_out: tuple[str, tuple[str, ...]] = ("", ())

    def set(self, text: str, now_ns: int) -> None:
        """All that is known of the present utterance; a text that does not go on from the one before is another one.

        Empty: nothing is said any more, and what was not shown yet will not be.
        """
        text = _NO_TEXT.sub(" ", text)
        old = self._said
        if not text:
            self._said = _NOTHING
        elif old.text and text.startswith(old.text):
            # A pause of the service's is no time to catch up with.
            began_ns = old.began_ns + max(0, now_ns - old.ends_ns)
            more = accumulate(map(_weight, text[len(old.text) :]), initial=old.spoken[len(old.text) - 1])
            next(more)
            old.spoken.extend(more)
            self._said = _Said(text, old.spoken, began_ns, now_ns)
        else:
            self._said = _Said(text, list(accumulate(map(_weight, text))), now_ns, now_ns)

    def lines(self, now_ns: int) -> tuple[str, ...]:
        """What is to be read now, none or up to two lines."""
        said = self._said
        if not said.text or now_ns - max(said.ends_ns, said.changed_ns) >= STAYS_NS:
            return ()
        spoken = (now_ns - said.began_ns) / NS_PER_S * CHARACTERS_PER_S
        n_spoken = bisect_right(said.spoken, spoken, 0, len(said.text))
        # The word that is being said is shown whole.
        shown = said.text[: n_spoken + _rest_of_word(said.text, n_spoken)]
        shown = shown[max(0, (len(shown) - _LAID_OUT) // _STEP * _STEP) :]
        if self._laid_out[0] != shown:
            self._laid_out = shown, tuple(self._wrap(shown))[-N_LINES:]
        return self._laid_out[1]

    def _wrap(self, text: str) -> Iterator[str]:
        line, width_px = "", 0.0
        for match in _WORD.finditer(text):
            for word in self._pieces(match[1]):
                gap = " " if line and match[0] != match[1] else ""
                added_px = self._measure(gap) + self._measure(word)
                if line and width_px + added_px > self._width_px:
                    yield line
                    line, width_px, gap, added_px = "", 0.0, "", self._measure(word)
                line, width_px = line + gap + word, width_px + added_px
        if line:
            yield line

    def _pieces(self, word: str) -> Iterator[str]:
        """A word that is wider than a line, in parts that are not."""
        if self._measure(word) <= self._width_px:
            yield word
            return
        piece, piece_px = "", 0.0
        for character in word:
            character_px = self._measure(character)
            if piece and piece_px + character_px > self._width_px:
                yield piece
                piece, piece_px = "", 0.0
            piece, piece_px = piece + character, piece_px + character_px
        yield piece


def _weight(character: str) -> float:
    return _WIDE_COUNTS if unicodedata.east_asian_width(character) in "WF" else 1.0


def _rest_of_word(text: str, position: int) -> int:
    """How many characters from there on belong to a word that has begun before it."""
    match = _WORD.match(text, position)
    return match.end() - position if match and match[0] == match[1] else 0
