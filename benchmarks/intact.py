"""Which of the pictures that left are whole, and how long viewers had none: what loss on the way comes to."""

from collections.abc import Collection, Sequence
from itertools import pairwise

from benchmarks.media import load_media
from benchmarks.tap import Picture, slices_checksum


def source_checksums() -> frozenset[int]:
    """Of every picture that `benchmarks.source` sends."""
    return frozenset(slices_checksum(nals) for nals in load_media().pictures)


def intact(pictures: Sequence[Picture], whole: Collection[int]) -> list[Picture]:
    """Those that a decoder shows as they were encoded: their slices are the source's, and so is what they refer to.

    The source's pictures refer to the one before them, and keyframes to none.
    """
    found: list[Picture] = []
    for picture in pictures:
        if picture.number is None or picture.checksum not in whole:
            continue
        if picture.is_keyframe or (found and found[-1].number == picture.number - 1):
            found.append(picture)
    return found


def longest_gap_ms(times_ns: Sequence[int], begin_ns: int, end_ns: int) -> float:
    """The longest time within a span that has none of these, in order. The span's ends count as if they were some."""
    within = [begin_ns, *(t for t in times_ns if begin_ns < t < end_ns), end_ns]
    return max(later - earlier for earlier, later in pairwise(within)) / 1e6
