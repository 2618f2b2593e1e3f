"""WebVTT, as far as a transcript is written in it.

Source: W3C, "WebVTT: The Web Video Text Tracks Format" §3 (syntax) and §4.2 (cue text).
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, pairwise

from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.media.utterance import Utterance

HEADER = "WEBVTT\n\n"
# Two lines of 42 characters, as broadcasters set subtitles: some six seconds of speech.
MOST_CHARACTERS = 84

# A sentence with the space behind it; East Asian scripts put none there.
_SENTENCE = re.compile(r".+?(?:[.!?…]+\s+|[。！？]+\s*|$)")
# As many words as there is room for, or a part of a word that is longer than all of it.
_WORDS = re.compile(rf"(?:\S.{{0,{MOST_CHARACTERS - 2}}}\S(?=\s|$)|\S{{1,{MOST_CHARACTERS}}})\s*")
# What ends a line, or no player shows.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def cues(utterance: Utterance) -> Iterator[Utterance]:
    """Parts that can be read at a glance, whole sentences where they fit, each of its share of the time."""
    parts = _parts(" ".join(_CONTROL.sub(" ", utterance.text).split()))
    n_characters = sum(map(len, parts))
    lasts_ns = utterance.ends_ns - utterance.begins_ns
    said = accumulate(map(len, parts), initial=0)
    times_ns = [utterance.begins_ns + n * lasts_ns // max(1, n_characters) for n in said]
    for part, (begins_ns, ends_ns) in zip(parts, pairwise(times_ns), strict=True):
        yield replace(utterance, text=part.strip(), begins_ns=begins_ns, ends_ns=ends_ns)


def block(cue: Utterance) -> bytes:
    """A cue, whose times count from the beginning of the file."""
    begins_ms = cue.begins_ns // NS_PER_MS
    # A cue ends behind its beginning (§4.1).
    ends_ms = max(cue.ends_ns // NS_PER_MS, begins_ms + 1)
    voice, text = (words.translate(_ENTITIES) for words in (cue.name, cue.text))
    return f"{_time(begins_ms)} --> {_time(ends_ms)}\n<v {voice}>{text}\n\n".encode()


def _parts(text: str) -> list[str]:
    parts: list[str] = []
    for sentence in _SENTENCE.findall(text):
        if parts and len(parts[-1]) + len(sentence.rstrip()) <= MOST_CHARACTERS:
            parts[-1] += sentence
        else:
            parts += _WORDS.findall(sentence)
    return parts


def _time(at_ms: int) -> str:
    seconds, milliseconds = divmod(at_ms, NS_PER_S // NS_PER_MS)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{milliseconds:03}"
