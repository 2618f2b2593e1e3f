"""One track from packets to units, and what its sender has to be told meanwhile."""

from collections import deque
from collections.abc import Mapping, Sequence
from statistics import median_low
from typing import Literal, NamedTuple

from bridge.media.access_unit import Codec, Kind, ReceivedUnit
from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.media.rtp import RtpPacket, SenderReport
from bridge.receive.depacketize import Depacketizer, open_depacketizer
from bridge.receive.jitter import JitterBuffer, ReceiveStats
from bridge.receive.sender_clock import SenderClock

KeyframeReason = Literal["start", "loss", "stall", "demand", "periodic"]

# libwebrtc answers at most one request in 300 ms (encoder_rtcp_feedback.cc): asking faster is asking for nothing.
MIN_REQUEST_SPACING_NS = 300 * NS_PER_MS
# The first repeats of one that a loss has caused may come sooner than that: what lost the packets may have lost the
# request, and to a sender that has heard it a second one changes nothing.
MIN_REPEAT_SPACING_NS = 100 * NS_PER_MS
# Until a sender has shown so often how long it takes: the next picture at 20 a second, and as long again to encode it.
MIN_RESPONSES = 3
ENCODER_NS = 100 * NS_PER_MS
# A sender that has ignored three requests is asked once a second: it may have come back, and is not to be flooded.
UNANSWERED_LIMIT = 3
SLOW_REQUEST_SPACING_NS = NS_PER_S
# A sender starts with a keyframe of its own accord; only if that does not come, counted from its first packet, is it
# asked for.
START_PATIENCE_NS = 300 * NS_PER_MS
# Even at 10 pictures per second five have not come by then.
STALL_NS = 500 * NS_PER_MS


class Feedback(NamedTuple):
    """What `TrackReceiver.poll` wants done: send a NACK, send a PLI (if there is a reason for one), pass units on."""

    nacks: Sequence[int]
    keyframe_reason: KeyframeReason | None
    units: Sequence[ReceivedUnit]


class KeyframeRequests:
    """Decides when to send a PLI (RFC 4585 §6.3.1).

    A request stays open until a keyframe comes, and is repeated. Periodic ones go out so much earlier than the
    keyframe is due as this sender recently took to answer. Nothing is asked of a sender before its first packet: it
    may not have begun, and its SSRC, which a PLI names, may not be known. Times are `time.monotonic_ns`.

    interval_ns    how far keyframes may lie apart; None: any distance.
    unanswered     requests sent since the last keyframe.
    round_trip_ns  to the sender and back, as far as is known.
    """

    def __init__(self, now_ns: int) -> None:
        self.interval_ns: int | None = None
        self.unanswered = 0
        self.round_trip_ns = 0
        self._first_packet_ns: int | None = None
        self._last_packet_ns = now_ns
        self._open: KeyframeReason | None = None
        self._first_request_ns = 0
        self._last_request_ns = now_ns - SLOW_REQUEST_SPACING_NS
        self._last_keyframe_ns: int | None = None
        self._responses_ns: deque[int] = deque(maxlen=5)
        self._lead_ns = 0

    @property
    def is_ignored(self) -> bool:
        """Whether this sender has left so many requests without a keyframe that more of them are of little use."""
        asked_for_ns = self._last_request_ns - self._first_request_ns
        return self.unanswered >= UNANSWERED_LIMIT and asked_for_ns >= (UNANSWERED_LIMIT - 1) * MIN_REQUEST_SPACING_NS

    @property
    def is_calm(self) -> bool:
        """Whether there has been a keyframe, and no request is open."""
        return self._open is None and self._last_keyframe_ns is not None

    def on_packet(self, arrival_ns: int) -> None:
        """Media came, whatever it is."""
        if self._first_packet_ns is None:
            self._first_packet_ns = arrival_ns
        self._last_packet_ns = arrival_ns

    def want(self, reason: KeyframeReason) -> None:
        """Ask as soon as the throttle allows, unless a request is open already."""
        if self._open is None:
            self._open = "start" if reason == "loss" and self._last_keyframe_ns is None else reason

    def on_keyframe(self, arrival_ns: int) -> None:
        """An intact keyframe came: whatever was asked for is answered."""
        if self.unanswered and self._open != "stall":  # how long a stall lasts says nothing about the answer
            # The median, for one answer lost on the way counts as a slow one.
            self._responses_ns.append(arrival_ns - self._first_request_ns)
            self._lead_ns = median_low(self._responses_ns)
        self._last_keyframe_ns = arrival_ns
        self._open = None
        self.unanswered = 0

    def due(self) -> tuple[int, KeyframeReason] | None:
        """When the next request goes out if nothing happens until then, and why; None before the first packet."""
        if self._first_packet_ns is None:
            return None
        at_ns, reason = self._first_cause(self._first_packet_ns)
        return max(at_ns, self._last_request_ns + self._spacing_ns(reason)), reason

    def poll(self, now_ns: int) -> KeyframeReason | None:
        """The reason for a request that is to be sent now."""
        due = self.due()
        if due is None or now_ns < due[0]:
            return None
        _, reason = due
        if self._open in ("periodic", "demand") and now_ns >= self._last_packet_ns + STALL_NS:
            reason = "stall"  # whatever it was first asked for: nothing comes any more
        if not self.unanswered:
            self._first_request_ns = now_ns
        self._open = reason
        self._last_request_ns = now_ns
        self.unanswered += 1
        return reason

    def _spacing_ns(self, reason: KeyframeReason) -> int:
        if self.is_ignored:
            return SLOW_REQUEST_SPACING_NS
        if not 0 < self.unanswered < UNANSWERED_LIMIT or reason != "loss":
            return MIN_REQUEST_SPACING_NS
        # By then this sender has answered, unless the request is lost as well.
        is_known = len(self._responses_ns) >= MIN_RESPONSES
        answer_ns = self._lead_ns * 5 // 4 if is_known else self.round_trip_ns + ENCODER_NS
        return min(max(answer_ns, MIN_REPEAT_SPACING_NS), MIN_REQUEST_SPACING_NS)

    def _first_cause(self, begun_ns: int) -> tuple[int, KeyframeReason]:
        if self._open is not None:
            return self._last_request_ns, self._open
        if self._last_keyframe_ns is None:
            return begun_ns + START_PATIENCE_NS, "start"
        stall_at_ns = self._last_packet_ns + STALL_NS
        if self.interval_ns is not None:
            lead_ns = min(self._lead_ns, self.interval_ns // 2)
            periodic_at_ns = self._last_keyframe_ns + self.interval_ns - lead_ns
            if periodic_at_ns < stall_at_ns:
                return periodic_at_ns, "periodic"
        return stall_at_ns, "stall"


class TrackReceiver:
    """Receives one track: `push` every packet, `poll` whenever `next_deadline_ns` has come.

    codecs  payload type to codec. Packets of other types take their place in the order and are dropped. A track that
            goes on in another codec begins anew with a keyframe.
    now_ns  `time.monotonic_ns` at which the track was negotiated; a packet's `arrival_ns` is on the same clock.
    round_trip_ns  to the sender and back, as its connection has measured it; 0: not known.

    Every packet can move `next_deadline_ns`, to the past as well: then `poll` is due at once.
    """

    def __init__(self, codecs: Mapping[int, Codec], kind: Kind, now_ns: int, round_trip_ns: int = 0) -> None:
        self.stats = ReceiveStats()
        self._codecs = codecs
        self._jitter = JitterBuffer(kind, self.stats, round_trip_ns)
        self._clock = SenderClock()
        self._codec: Codec | None = None
        self._depacketizer: Depacketizer | None = None  # of the codec; None before the first packet of any
        self._keyframes = KeyframeRequests(now_ns) if kind == "video" else None
        # SSRC and sequence number of the packet that begins the newest keyframe behind a gap.
        self._held_keyframe: tuple[int, int | None] = -1, None

    def push(self, packet: RtpPacket) -> Sequence[ReceivedUnit]:
        """Take one packet; return the units it completes."""
        if self._keyframes is not None:
            self._keyframes.on_packet(packet.arrival_ns)
        released = self._jitter.push(packet, packet.arrival_ns)
        if self._jitter.is_waiting:
            released = [*released, *self._skip_to_keyframe(packet)]
        return self._depacketize(released)

    def _skip_to_keyframe(self, packet: RtpPacket) -> Sequence[RtpPacket]:
        """What a keyframe sets free that is whole while something before it is still missing: viewers need no more."""
        depacketizer = self._depacketizer
        is_known = self._codecs.get(packet.payload_type) is self._codec
        starts = depacketizer is not None and is_known and depacketizer.starts_keyframe(packet.payload)
        if starts or packet.ssrc != self._held_keyframe[0]:
            self._held_keyframe = packet.ssrc, packet.sequence_number if starts else None
        _, sequence_number = self._held_keyframe
        if sequence_number is None or not self._jitter.has_whole_picture(sequence_number):
            return ()
        self._held_keyframe = packet.ssrc, None
        return self._jitter.skip_to(sequence_number, packet.arrival_ns)

    def poll(self, now_ns: int) -> Feedback:
        """What is due now: requests to the sender, and units that waited for packets given up."""
        units = self._depacketize(self._jitter.expire(now_ns))
        nacks = self._jitter.due_nacks(now_ns)
        if self._keyframes is None:
            return Feedback(nacks, None, units)
        if nacks:
            self._keyframes.round_trip_ns = self._jitter.round_trip_ns
            if self._jitter.is_in_trouble(now_ns):
                self._keyframes.want("loss")
        return Feedback(nacks, self._keyframes.poll(now_ns), units)

    def next_deadline_ns(self) -> int | None:
        """When `poll` will have something to do; None: not before the next packet."""
        deadline_ns = self._jitter.next_deadline_ns()
        request = self._keyframes.due() if self._keyframes is not None else None
        if request is None:
            return deadline_ns
        return request[0] if deadline_ns is None else min(deadline_ns, request[0])

    @property
    def is_calm(self) -> bool:
        """Whether packets that complete no unit can only put `next_deadline_ns` off: nothing is missing or asked."""
        return not self._jitter.is_waiting and (self._keyframes is None or self._keyframes.is_calm)

    def report_ticks(self, report: SenderReport) -> int | None:
        """The `rtp_ticks` of a sender report; None when it does not belong to the media that arrives now."""
        return self._clock.report_ticks(report)

    def request_keyframe(self) -> None:
        """Ask for a keyframe as soon as the throttle allows; `poll` is due."""
        if self._keyframes is not None:
            self._keyframes.want("demand")

    def set_keyframe_interval_ns(self, interval_ns: int | None) -> None:
        """How far keyframes may lie apart, by arrival; None: any distance."""
        if self._keyframes is not None:
            self._keyframes.interval_ns = interval_ns

    @property
    def unanswered_keyframe_requests(self) -> int:
        """Requests sent since the last keyframe."""
        return self._keyframes.unanswered if self._keyframes is not None else 0

    @property
    def ignores_keyframe_requests(self) -> bool:
        """Whether there have been so many of them for so long that it deserves a warning."""
        return self._keyframes is not None and self._keyframes.is_ignored

    def longest_hold_ns(self, now_ns: int) -> int:
        """How long a packet was held back for a missing one, at most, since this was asked the last time."""
        return self._jitter.longest_hold_ns(now_ns)

    def _depacketize(self, packets: Sequence[RtpPacket]) -> Sequence[ReceivedUnit]:
        units: list[ReceivedUnit] = []
        for packet in packets:
            codec = self._codecs.get(packet.payload_type)
            if codec is None:
                self.stats.invalid += 1
                packet = packet._replace(payload=b"", marker=False)
            elif codec is not self._codec:
                self._codec = codec
                self._depacketizer = open_depacketizer(codec, self._clock, self.stats)
            if self._depacketizer is not None:
                units += self._depacketizer.push(packet)
        if self._keyframes is not None:
            for unit in units:
                if unit.is_keyframe:
                    self._keyframes.on_keyframe(unit.arrival_ns)
            if self._depacketizer is not None and self._depacketizer.lacks_keyframe:
                self._keyframes.want("loss")
        return units
