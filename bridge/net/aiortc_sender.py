"""Sending of ready access units through aiortc: the place of its RTCRtpSender, without its encoder and tasks.

The stock sender keeps 128 packets for retransmission and reports the moment it happened to send as the moment of
capture, so that lip-sync at the far end inherits its jitter. This one keeps 1024 packets, and its sender reports are
computed from the presentation times.
"""

import math
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from uuid import uuid4

from aiortc import RTCDtlsTransport, RTCRtpTransceiver, RTCStatsReport
from aiortc.rtcrtpparameters import RTCRtpSendParameters
from aiortc.rtp import (
    RTCP_PSFB_FIR,
    RTCP_PSFB_PLI,
    RTCP_RTPFB_NACK,
    AnyRtcpPacket,
    RtcpByePacket,
    RtcpPsfbPacket,
    RtcpRrPacket,
    RtcpRtpfbPacket,
    RtcpSdesPacket,
    RtcpSenderInfo,
    RtcpSourceInfo,
    RtcpSrPacket,
)

from bridge.media.access_unit import Kind
from bridge.media.clock import NS_PER_MS, NS_PER_S, OPUS_CLOCK_HZ, VIDEO_CLOCK_HZ, ns_to_ticks
from bridge.net.impairment import Impairment, LongerPath
from bridge.net.packetize import HEADER, rtp_header
from bridge.net.wire import WireExit
from bridge.protocols.header_extension import CAPTURE_TIME_URI, capture_time, one_byte_block

# What aiortc keeps to itself and this file uses. EncodedSender stands in for an RTCRtpSender, so the attributes
# that aiortc reads from one are pinned too.
PRIVATE_NAMES = (
    "aiortc.rtcrtptransceiver:RTCRtpTransceiver._RTCRtpTransceiver__sender",
    "aiortc.rtcdtlstransport:RTCDtlsTransport._send_rtp",
    "aiortc.rtcdtlstransport:RTCDtlsTransport._register_rtp_sender",
    "aiortc.rtcdtlstransport:RTCDtlsTransport._unregister_rtp_sender",
    "aiortc.rtcrtpreceiver:RTCRtpReceiver._set_rtcp_ssrc",
    "aiortc.rtcrtpsender:RTCRtpSender._ssrc",
    "aiortc.rtcrtpsender:RTCRtpSender._rtx_ssrc",
    "aiortc.rtcrtpsender:RTCRtpSender._stream_id",
    "aiortc.rtcrtpsender:RTCRtpSender._track_id",
    "aiortc.rtcrtpsender:RTCRtpSender._enabled",
    "aiortc.rtcrtpsender:RTCRtpSender._handle_rtcp_packet",
)

# 1 s of 9.8 Mb/s in packets of 1200 bytes: more than the bridge publishes.
HISTORY_PACKETS = 1024
# RFC 3550 §6.2 lets small sessions report often; receivers need the first pair before they can align two tracks, and
# the very first may meet a receiver that is not set up yet.
EARLY_REPORTS = 5
EARLY_REPORT_INTERVAL_NS = 200 * NS_PER_MS
REPORT_INTERVAL_NS = NS_PER_S
# Session time follows an avatar's clock, whose crystal errs against ours by at most 300 ppm: reports follow by half a
# millisecond per second, and only beyond what tracks are skewed and pictures take to be made. Both tracks of a peer
# follow as one, so that the far end's lip-sync does not notice.
FOLLOW_NS_PER_S = NS_PER_MS // 2
FOLLOW_BEYOND_NS = 200 * NS_PER_MS
# Seconds from 1900, NTP's era 0, to 1970 (RFC 868).
_NTP_TO_UNIX_S = 2_208_988_800

_SDES_CNAME = 1
_MID_URI = "urn:ietf:params:rtp-hdrext:sdes:mid"


@dataclass(frozen=True, slots=True)
class RtpOrigin:
    """Where a stream's numbers start. Random, as RFC 3550 §5.1 asks, unless a test wants a wrap soon.

    sequence_number  lies in the lower half by default: SRTP cannot tell a loss before the first wrap from the wrap
                     (RFC 3711 §3.3.1).
    timestamp        RTP timestamp of pts 0.
    """

    ssrc: int = field(default_factory=lambda: secrets.randbits(32))
    sequence_number: int = field(default_factory=lambda: secrets.randbits(15))
    timestamp: int = field(default_factory=lambda: secrets.randbits(32))


class SenderClock:
    """Ties session time to NTP time, at the first unit of any track; all tracks of a peer share it.

    Session time may run at another pace than ours: reports that went on as they began would be seconds away from the
    media that they are about after some hours.
    """

    def __init__(
        self,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.monotonic_ns = monotonic_ns
        self._wall_ns = wall_ns
        self._ntp_at_pts_0_ns: int | None = None
        self._followed_ns = 0
        self._ntp_at_monotonic_0_ns: int | None = None
        # Tracks of one clock belong together: RFC 8830 §2 calls them a MediaStream, and a page plays one at a time.
        self.stream_id = str(uuid4())

    def ntp_ns(self, monotonic_ns: int, now_ns: int) -> int:
        """NTP time of the monotonic time `monotonic_ns`; the first call reads the wall clock.

        Steps of the wall clock change nothing.
        """
        if self._ntp_at_monotonic_0_ns is None:
            self._ntp_at_monotonic_0_ns = self._wall_ns() + _NTP_TO_UNIX_S * NS_PER_S - now_ns
        return self._ntp_at_monotonic_0_ns + monotonic_ns

    def report_at(self, now_ns: int, pts_ns: int) -> tuple[int, int]:
        """NTP time (32.32 bits) of the monotonic time `now_ns`, and the session time that was captured then.

        The first call defines that `pts_ns` is captured now; later ones tell how media keeps to that.
        """
        ntp_ns = self.ntp_ns(now_ns, now_ns)
        if self._ntp_at_pts_0_ns is None:
            self._ntp_at_pts_0_ns = ntp_ns - pts_ns
        late_ns = ntp_ns - self._ntp_at_pts_0_ns - pts_ns
        if abs(late_ns) > FOLLOW_BEYOND_NS:
            step_ns = min(now_ns - self._followed_ns, REPORT_INTERVAL_NS) * FOLLOW_NS_PER_S // NS_PER_S
            self._ntp_at_pts_0_ns += max(-step_ns, min(late_ns, step_ns))
        self._followed_ns = now_ns
        return (ntp_ns << 32) // NS_PER_S, ntp_ns - self._ntp_at_pts_0_ns


class EncodedSender:
    """Sends one track: RTP payloads in, packets out; answers NACK from its history.

    Feedback that asks for a picture (PLI, FIR) calls `on_keyframe_request`, unthrottled. A receiver report whose
    highest sequence number has moved calls `on_received`: one that repeats the last says that nothing arrives.
    `impairment` comes between the packets and the network, for tests and faults, and so does a path that is `delay_s`
    longer than the network's. Sender reports begin `first_report_s` after the first unit.

    exit  the way out, once the connection is up and the far end takes this track.
    """

    track = None

    def __init__(
        self,
        kind: Kind,
        transport: RTCDtlsTransport,
        clock: SenderClock,
        origin: RtpOrigin,
        on_keyframe_request: Callable[[], None],
        impairment: Impairment | None = None,
        first_report_s: float = 0.0,
        delay_s: float = 0.0,
        on_received: Callable[[], None] = lambda: None,
    ) -> None:
        self.kind = kind
        self.transport = transport
        self.exit: WireExit | None = None
        self.packets_sent = 0
        self.payload_bytes_sent = 0
        self.packets_retransmitted = 0
        self._clock = clock
        self._clock_rate_hz = VIDEO_CLOCK_HZ if kind == "video" else OPUS_CLOCK_HZ
        self._on_keyframe_request = on_keyframe_request
        self._on_received = on_received
        self._impairment = impairment
        self._longer_path = LongerPath(delay_s) if delay_s else None
        self._first_report_s = first_report_s
        self._parameters: RTCRtpSendParameters | None = None
        self._payload_type = 0
        self._mid: tuple[int, bytes] = (0, b"")
        self._extension = b""
        self._capture_time_id = 0
        self._cname = b""
        self._rtx_payload_type: int | None = None
        self._begin_stream(origin)
        # Read by RTCPeerConnection and RTCDtlsTransport, like the SSRCs.
        self._stream_id = clock.stream_id
        self._track_id = str(uuid4())
        self._enabled = True

    def _begin_stream(self, origin: RtpOrigin) -> None:
        self._ssrc = origin.ssrc
        self._highest_received: int | None = None
        self._reports_sent = 0
        self._next_report_ns: float | None = None
        self._sequence_number = origin.sequence_number
        self._timestamp_at_0 = origin.timestamp
        self._packets_before = self.packets_sent
        self._payload_bytes_before = self.payload_bytes_sent
        self._history: list[tuple[int, bytes]] = [(-1, b"")] * HISTORY_PACKETS
        self._rtx_ssrc = secrets.randbits(32)
        self._rtx_sequence_number = secrets.randbits(15)

    @property
    def is_sending(self) -> bool:
        """Whether the connection is up and the far end takes this track."""
        return self._parameters is not None and self._enabled

    def restart(self, origin: RtpOrigin) -> None:
        """Go on as another stream, whose reports begin as early as the first one's; feedback about the one before is
        not for us any more.
        """
        self._begin_stream(origin)
        if self._parameters is not None:
            self.transport._unregister_rtp_sender(self)
            self.transport._register_rtp_sender(self, self._parameters)

    def shift_timestamps(self, ticks: int) -> None:
        self._timestamp_at_0 += ticks

    def send_unit(self, payloads: Sequence[bytes], pts_ns: int, captured_ns: int | None = None) -> None:
        """Send the RTP payloads of one access unit at once. Raises ConnectionError once the connection is gone.

        captured_ns  when it was captured, by the monotonic clock; its first packet says so if that was agreed on.
        """
        timestamp = self._rtp_timestamp(pts_ns)
        extension = self._extension if captured_ns is None else self._extension_with(captured_ns)
        # RFC 6184 §5.1: the marker ends a picture. RFC 7587 §4.2: for Opus it starts a talkspurt, which nobody marks in
        # a continuous stream.
        last = len(payloads) - 1 if self.kind == "video" else -1
        sequence_number, history = self._sequence_number, self._history
        packets: list[bytes] = []
        for index, payload in enumerate(payloads):
            header = rtp_header(self._payload_type, index == last, sequence_number, timestamp, self._ssrc, extension)
            packet, extension = header + payload, self._extension
            history[sequence_number % HISTORY_PACKETS] = (sequence_number, packet)
            packets.append(packet)
            sequence_number = (sequence_number + 1) & 0xFFFF
            self.payload_bytes_sent += len(payload)
        self._sequence_number = sequence_number
        self.packets_sent += len(packets)
        self._send(packets)
        if report := self._due_report(self._clock.monotonic_ns(), pts_ns):
            self._report(report)

    def _rtp_timestamp(self, pts_ns: int) -> int:
        return (self._timestamp_at_0 + ns_to_ticks(pts_ns, self._clock_rate_hz)) & 0xFFFFFFFF

    def _extension_with(self, captured_ns: int) -> bytes:
        if not self._capture_time_id:
            return self._extension
        captured_ntp_ns = self._clock.ntp_ns(captured_ns, self._clock.monotonic_ns())
        return one_byte_block([self._mid, (self._capture_time_id, capture_time(captured_ntp_ns))])

    def _send(self, packets: Sequence[bytes]) -> None:
        if self._impairment is not None:
            packets = [impaired for packet in packets for impaired in self._impairment(packet)]
        assert self.exit is not None  # the far end takes this track
        if self._longer_path is None:
            self.exit.send(packets)
        else:
            self._longer_path.take(partial(self.exit.send, packets))

    def _report(self, packet: bytes) -> None:
        assert self.exit is not None  # the far end takes this track
        if self._longer_path is None:
            self.exit.report(packet)
        else:
            self._longer_path.take(partial(self.exit.report, packet))

    def _due_report(self, now_ns: int, pts_ns: int) -> bytes | None:
        """A sender report if one is due, with the time of the newest unit."""
        if self._next_report_ns is None:
            is_never = math.isinf(self._first_report_s)
            self._next_report_ns = math.inf if is_never else now_ns + round(self._first_report_s * NS_PER_S)
        if now_ns < self._next_report_ns:
            return None
        is_early = self._reports_sent < EARLY_REPORTS
        self._next_report_ns = now_ns + (EARLY_REPORT_INTERVAL_NS if is_early else REPORT_INTERVAL_NS)
        self._reports_sent += 1
        ntp_q32, captured_ns = self._clock.report_at(now_ns, pts_ns)
        info = RtcpSenderInfo(
            ntp_timestamp=ntp_q32,
            rtp_timestamp=self._rtp_timestamp(captured_ns),
            packet_count=self.packets_sent - self._packets_before & 0xFFFFFFFF,
            octet_count=self.payload_bytes_sent - self._payload_bytes_before & 0xFFFFFFFF,
        )
        names = RtcpSdesPacket([RtcpSourceInfo(self._ssrc, [(_SDES_CNAME, self._cname)])])
        return bytes(RtcpSrPacket(self._ssrc, info)) + bytes(names)

    def _sent(self, sequence_number: int) -> bytes | None:
        """The packet of that number, as it was sent; None: it is too old."""
        stored, packet = self._history[sequence_number % HISTORY_PACKETS]
        return packet if stored == sequence_number else None

    def _retransmit(self, sequence_number: int) -> None:
        packet = self._sent(sequence_number)
        if packet is None:
            return
        if self._rtx_payload_type is not None:
            # RFC 4588 §4: a stream of its own, with the header extension of the original; its sequence number goes
            # before the payload.
            first, marker, _, timestamp, _ = HEADER.unpack_from(packet)
            start = HEADER.size
            if first & 0x10:
                start += 4 + 4 * int.from_bytes(packet[start + 2 : start + 4], "big")
            header = rtp_header(
                self._rtx_payload_type,
                bool(marker & 0x80),
                self._rtx_sequence_number,
                timestamp,
                self._rtx_ssrc,
                packet[HEADER.size : start],
            )
            self._rtx_sequence_number = (self._rtx_sequence_number + 1) & 0xFFFF
            packet = header + sequence_number.to_bytes(2, "big") + packet[start:]
        self.packets_retransmitted += 1
        self._send([packet])

    # ------------------------------------------------------------------ what aiortc calls, under its names

    def setTransport(self, transport: RTCDtlsTransport) -> None:
        self.transport = transport

    async def send(self, parameters: RTCRtpSendParameters) -> None:
        """Start, or follow: the connection is up and these codecs were agreed on, the first one to be used."""
        codec = parameters.codecs[0]
        assert codec.payloadType is not None  # agreed on means numbered
        self._payload_type, self._rtx_payload_type = codec.payloadType, None
        for other in parameters.codecs:
            if other.name.lower() == "rtx" and other.parameters.get("apt") == codec.payloadType:
                self._rtx_payload_type = other.payloadType
        self._capture_time_id = 0
        for extension in parameters.headerExtensions:
            if extension.uri == _MID_URI:
                self._mid = extension.id, parameters.muxId.encode()
                self._extension = one_byte_block([self._mid])
            elif extension.uri == CAPTURE_TIME_URI:
                self._capture_time_id = extension.id
        self._cname = (parameters.rtcp.cname or "").encode()
        self.exit = self.exit or WireExit(self.transport)
        self.transport._register_rtp_sender(self, parameters)
        self._parameters = parameters

    async def stop(self) -> None:
        if self._parameters is None:
            return
        self._parameters = None
        self.transport._unregister_rtp_sender(self)
        if self._longer_path is not None:
            await self._longer_path.close()
        try:
            await self.transport._send_rtp(bytes(RtcpByePacket([self._ssrc])))
        except ConnectionError:
            pass  # the far end has gone first

    async def getStats(self) -> RTCStatsReport:
        return RTCStatsReport()

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        if isinstance(packet, RtcpRtpfbPacket) and packet.fmt == RTCP_RTPFB_NACK:
            for sequence_number in packet.lost:
                self._retransmit(sequence_number & 0xFFFF)
        elif isinstance(packet, RtcpPsfbPacket) and packet.fmt in (RTCP_PSFB_PLI, RTCP_PSFB_FIR):
            self._on_keyframe_request()
        elif isinstance(packet, RtcpRrPacket | RtcpSrPacket):
            for report in packet.reports:
                if report.ssrc == self._ssrc and report.highest_sequence != self._highest_received:
                    self._highest_received = report.highest_sequence
                    self._on_received()


def install_encoded_sender(transceiver: RTCRtpTransceiver, sender: EncodedSender) -> None:
    """Put a sender in the place of a fresh transceiver's own; before any description is set."""
    setattr(transceiver, "_RTCRtpTransceiver__sender", sender)  # noqa: B010  the attribute's name is mangled
    transceiver.receiver._set_rtcp_ssrc(sender._ssrc)
