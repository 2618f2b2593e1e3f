"""Packets in order of their sequence numbers, with a limit on how long a missing one is waited for.

What arrives in order passes straight through: there is no standing delay. After a gap later packets are held, and
the missing ones are asked for at once and again until they come or their time is up (RFC 4585 §6.2.1). A loss needs
no mark of its own: it is a step of more than one in the sequence numbers released.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bridge.media.access_unit import Kind
from bridge.media.rtp import RtpPacket, sequence_distance
from bridge.receive.patience import TROUBLE_NS, Missing, Patience

# Senders keep 128 (aiortc) to some 600 packets (libwebrtc at 2.5 Mb/s); of a longer gap most is gone for good.
MAX_MISSING = 256
# RFC 3550 §A.1, MAX_DROPOUT: a step further than this, in either direction, is another stream.
MAX_STEP = 3000
# RFC 3550 §A.1, MAX_MISORDER: so many late packets and nothing else are a stream that starts again a little lower.
MAX_LATE_RUN = 100


@dataclass(slots=True)
class ReceiveStats:
    """Counts of RTP packets since the track began.

    received   taken, each once.
    lost       given up.
    recovered  of the received: came only after they had been asked for.
    late       thrown away: duplicates, and what came after it was given up.
    invalid    of the received: payloads that break their format, and unknown payload types.
    """

    received: int = 0
    lost: int = 0
    recovered: int = 0
    late: int = 0
    invalid: int = 0


class JitterBuffer:
    """Reorders one track.

    `push` every packet; then, and whenever `next_deadline_ns` has come, call `expire` and `due_nacks`. A packet counts
    as missing once a later one is there. A new SSRC or a leap in sequence numbers is believed on the second
    consecutive packet (RFC 3550 §A.1) and restarts the order; both packets are released.

    round_trip_ns  what the connection's own checks have measured; 0: nothing.
    """

    def __init__(self, kind: Kind, stats: ReceiveStats, round_trip_ns: int = 0) -> None:
        self._stats = stats
        self._patience = Patience(kind, round_trip_ns)
        self._given_up: dict[int, Missing] = {}  # the last ones: answers may come too late
        self._longest_hold_ns = 0
        self._ssrc: int | None = None
        self._expected = 0
        self._newest_timestamp = 0
        # Every number from _expected to _highest is held, missing or given up; while none is held, none is missing.
        self._highest = 0
        self._held: dict[int, RtpPacket] = {}
        self._missing: dict[int, Missing] = {}  # in sequence order, hence in order of since_ns
        self._stray: RtpPacket | None = None
        self._late_run = 0
        self._received_before_run = 0

    def push(self, packet: RtpPacket, now_ns: int) -> Sequence[RtpPacket]:
        """Take one packet; return those whose turn has come, in order."""
        sequence_number = packet.sequence_number
        if sequence_number == self._expected and packet.ssrc == self._ssrc and not self._held:
            self._stats.received += 1
            self._highest = sequence_number
            self._expected = (sequence_number + 1) & 0xFFFF
            self._newest_timestamp = packet.rtp_timestamp
            return (packet,)
        if self._ssrc is None:
            return self._restart([packet])
        if packet.ssrc != self._ssrc:
            return self._doubt(packet)
        ahead = sequence_distance(sequence_number, self._expected)
        if not -MAX_STEP <= ahead <= MAX_STEP:
            return self._doubt(packet)
        if ahead < 0:
            # A late packet is never newer media than what was released; that of a restarted stream may be.
            if 0 < (packet.rtp_timestamp - self._newest_timestamp) % 2**32 < 2**31:
                return self._doubt(packet)
            return self._refuse(packet)
        if sequence_number in self._held:
            self._stats.late += 1
            return ()
        self._stats.received += 1
        self._held[sequence_number] = packet
        self._note_gap(packet, now_ns)
        if len(self._missing) > MAX_MISSING:
            self._stats.lost += len(self._missing)
            self._missing.clear()
        return self._drain(now_ns)

    def expire(self, now_ns: int) -> Sequence[RtpPacket]:
        """Give up what has been waited for long enough; return the packets this sets free."""
        if not self._missing:
            return ()
        given_up_ns = now_ns - self._patience.wait_ns
        given_up = {s: m for s, m in self._missing.items() if m.since_ns <= given_up_ns}
        if not given_up:
            return ()
        for sequence_number in given_up:
            del self._missing[sequence_number]
        self._stats.lost += len(given_up)
        self._given_up = given_up
        self._patience.on_given_up(len(given_up))
        return self._drain(now_ns)

    def has_whole_picture(self, sequence_number: int) -> bool:
        """Whether from this held packet on everything is there up to a marker."""
        while (packet := self._held.get(sequence_number)) is not None:
            if packet.marker:
                return True
            sequence_number = (sequence_number + 1) & 0xFFFF
        return False

    def skip_to(self, sequence_number: int, now_ns: int) -> Sequence[RtpPacket]:
        """Give up everything that is missing before a held packet; return what this sets free."""
        for number in [s for s in self._missing if sequence_distance(s, sequence_number) < 0]:
            del self._missing[number]
            self._stats.lost += 1
        return self._drain(now_ns)

    def due_nacks(self, now_ns: int) -> list[int]:
        """Sequence numbers to ask for now, in order; every call counts as having asked."""
        due = [(s, m) for s, m in self._missing.items() if m.ask_at_ns <= now_ns]
        for _, missing in due:
            missing.ask(now_ns, self._patience.spacing_ns(missing.n_rounds))
        return [s for s, _ in due]

    def next_deadline_ns(self) -> int | None:
        """When `expire` or `due_nacks` will have something to do; None while nothing is missing."""
        if not self._missing:
            return None
        oldest = next(iter(self._missing.values()))
        return min(oldest.since_ns + self._patience.wait_ns, min(m.ask_at_ns for m in self._missing.values()))

    def longest_hold_ns(self, now_ns: int) -> int:
        """How long a packet was held back for a missing one, at most, since this was asked the last time."""
        held_ns = now_ns - min(p.arrival_ns for p in self._held.values()) if self._held else 0
        longest_ns, self._longest_hold_ns = max(self._longest_hold_ns, held_ns), 0
        return longest_ns

    @property
    def is_waiting(self) -> bool:
        """Whether anything is missing."""
        return bool(self._missing)

    @property
    def round_trip_ns(self) -> int:
        """To the sender and back: what has not been answered by then will not be."""
        return self._patience.answer_ns

    def is_in_trouble(self, now_ns: int) -> bool:
        """Whether a packet has been asked for so often in vain that a keyframe may come sooner."""
        return any(m.n_rounds > 1 and now_ns >= m.since_ns + TROUBLE_NS for m in self._missing.values())

    def _note_gap(self, packet: RtpPacket, now_ns: int) -> None:
        sequence_number = packet.sequence_number
        missing = self._missing.pop(sequence_number, None)
        if missing is not None:
            if self._patience.on_arrival(missing, now_ns, packet.is_retransmission):
                self._stats.recovered += 1
            return
        if sequence_distance(sequence_number, self._highest) <= 0:
            return
        gap = (self._highest + 1) & 0xFFFF
        ask_at_ns = now_ns + self._patience.ask_after_ns
        while gap != sequence_number:
            self._missing[gap] = Missing(now_ns, ask_at_ns)
            gap = (gap + 1) & 0xFFFF
        self._highest = sequence_number

    def _drain(self, now_ns: int) -> Sequence[RtpPacket]:
        released: list[RtpPacket] = []
        while self._held and self._expected not in self._missing:
            packet = self._held.pop(self._expected, None)
            if packet is not None:  # else it was given up
                released.append(packet)
            self._expected = (self._expected + 1) & 0xFFFF
        if released:
            self._newest_timestamp = released[-1].rtp_timestamp
            self._longest_hold_ns = max(self._longest_hold_ns, now_ns - min(p.arrival_ns for p in released))
        return released

    def _refuse(self, packet: RtpPacket) -> Sequence[RtpPacket]:
        """A late packet, unless there have been nothing but late ones for long."""
        if self._stats.received != self._received_before_run:
            self._received_before_run = self._stats.received
            self._late_run = 0
        missing = self._given_up.pop(packet.sequence_number, None)
        if missing is not None and missing.n_rounds:
            self._patience.on_answer(missing, packet.arrival_ns)
        if not packet.is_retransmission:
            self._late_run += 1
        if self._late_run > MAX_LATE_RUN:
            return self._restart([packet])
        self._stats.late += 1
        return ()

    def _doubt(self, packet: RtpPacket) -> Sequence[RtpPacket]:
        """A packet that does not belong here: the first of a new stream, if its successor comes next."""
        stray = self._stray
        if (
            stray
            and stray.ssrc == packet.ssrc
            and sequence_distance(packet.sequence_number, stray.sequence_number) == 1
        ):
            return self._restart([stray, packet])
        if stray:
            self._stats.late += 1
        self._stray = packet
        return ()

    def _restart(self, packets: list[RtpPacket]) -> Sequence[RtpPacket]:
        self._stats.received += len(packets)
        self._stats.lost += len(self._missing)
        self._missing.clear()
        self._given_up.clear()
        released = [*self._drain(packets[-1].arrival_ns), *packets]
        newest = packets[-1]
        self._stray = None
        self._ssrc = newest.ssrc
        self._highest = newest.sequence_number
        self._expected = (newest.sequence_number + 1) & 0xFFFF
        self._newest_timestamp = newest.rtp_timestamp
        return released
