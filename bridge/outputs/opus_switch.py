"""For outputs that take Opus: the avatar's packets as they are, or the mix encoded, packet by packet."""

from collections import deque
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import OPUS_CLOCK_HZ, ns_to_ticks, ticks_to_ns
from bridge.media.opus_decoder import N_CHANNELS, Samples
from bridge.media.opus_encoder import FRAME_SAMPLES, OpusEncoder

# What an encoder hears before its first packet counts: its filters and its memory of pitch (1024 samples) are full.
_RUN_UP_SAMPLES = 3 * FRAME_SAMPLES
# Where two rows of packets meet, half a packet is the timeline's business (`timeline.splice`).
_JOINT_SAMPLES = FRAME_SAMPLES // 2


class Mark(NamedTuple):
    """What is known of the samples up to `end`, from the mark before on.

    is_used   an input is heard there.  is_quiet: the avatar is not.
    """

    end: int
    is_used: bool
    is_quiet: bool


class OpusSwitch:
    """Passes packets while no input is used. All positions are samples of session time.

    Where an input sets in, encoders take over that have been run up on the sound before, and whose first packet refers
    to none: a far decoder goes from one to the other without a joint. Where no input is used any more, the avatar's
    packets come back in its next pause: they refer to packets that the far decoder has not had, which is nothing to
    hear where both are silent.
    """

    def __init__(self) -> None:
        self._units: deque[AccessUnit] = deque()  # not decided yet
        self._arrival_ns = 0
        self._row: Samples = np.zeros((N_CHANNELS, 0), np.float32)
        self._ends = 0  # of the row
        self._marks: deque[Mark] = deque()
        self._next: int | None = None  # where the next packet of ours starts; None: the avatar's pass
        self._encoders: dict[int, OpusEncoder] = {}  # by bit rate
        self._follows_celt = False  # the last packet that has passed was CELT (RFC 6716 §3.1)

    def put(self, unit: AccessUnit) -> None:
        """A packet that has come; an empty one stands for sound that did not."""
        self._units.append(unit)
        self._arrival_ns = unit.arrival_ns

    def push(self, mixed: Samples, ends: int, mark: Mark, bit_rates: Collection[int]) -> list[tuple[int, AccessUnit]]:
        """More of the mix, which follows what came before; the packets that are decided by it, each with its bit rate.

        ends  of the mix.  mark: goes further.
        """
        self._row = np.concatenate((self._row, mixed), axis=1)
        self._ends = ends
        self._marks.append(mark)
        made = self._decide(bit_rates)
        self._forget()
        return made

    def flush(self, bit_rates: Collection[int]) -> list[tuple[int, AccessUnit]]:
        """What waits; nothing may follow."""
        made: list[tuple[int, AccessUnit]] = []
        if self._next is None:
            made = [(bit_rate, unit) for unit in self._units if unit.payload for bit_rate in bit_rates]
        elif n_left := (self._ends - self._next) % FRAME_SAMPLES:
            n_missing = FRAME_SAMPLES - n_left
            self._row = np.pad(self._row, ((0, 0), (0, n_missing)))
            self._ends += n_missing
            made = self._encode(bit_rates)
        return made

    def _decide(self, bit_rates: Collection[int]) -> list[tuple[int, AccessUnit]]:
        made: list[tuple[int, AccessUnit]] = []
        while True:
            if self._next is None:
                if not self._units or (ends := _end(self._units[0])) > self._ends:
                    return made
                if any(mark.is_used for mark in self._between(_start(self._units[0]), ends)):
                    self._next = _start(self._units[0])
                    continue
                unit = self._units.popleft()
                self._follows_celt = unit.payload[:1] >= b"\x80"
                made += [(bit_rate, unit) for bit_rate in bit_rates if unit.payload]
            else:
                ends = self._next + FRAME_SAMPLES
                if may_return := self._may_return(self._next):
                    ends = max(ends, _end(self._units[0]))
                if ends > self._ends:
                    return made
                if may_return:
                    self._next = None
                    self._encoders.clear()
                else:
                    made += self._encode(bit_rates)

    def _may_return(self, at: int) -> bool:
        """Whether the avatar's next packet may follow here, by what is known."""
        if not self._units or not -_JOINT_SAMPLES <= _start(self._units[0]) - at < FRAME_SAMPLES:
            return False
        marks = self._between(at - FRAME_SAMPLES, max(at + FRAME_SAMPLES, _end(self._units[0])))
        return all(mark.is_quiet and not mark.is_used for mark in marks)

    def _encode(self, bit_rates: Collection[int]) -> list[tuple[int, AccessUnit]]:
        assert self._next is not None
        made: list[tuple[int, AccessUnit]] = []
        pts_ns = ticks_to_ns(self._next, OPUS_CLOCK_HZ)
        duration_ns = ticks_to_ns(self._next + FRAME_SAMPLES, OPUS_CLOCK_HZ) - pts_ns
        encoders, self._encoders = self._encoders, {}
        for bit_rate in bit_rates:
            encoder = self._encoders[bit_rate] = encoders.get(bit_rate) or self._run_up(bit_rate, self._next)
            packet = encoder.encode(self._frame(self._next))
            encoder.refer(True)
            made.append((bit_rate, AccessUnit(Codec.OPUS, packet, pts_ns, duration_ns, arrival_ns=self._arrival_ns)))
        self._next += FRAME_SAMPLES
        while self._units and _start(self._units[0]) < self._next - _JOINT_SAMPLES:
            self._units.popleft()
        return made

    def _run_up(self, bit_rate: int, until: int) -> OpusEncoder:
        """An encoder whose next packet is one's first."""
        encoder = OpusEncoder(bit_rate)
        encoder.refer(self._follows_celt)
        starts = self._ends - self._row.shape[1]
        for at in range(until - _RUN_UP_SAMPLES, until, FRAME_SAMPLES):
            if at >= starts:
                encoder.encode(self._frame(at))
        encoder.refer(False)
        return encoder

    def _frame(self, at: int) -> Samples:
        first = at - (self._ends - self._row.shape[1])
        return self._row[:, first : first + FRAME_SAMPLES]

    def _between(self, start: int, end: int) -> list[Mark]:
        """The marks of all samples from start to end, as far as there are any."""
        found: list[Mark] = []
        for mark in self._marks:
            if mark.end > start:
                found.append(mark)
            if mark.end >= end:
                break
        return found

    def _forget(self) -> None:
        """What no encoder will be run up on."""
        needed = self._next
        if needed is None:
            needed = _start(self._units[0]) if self._units else self._ends
        first = max(0, needed - _RUN_UP_SAMPLES - (self._ends - self._row.shape[1]))
        self._row = self._row[:, first:]
        while self._marks and self._marks[0].end <= needed - _RUN_UP_SAMPLES:
            self._marks.popleft()


def _start(unit: AccessUnit) -> int:
    return ns_to_ticks(unit.pts_ns, OPUS_CLOCK_HZ)


def _end(unit: AccessUnit) -> int:
    """Of the packet, or of one of ours in its place."""
    return _start(unit) + max(FRAME_SAMPLES, ns_to_ticks(unit.duration_ns, OPUS_CLOCK_HZ))
