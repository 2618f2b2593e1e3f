"""Packets in order of their sequence numbers, with a limit on how long a missing one is waited for.

What arrives in order passes straight through: there is no standing delay. After a gap later packets are held, and
the missing ones are asked for at once and again until they come or their time is up (RFC 4585 §6.2.1). A loss needs
no mark of its own: it is a step of more than one in the sequence numbers released.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bridge.media.access_unit import Kind
from bridge.media.clock import NS_PER_MS
from bridge.media.rtp import RtpPacket, sequence_distance

# How long a missing packet is waited for. Video: five requests fit (0, 20, 50, 95, 163 ms at a short round trip), which
# 5 % loss in both directions defeats once in 10^5; a picture that late is still worth a repair. Audio: three packets.
WAIT_NS: dict[Kind, int] = {"video": 250 * NS_PER_MS, "audio": 60 * NS_PER_MS}
# A repeat sooner than this would ask for what is on its way even on a short path: a sender paces retransmissions.
MIN_NACK_SPACING_NS = 20 * NS_PER_MS
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


@dataclass(slots=True)
class _Missing:
    since_ns: int
    ask_at_ns: int
    n_asked: int = 0
    asked_at_ns: int = 0


class JitterBuffer:
    """Reorders one track.

    `push` every packet; then, and whenever `next_deadline_ns` has come, call `expire` and `due_nacks`. A packet counts
    as missing once a later one is there. A new SSRC or a leap in sequence numbers is believed on the second
    consecutive packet (RFC 3550 §A.1) and restarts the order; both packets are released.
    """

    def __init__(self, kind: Kind, stats: ReceiveStats) -> None:
        self._wait_ns = WAIT_NS[kind]
        self._stats = stats
        self._ssrc: int | None = None
        self._expected = 0
        self._newest_timestamp = 0
        # Every number from _expected to _highest is held, missing or given up; while none is held, none is missing.
        self._highest = 0
        self._held: dict[int, RtpPacket] = {}
        self._missing: dict[int, _Missing] = {}  # in sequence order, hence in order of since_ns
        self._stray: RtpPacket | None = None
        self._late_run = 0
        self._received_before_run = 0
        self._round_trip_ns = 0

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
        self._note_gap(sequence_number, now_ns)
        if len(self._missing) > MAX_MISSING:
            self._stats.lost += len(self._missing)
            self._missing.clear()
        return self._drain()

    def expire(self, now_ns: int) -> Sequence[RtpPacket]:
        """Give up what has been waited for long enough; return the packets this sets free."""
        if not self._missing:
            return ()
        n_before = len(self._missing)
        for sequence_number in [s for s, m in self._missing.items() if m.since_ns + self._wait_ns <= now_ns]:
            del self._missing[sequence_number]
        n_lost = n_before - len(self._missing)
        self._stats.lost += n_lost
        return self._drain() if n_lost else ()

    def due_nacks(self, now_ns: int) -> list[int]:
        """Sequence numbers to ask for now, in order; every call counts as having asked."""
        due = [(s, m) for s, m in self._missing.items() if m.ask_at_ns <= now_ns]
        for _, missing in due:
            # One round trip, then half as long again each time: a lossy path is asked often, a dead one is not flooded.
            spacing_ns = max(self._round_trip_ns, MIN_NACK_SPACING_NS) * 3**missing.n_asked // 2**missing.n_asked
            missing.n_asked += 1
            missing.asked_at_ns = now_ns
            missing.ask_at_ns = now_ns + spacing_ns
        return [s for s, _ in due]

    def next_deadline_ns(self) -> int | None:
        """When `expire` or `due_nacks` will have something to do; None while nothing is missing."""
        if not self._missing:
            return None
        oldest = next(iter(self._missing.values()))
        return min(oldest.since_ns + self._wait_ns, min(m.ask_at_ns for m in self._missing.values()))

    def held_ns(self, now_ns: int) -> int:
        """How long the packet that waits longest has been held back."""
        return now_ns - min(p.arrival_ns for p in self._held.values()) if self._held else 0

    def _note_gap(self, sequence_number: int, now_ns: int) -> None:
        missing = self._missing.pop(sequence_number, None)
        if missing is not None:
            if missing.n_asked:
                self._stats.recovered += 1
            if missing.n_asked == 1:
                # Smoothed as in RFC 6298 §2; after a repeat it is open which request was answered.
                sample_ns = now_ns - missing.asked_at_ns
                smoothed_ns = self._round_trip_ns or sample_ns
                self._round_trip_ns = smoothed_ns + (sample_ns - smoothed_ns) // 8
            return
        if sequence_distance(sequence_number, self._highest) <= 0:
            return
        gap = (self._highest + 1) & 0xFFFF
        while gap != sequence_number:
            self._missing[gap] = _Missing(since_ns=now_ns, ask_at_ns=now_ns)
            gap = (gap + 1) & 0xFFFF
        self._highest = sequence_number

    def _drain(self) -> Sequence[RtpPacket]:
        released: list[RtpPacket] = []
        while self._held and self._expected not in self._missing:
            packet = self._held.pop(self._expected, None)
            if packet is not None:  # else it was given up
                released.append(packet)
            self._expected = (self._expected + 1) & 0xFFFF
        if released:
            self._newest_timestamp = released[-1].rtp_timestamp
        return released

    def _refuse(self, packet: RtpPacket) -> Sequence[RtpPacket]:
        """A late packet, unless there have been nothing but late ones for long."""
        if self._stats.received != self._received_before_run:
            self._received_before_run = self._stats.received
            self._late_run = 0
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
        released = [*self._drain(), *packets]
        newest = packets[-1]
        self._stray = None
        self._ssrc = newest.ssrc
        self._highest = newest.sequence_number
        self._expected = (newest.sequence_number + 1) & 0xFFFF
        self._newest_timestamp = newest.rtp_timestamp
        return released
