"""What a broadcast showed when: live stretches, told by the stamps of the local avatar's pictures, and what stood in.

The stamp of `avatar --timecode` is read without decoding, and its number says which pictures of `--flash` are white.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import av

from benchmarks.lipsync import Sound, onsets, sound, source_offset_s
from bridge.local_avatar.timecode import read_stamp
from bridge.media.clock import NS_PER_S

# Of the local avatar: one picture of so many is a flash.
FLASH_EVERY = 25
# A longer pause of live pictures was a hold (ITU-R P.1201 counts 0.5 s as a freeze); what follows is live again.
HELD_S = 0.45
# Who has just joined is in sync by then: the first sender reports take a second or two.
SETTLED_S = 3.0
# How exactly it is known when a fault strikes: the avatar counts from when its media is connected.
NEAR_S = 1.0
# A flash so close to an end may have lost its beep.
UNFINISHED_S = 0.5


@dataclass(frozen=True, slots=True)
class Picture:
    """time_s: of presentation, or of arrival.  stamp: number and `monotonic_ns` of a live picture, None of others."""

    time_s: float
    stamp: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Stretch:
    """Pictures in a row that are all live, of one session of the avatar service and without a hold, or all not."""

    is_live: bool
    pictures: list[Picture] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{'live' if self.is_live else 'not live'} from {self.start_s:.3f} to {self.end_s:.3f} s"

    @property
    def start_s(self) -> float:
        return self.pictures[0].time_s

    @property
    def end_s(self) -> float:
        return self.pictures[-1].time_s

    @property
    def longest_gap_s(self) -> float:
        return max((later.time_s - earlier.time_s for earlier, later in pairwise(self.pictures)), default=0.0)

    def flashes(self) -> Iterator[Picture]:
        """The white pictures."""
        for picture in self.pictures:
            if picture.stamp and picture.stamp[0] and picture.stamp[0] % FLASH_EVERY == 0:
                yield picture


@dataclass(frozen=True, slots=True)
class Recorded:
    """pictures, and the times of the sound's packets, in the file's order."""

    pictures: list[Picture]
    sounds_s: list[float]

    @property
    def timestamps_back(self) -> int:
        """How many units are not later than the one before on their track."""
        tracks = ([picture.time_s for picture in self.pictures], self.sounds_s)
        return sum(later <= earlier for times_s in tracks for earlier, later in pairwise(times_s))

    @property
    def longest_silence_s(self) -> float:
        """The longest time from one packet of sound to the next."""
        return max(later - earlier for earlier, later in pairwise(self.sounds_s))


def read_recording(path: Path) -> Recorded:
    """What a file holds, not decoded."""
    found = Recorded([], [])
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.pts is None or not packet.size:
                continue
            assert packet.time_base is not None
            time_s = float(packet.pts * packet.time_base)
            if packet.stream.type == "video":
                found.pictures.append(Picture(time_s, read_stamp(bytes(packet))))
            else:
                found.sounds_s.append(time_s)
    return found


def stretches(pictures: Iterable[Picture]) -> list[Stretch]:
    """The broadcast, cut where something else begins."""
    found: list[Stretch] = []
    for picture in pictures:
        if not found or _begins_anew(found[-1], picture):
            found.append(Stretch(picture.stamp is not None))
        found[-1].pictures.append(picture)
    return found


def offsets(path: Path, of: Sequence[Stretch], interruptions_ns: Sequence[int] = ()) -> list[float]:
    """Seconds that the nearest beep comes after each flash, from `SETTLED_S` into each live stretch on.

    interruptions_ns  when, on `time.monotonic_ns`, streams began anew within a stretch: to settle, they have as long.
    """
    heard = sound(path)
    found: list[float] = []
    for stretch in of:
        flashes_s = [
            flash.time_s
            for flash in stretch.flashes()
            if stretch.start_s + SETTLED_S <= flash.time_s <= stretch.end_s - UNFINISHED_S
            and not any(is_near(flash, ns, SETTLED_S) for ns in interruptions_ns)
        ]
        if flashes_s:
            beeps_s = _beeps_s(heard, stretch)
            found += (min((beep_s - flash_s for beep_s in beeps_s), key=abs) for flash_s in flashes_s)
    return [offset_s - source_offset_s() for offset_s in found]


def is_near(picture: Picture, interruption_ns: int, after_s: float) -> bool:
    """Whether a live picture was made at an interruption, or no longer than this after it."""
    if picture.stamp is None:
        return False
    since_s = (picture.stamp[1] - interruption_ns) / NS_PER_S
    return -NEAR_S <= since_s <= NEAR_S + after_s


def _beeps_s(heard: Sound, stretch: Stretch) -> list[float]:
    starts = [index for time_s, index in heard.frames if stretch.start_s <= time_s <= stretch.end_s]
    beeps = onsets(heard.samples[starts[0] : starts[-1]], heard.rate_hz)
    return [heard.time_s(starts[0] + index) for index in beeps]


def _begins_anew(stretch: Stretch, picture: Picture) -> bool:
    before = stretch.pictures[-1]
    if before.stamp is None or picture.stamp is None:
        return before.stamp is not picture.stamp
    return picture.stamp[0] <= before.stamp[0] or picture.time_s - before.time_s > HELD_S
