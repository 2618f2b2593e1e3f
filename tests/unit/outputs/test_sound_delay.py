"""From RTP packets to samples on a bad network, in virtual time: what the sound loses, and what it never does.

aiortc's own buffer stands beside it: one lost packet makes it 200 ms later for ever (its issue 543).
"""

import random
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from aiortc import RTCRtpReceiver
from aiortc.rtp import RtpPacket as AiortcPacket

from bridge.media.access_unit import AccessUnit, Codec, ReceivedUnit
from bridge.media.clock import NS_PER_MS, NS_PER_S, OPUS_CLOCK_HZ, ns_to_ticks, ticks_to_ns
from bridge.media.opus import packet_duration_ns
from bridge.media.opus_decoder import BrokenPacket, Samples
from bridge.media.opus_sound import DEAD_ZONE_NS, LOOKAHEAD_NS, OpusSound
from bridge.media.rtp import RtpPacket
from bridge.receive.track import TrackReceiver
from bridge.timeline.splice import Splice
from bridge.timeline.sync import SessionTimeline
from tests.unit.receive.streams import OPUS_20_MS, OPUS_TYPE, SSRC

PACKET_MS = 20
LONGEST_WAIT_NS = 120 * NS_PER_MS  # for a missing packet
N_PACKETS = 500


class Steady:
    """A decoder whose samples are all alike: only how many there are is of interest."""

    name = "steady"
    can_restore = False

    def decode(self, packet: bytes) -> Samples:
        if not (duration_ns := packet_duration_ns(packet)):
            raise BrokenPacket
        return np.full((2, ns_to_ticks(duration_ns, OPUS_CLOCK_HZ)), 0.5, np.float32)

    def restore(self, packet: bytes, n_samples: int) -> Samples:
        return self.make_up(n_samples)

    def make_up(self, n_samples: int) -> Samples:
        return np.full((2, n_samples), 0.25, np.float32)

    def reset(self) -> None:
        pass


@dataclass
class Path:
    """Everything that sound passes on its way to the AAC encoder: order, timeline, splice, samples.

    rtp_ticks, late_ns  of each unit of the avatar's: when it was sent, how long after that it came out.
    errors_ns           of each that is heard: how far the count of samples is from its end.
    """

    now_ns: int = 0
    rtp_ticks: list[int] = field(default_factory=list)
    late_ns: list[int] = field(default_factory=list)
    errors_ns: list[int] = field(default_factory=list)
    n_samples: int = 0
    began_ns: int | None = None

    def __post_init__(self) -> None:
        self.receiver = TrackReceiver({OPUS_TYPE: Codec.OPUS}, "audio", 0)
        self.timeline = SessionTimeline(0, {})
        self.splice = Splice(0, NS_PER_S, self._on_air)
        self.splice.follow(1)
        self.splice.put(1, AccessUnit(Codec.H264, b"idr", 0, is_keyframe=True, codec_config=b"any"), 0)
        self.sound = OpusSound(Steady())

    def push(self, packet: RtpPacket) -> None:
        self.poll(packet.arrival_ns)
        for unit in self.receiver.push(packet):
            self._place(unit)
        self.poll(packet.arrival_ns)

    def poll(self, until_ns: int) -> None:
        """Let time pass, and do what is due in it."""
        while True:
            deadlines_ns = [self.splice.next_deadline_ns()]
            if (receiver_ns := self.receiver.next_deadline_ns()) is not None:
                deadlines_ns.append(receiver_ns)
            due_ns = max(self.now_ns, min(deadlines_ns))
            if due_ns > until_ns:
                self.now_ns = until_ns
                return
            self.now_ns = due_ns + (NS_PER_MS if due_ns == self.now_ns else 0)
            for unit in self.receiver.poll(self.now_ns).units:
                self._place(unit)
            self.splice.poll(self.now_ns)
            # Pictures flow, so that only sound is missing.
            self.splice.put(1, AccessUnit(Codec.H264, b"p", self.now_ns, is_keyframe=False), self.now_ns)

    def _place(self, unit: ReceivedUnit) -> None:
        self.rtp_ticks.append(unit.rtp_ticks)
        self.late_ns.append(self.now_ns - ticks_to_ns(unit.rtp_ticks, OPUS_CLOCK_HZ))
        pts_ns = self.timeline.place("audio", unit.rtp_ticks, unit.first_arrival_ns)
        self.splice.put(1, unit.at(pts_ns, has_moved=self.timeline.has_moved("audio")), self.now_ns)

    def _on_air(self, unit: AccessUnit) -> None:
        if unit.codec.kind == "video":
            return
        if self.began_ns is None:
            self.began_ns = self.sound.begin(unit)
        self.n_samples += self.sound.push(unit).shape[1]
        if unit.arrival_ns:
            self.errors_ns.append(self.sound.ends_ns - (unit.pts_ns - LOOKAHEAD_NS + unit.duration_ns))


def sent(number: int, *, arrives_ms: float | None = None, sequence_number: int | None = None) -> RtpPacket:
    at_ms = number * PACKET_MS if arrives_ms is None else arrives_ms
    return RtpPacket(
        SSRC,
        OPUS_TYPE,
        (number if sequence_number is None else sequence_number) & 0xFFFF,
        number * 960,
        False,
        OPUS_20_MS,
        round((at_ms + 1) * NS_PER_MS),
        False,
    )


def stock_delays_ms(lost: set[int]) -> dict[int, int]:
    """By packet received: how old the sound is that aiortc's own receiver hands to its decoder then."""
    receiver = RTCRtpReceiver("audio", SimpleNamespace(state="new"))
    buffer = receiver._RTCRtpReceiver__jitter_buffer
    delays_ms: dict[int, int] = {}
    for number in range(N_PACKETS):
        if number not in lost:
            packet = AiortcPacket(payload_type=OPUS_TYPE, sequence_number=number, timestamp=number * 960)
            packet._data = OPUS_20_MS
            _, frame = buffer.add(packet)
            if frame is not None:
                delays_ms[number] = number * PACKET_MS - frame.timestamp * 1000 // OPUS_CLOCK_HZ
    return delays_ms


async def test_one_lost_packet_makes_stock_aiortc_200_ms_later_for_ever() -> None:
    without_loss, with_loss = stock_delays_ms(set()), stock_delays_ms({50})
    assert set(without_loss.values()) == {80}
    assert {delay_ms for number, delay_ms in with_loss.items() if number < 50} == {80}
    assert {delay_ms for number, delay_ms in with_loss.items() if number > 100} == {280}


@pytest.mark.parametrize("lost", [{50}, {50, 51, 52}, {50, 120, 121, 300}])
def test_a_lost_packet_makes_ours_no_later(lost: set[int]) -> None:
    path = Path()
    for number in range(N_PACKETS):
        if number not in lost:
            path.push(sent(number))

    assert path.late_ns[:50] == [NS_PER_MS] * 50
    # What follows a lost packet waits for it, up to the limit; behind that there is no delay again.
    assert max(path.late_ns) <= LONGEST_WAIT_NS + PACKET_MS * NS_PER_MS
    n_waiting = LONGEST_WAIT_NS // NS_PER_MS // PACKET_MS + 1
    assert sum(late_ns > NS_PER_MS for late_ns in path.late_ns) <= n_waiting * len(lost)
    assert path.late_ns[-100:] == [NS_PER_MS] * 100
    # And there is a sample for every tick of the sender's clock.
    assert path.n_samples == N_PACKETS * 960
    assert path.sound.concealed_samples == len(lost) * 960
    assert {abs(error_ns) <= 1 for error_ns in path.errors_ns} == {True}


def bad_network(rng: random.Random) -> list[RtpPacket]:
    """Ten seconds of packets in the order of their arrival: some never come, many come late or in another order, and
    now and then the sender is silent and sends nothing. The first and the last ones come."""
    loss, burst = rng.choice((0, 0.01, 0.05, 0.2)), rng.choice((1, 1, 3, 10))
    jitter_ms = rng.choice((0, 5, 30, 80))
    silence = rng.choice((0, 0.02))
    packets = []
    number, sequence_number, n_lost = 0, 0, 0
    while number < N_PACKETS:
        if not n_lost and rng.random() < loss / burst:
            n_lost = burst
        is_edge = number < 5 or number >= N_PACKETS - 5
        if not n_lost or is_edge:
            arrives_ms = number * PACKET_MS + rng.uniform(0, jitter_ms)
            packets.append(sent(number, arrives_ms=arrives_ms, sequence_number=sequence_number))
        n_lost = max(0, n_lost - 1)
        sequence_number += 1
        number += min(rng.randint(2, 40), N_PACKETS - 5 - number) if rng.random() < silence and not is_edge else 1
    return sorted(packets, key=lambda packet: packet.arrival_ns)


@pytest.mark.parametrize("seed", range(40))
def test_the_count_of_samples_never_leaves_the_clock_of_the_sender(seed: int) -> None:
    path = Path()
    for packet in bad_network(random.Random(seed)):
        path.push(packet)
    path.poll(path.now_ns + 2 * LONGEST_WAIT_NS)

    assert path.began_ns is not None
    assert path.sound.ends_ns - path.began_ns == ticks_to_ns(path.n_samples, OPUS_CLOCK_HZ)
    assert abs(path.n_samples - (path.rtp_ticks[-1] + 960 - path.rtp_ticks[0])) <= 960
    assert path.rtp_ticks[-1] - path.rtp_ticks[0] > (N_PACKETS - 10) * 960
    # Every packet that is heard lies where its RTP timestamp says: the offset to the pictures stays what it is.
    assert max(map(abs, path.errors_ns)) <= DEAD_ZONE_NS
    # And none comes after the silence that stands in for what is missing.
    assert path.splice.late_units == 0
    assert len(path.errors_ns) == len(path.late_ns)
