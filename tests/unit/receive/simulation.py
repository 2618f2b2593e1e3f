"""A sender, a link that is bad both ways, and the receiver of one video track, in virtual time and without a socket.

What the receiver does is the real code; how the constants in `bridge.receive` come to their values is measured here.
"""

import heapq
import itertools
from collections.abc import Callable
from itertools import pairwise

from bridge.media.access_unit import Codec, ReceivedUnit
from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.media.rtp import RtpPacket
from bridge.receive.track import TrackReceiver
from tests.net.conditions import Conditions, Direction
from tests.unit.receive.streams import H264_TYPE, IDR, PPS, SLICE, SPS, SSRC, fu_a, stap_a

FPS = 30
KEYFRAME_EVERY = 60
# 720p30 at 2.5 Mb/s, as benchmarks.media has it: 1200 bytes in a packet.
KEYFRAME = (stap_a(SPS, PPS), *fu_a(IDR, 38))
PICTURE = tuple(fu_a(SLICE, 8))
AUDIO_EVERY_NS = 20 * NS_PER_MS
# What benchmarks.source does, and libwebrtc.
KEYFRAME_SPACING_NS = 300 * NS_PER_MS
HISTORY_PACKETS = 1024
# Loss begins when the connection is up.
CLEAR_S = 1.0


class Simulation:
    """`run` gives what came out: `pictures`, each with the time at which it was handed on."""

    def __init__(self, down: Conditions, up: Conditions, seed: int) -> None:
        self.pictures: list[tuple[int, ReceivedUnit]] = []
        self.keyframe_requests = self.requests = 0
        self.receiver = TrackReceiver({H264_TYPE: Codec.H264}, "video", now_ns=0)
        self._down, self._up = Direction(down, 2 * seed), Direction(up, 2 * seed + 1)
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._now_ns = 0
        self._history: dict[int, RtpPacket] = {}
        self._sequence_number = 60_000  # a wrap is on the way
        self._n_pictures = 0
        self._since_keyframe = 0
        self._keyframe_asked = False
        self._poll_at_ns: int | None = None

    def run(self, seconds: float) -> None:
        self._at(0, self._show)
        self._at(0, self._say)
        end_ns = round(seconds * NS_PER_S)
        while self._events and self._events[0][0] <= end_ns:
            self._now_ns, _, event = heapq.heappop(self._events)
            event()

    def longest_gap_ms(self) -> float:
        """Between two pictures handed on, and to the end, without the time before the loss began."""
        times = [at_ns for at_ns, _ in self.pictures if at_ns >= CLEAR_S * NS_PER_S]
        return max(b - a for a, b in pairwise([*times, self._now_ns])) / NS_PER_MS

    def _at(self, time_ns: int, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_ns, next(self._order), event))

    # ------------------------------------------------------------------ the sender

    def _show(self) -> None:
        self._since_keyframe += 1
        is_asked = self._keyframe_asked and self._since_keyframe * NS_PER_S // FPS >= KEYFRAME_SPACING_NS
        is_keyframe = self._n_pictures == 0 or self._since_keyframe == KEYFRAME_EVERY or is_asked
        if is_keyframe:
            self._since_keyframe, self._keyframe_asked = 0, False
        payloads = KEYFRAME if is_keyframe else PICTURE
        for payload in payloads:
            number, timestamp = self._sequence_number, self._n_pictures * 90_000 // FPS
            self._sequence_number = number + 1 & 0xFFFF
            packet = RtpPacket(SSRC, H264_TYPE, number, timestamp, payload is payloads[-1], payload, 0)
            self._history[number] = packet
            self._history.pop(number - HISTORY_PACKETS & 0xFFFF, None)
            self._send(packet)
        self._n_pictures += 1
        self._at(self._n_pictures * NS_PER_S // FPS, self._show)

    def _say(self) -> None:
        """Sound shares the link, and takes part of its loss."""
        self._down.pass_on(self._now_ns, 200)
        self._at(self._now_ns + AUDIO_EVERY_NS, self._say)

    def _send(self, packet: RtpPacket) -> None:
        for due_ns in self._down.pass_on(self._now_ns, 1200):
            self._at(due_ns, lambda due_ns=due_ns: self._receive(packet._replace(arrival_ns=due_ns)))

    def _hear_nacks(self, numbers: list[int]) -> None:
        for number in numbers:
            if number in self._history:
                self._send(self._history[number]._replace(is_retransmission=True))

    def _hear_pli(self) -> None:
        self._keyframe_asked = True

    # ------------------------------------------------------------------ the receiver, driven as reception does

    def _receive(self, packet: RtpPacket) -> None:
        self._keep(self.receiver.push(packet))
        self._set_timer()

    def _set_timer(self) -> None:
        deadline_ns = self.receiver.next_deadline_ns()
        if deadline_ns is None:
            return
        if deadline_ns <= self._now_ns:
            self._poll()
        elif self._poll_at_ns is None or deadline_ns < self._poll_at_ns:
            self._wake_at(deadline_ns)

    def _wake_at(self, deadline_ns: int) -> None:
        self._poll_at_ns = deadline_ns
        self._at(deadline_ns, lambda: self._wake(deadline_ns))

    def _wake(self, deadline_ns: int) -> None:
        if self._poll_at_ns == deadline_ns:
            self._poll_at_ns = None
            self._set_timer()

    def _poll(self) -> None:
        feedback = self.receiver.poll(self._now_ns)
        if feedback.nacks:
            self.requests += len(feedback.nacks)
            numbers = list(feedback.nacks)
            self._tell(lambda: self._hear_nacks(numbers))
        if feedback.keyframe_reason is not None:
            self.keyframe_requests += 1
            self._tell(self._hear_pli)
        self._keep(feedback.units)
        deadline_ns = self.receiver.next_deadline_ns()
        if deadline_ns is not None:
            self._wake_at(max(deadline_ns, self._now_ns + NS_PER_MS))

    def _tell(self, event: Callable[[], None]) -> None:
        for due_ns in self._up.pass_on(self._now_ns, 60):
            self._at(due_ns, event)

    def _keep(self, units: object) -> None:
        for unit in units:  # type: ignore[attr-defined]
            self.pictures.append((self._now_ns, unit))


def longest_gaps_ms(conditions: Conditions, seeds: range, seconds: float) -> list[float]:
    """Of each seed, in order of length; the link is the same both ways."""
    found = []
    for seed in seeds:
        simulation = Simulation(conditions, conditions, seed)
        simulation.run(seconds)
        found.append(simulation.longest_gap_ms())
    return sorted(found)
