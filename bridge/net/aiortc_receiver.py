"""Receiving of coded media through aiortc: the place of its RTCRtpReceiver, without its jitter buffer and decoder.

The stock receiver decodes everything, holds each picture back until the next one begins, and hides what lip-sync
needs: the RTP time in sender reports. This one hands packets and reports on as they come; everything else that a
receiver does is decided in `bridge.receive`.
"""

import asyncio
import importlib
import random
import secrets
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from aiortc import MediaStreamTrack, RTCDtlsTransport, RTCRtpTransceiver, RTCStatsReport
from aiortc import rtp as wire
from aiortc.rtcrtpparameters import RTCRtpDecodingParameters, RTCRtpReceiveParameters

from bridge.errors import InternalError
from bridge.media.access_unit import Codec, Kind
from bridge.media.clock import OPUS_CLOCK_HZ, VIDEO_CLOCK_HZ
from bridge.media.rtp import RtpPacket, SenderReport, sequence_distance
from bridge.net.bandwidth import BandwidthEstimate
from bridge.net.reception_statistics import ReceptionStatistics
from bridge.ports import RemoteTrack, TrackSink
from bridge.protocols.header_extension import CAPTURE_TIME_URI, element, is_usable_id, read_capture_time

# What aiortc keeps to itself and this file uses. EncodedReceiver stands in for an RTCRtpReceiver, so what aiortc
# reads from one is pinned too.
PRIVATE_NAMES = (
    "aiortc.rtcrtptransceiver:RTCRtpTransceiver._RTCRtpTransceiver__receiver",
    "aiortc.rtcrtpsender:RTCRtpSender._ssrc",
    "aiortc.rtcdtlstransport:RTCDtlsTransport._register_rtp_receiver",
    "aiortc.rtcdtlstransport:RTCDtlsTransport._rtp_header_extensions_map",
    "aiortc.rtcdtlstransport:RTCDtlsTransport._unregister_rtp_receiver",
    "aiortc.rtcdtlstransport:RTCDtlsTransport._send_rtp",
    "aiortc.rtcrtpreceiver:RTCRtpReceiver._enabled",
    "aiortc.rtcrtpreceiver:RTCRtpReceiver._track",
    "aiortc.rtcrtpreceiver:RTCRtpReceiver._set_rtcp_ssrc",
    "aiortc.rtcrtpreceiver:RTCRtpReceiver._handle_disconnect",
    "aiortc.rtcrtpreceiver:RTCRtpReceiver._handle_rtcp_packet",
    "aiortc.rtcrtpreceiver:RTCRtpReceiver._handle_rtp_packet",
)

# RFC 3550 §6.2 and §6.3.1: about once a second for a session this small, each time varied by half.
REPORT_INTERVAL_S = 1.0
# Messages on their way to the kernel; sending takes one turn of the event loop, unless a TURN server stalls.
MAX_PENDING_MESSAGES = 32

_CODECS = {"h264": Codec.H264, "vp8": Codec.VP8, "opus": Codec.OPUS, "pcmu": Codec.PCMU, "pcma": Codec.PCMA}
# Until it is agreed on what is sent.
_CLOCK_HZ: dict[Kind, int] = {"audio": OPUS_CLOCK_HZ, "video": VIDEO_CLOCK_HZ}
_FEEDBACK_HEADER = struct.Struct("!II")
_NACK_ENTRY = struct.Struct("!HH")
_FIR_ENTRY = struct.Struct("!IB3x")  # RFC 5104 §4.3.1.1: whom it is for, and a number that is new for each request
_RTP_HEADER_BYTES = 12
_SDES_CNAME = 1

log = structlog.get_logger()


def nack_entries(sequence_numbers: Sequence[int]) -> bytes:
    """Generic NACK: each number with a bit mask of the 16 after it (RFC 4585 §6.2.1). Takes them in order."""
    entries: list[tuple[int, int]] = []
    for sequence_number in sequence_numbers:
        step = sequence_distance(sequence_number, entries[-1][0]) if entries else 0
        if 1 <= step <= 16:
            first, mask = entries[-1]
            entries[-1] = (first, mask | 1 << (step - 1))
        else:
            entries.append((sequence_number, 0))
    return b"".join(_NACK_ENTRY.pack(*entry) for entry in entries)


@dataclass
class _Extensions(wire.HeaderExtensions):
    """Header extensions as they came, from the profile on."""

    block: bytes = b""


class _UnreadExtensions(wire.HeaderExtensionsMap):
    """In aiortc's long way, the place of what reads header extensions: one value of a wrong length would end it."""

    def configure(self, parameters: object) -> None:
        """None of them matters to aiortc."""

    def get(self, extension_profile: int, extension_value: bytes) -> _Extensions:
        n_words = len(extension_value) // 4
        return _Extensions(block=struct.pack("!HH", extension_profile, n_words) + extension_value)


class EncodedReceiver:
    """Receives one track as coded packets; implements `ports.TrackFeedback`.

    Retransmissions (RFC 4588) are unwrapped to the packet they repeat: by the SSRC the description names, else by the
    payload type alone. `on_track` is called once, when the connection is up, and gives the sink.

    capture_time_id  the number of the header extension that tells when a picture was captured; 0: not agreed on.
    """

    def __init__(self, kind: Kind, transport: RTCDtlsTransport, on_track: Callable[[RemoteTrack], TrackSink]) -> None:
        self.kind = kind
        self.transport = transport
        self.messages_dropped = 0
        self.capture_time_id = 0
        self._is_stopped = False
        self.last_arrival_ns = 0  # of any RTP packet; 0: none has come
        self._on_track = on_track
        self._sink: TrackSink | None = None
        self._codecs: dict[int, Codec] = {}
        self._retransmits: dict[int, int] = {}  # payload type to the one it repeats
        self._media_ssrc: int | None = None
        self._retransmission_ssrcs: dict[int, int] = {}  # to the SSRC it repeats
        self._clock_hz = _CLOCK_HZ[kind]
        self._statistics = ReceptionStatistics(self._clock_hz)
        self._bandwidth = BandwidthEstimate(time.monotonic_ns())
        self._takes_remb = self._takes_pli = self._takes_fir = False
        self._fir_number = 0
        self._cname = secrets.token_urlsafe(12).encode()  # RFC 7022 §4.2: short-term, 96 random bits
        self._reporting: asyncio.Task[None] | None = None
        self._pending: set[asyncio.Task[None]] = set()
        # Read and written by RTCPeerConnection and RTCRtpTransceiver.
        self._rtcp_ssrc: int | None = None
        self._track: MediaStreamTrack | None = None
        self._enabled = True

    # ------------------------------------------------------------------ ports.TrackFeedback

    def send_nack(self, sequence_numbers: Sequence[int]) -> None:
        # Also for sound, where NACK is rarely agreed on: aiortc answers all the same, others ignore it.
        if sequence_numbers:
            self._send_feedback(wire.RTCP_RTPFB, wire.RTCP_RTPFB_NACK, nack_entries(sequence_numbers))

    def send_pli(self) -> None:
        """Ask for a keyframe, by FIR if the sender has agreed to that alone."""
        if self._takes_pli or not self._takes_fir:
            self._send_feedback(wire.RTCP_PSFB, wire.RTCP_PSFB_PLI, b"")
        elif self._media_ssrc is not None:
            self._fir_number = (self._fir_number + 1) & 0xFF
            content = _FIR_ENTRY.pack(self._media_ssrc, self._fir_number)
            self._send_feedback(wire.RTCP_PSFB, wire.RTCP_PSFB_FIR, content)

    def _send_feedback(self, packet_type: int, message: int, content: bytes) -> None:
        if self._rtcp_ssrc is None or self._media_ssrc is None:
            return
        if len(self._pending) >= MAX_PENDING_MESSAGES:
            self.messages_dropped += 1
            return
        body = _FEEDBACK_HEADER.pack(self._rtcp_ssrc, self._media_ssrc) + content
        task = asyncio.create_task(self._send(wire.pack_rtcp_packet(packet_type, message, body)))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _send(self, message: bytes) -> None:
        try:
            await self.transport._send_rtp(message)
        except ConnectionError:
            pass  # not up yet, or gone: the peer reports that

    # ------------------------------------------------------------------ reports

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_INTERVAL_S * random.uniform(0.5, 1.5))
            if self._rtcp_ssrc is None or self._media_ssrc is None:
                continue
            now_ns = time.monotonic_ns()
            block = self._statistics.report(self._media_ssrc, now_ns)
            names = wire.RtcpSdesPacket([wire.RtcpSourceInfo(self._rtcp_ssrc, [(_SDES_CNAME, self._cname)])])
            message = bytes(wire.RtcpRrPacket(self._rtcp_ssrc, [block] if block else [])) + bytes(names)
            if self._takes_remb:
                bps = self._bandwidth.update(now_ns, block.fraction_lost / 256 if block else 0.0)
                content = wire.pack_remb_fci(bps, [self._media_ssrc])
                message += bytes(wire.RtcpPsfbPacket(wire.RTCP_PSFB_APP, self._rtcp_ssrc, 0, content))
            await self._send(message)

    # ------------------------------------------------------------------ what aiortc calls, under its names

    @property
    def track(self) -> MediaStreamTrack | None:
        return self._track

    def setTransport(self, transport: RTCDtlsTransport) -> None:
        self.transport = transport

    def _set_rtcp_ssrc(self, ssrc: int) -> None:
        self._rtcp_ssrc = ssrc

    async def getStats(self) -> RTCStatsReport:
        return RTCStatsReport()

    async def receive(self, parameters: RTCRtpReceiveParameters) -> None:
        """Start, or follow a renegotiation: the connection is up and these codecs were agreed on.

        Payload types that were valid before stay so, unless they mean something else now: packets are on their way.
        """
        if self._is_stopped:
            return  # closed while it came up
        self.transport._rtp_header_extensions_map = _UnreadExtensions()
        agreed = (each.id for each in parameters.headerExtensions if each.uri == CAPTURE_TIME_URI)
        self.capture_time_id = next(filter(is_usable_id, agreed), 0)
        for codec in parameters.codecs:
            name, payload_type, repeats = codec.name.lower(), codec.payloadType, codec.parameters.get("apt")
            assert payload_type is not None  # agreed on means numbered
            if name in _CODECS:
                self._codecs[payload_type] = _CODECS[name]
                self._retransmits.pop(payload_type, None)
                feedback = {(each.type, each.parameter) for each in codec.rtcpFeedback}
                self._takes_remb |= ("goog-remb", None) in feedback
                self._takes_pli |= ("nack", "pli") in feedback
                self._takes_fir |= ("ccm", "fir") in feedback
            elif name == "rtx" and isinstance(repeats, int):
                self._retransmits[payload_type] = repeats
                self._codecs.pop(payload_type, None)
        # Of earlier descriptions those of the stream that flows: others come no more.
        media_ssrc, announced = self._media_ssrc, self._retransmission_ssrcs.items()
        self._retransmission_ssrcs = {ssrc: repeats for ssrc, repeats in announced if repeats == media_ssrc}
        for encoding in parameters.encodings:
            if encoding.rtx is not None:
                self._retransmission_ssrcs[encoding.rtx.ssrc] = encoding.ssrc
        if self._sink is None:
            self._clock_hz = next((codec.rtp_clock_hz for codec in self._codecs.values()), self._clock_hz)
            self._statistics = ReceptionStatistics(self._clock_hz)
            self._media_ssrc = next((encoding.ssrc for encoding in parameters.encodings), None)
            self._sink = self._on_track(RemoteTrack(self.kind, self._codecs, self))
            self._reporting = asyncio.create_task(self._report())
        else:
            # Payload types may have changed hands between tracks. The stream that flows stays known.
            self.transport._unregister_rtp_receiver(self)
            if self._media_ssrc is not None:
                flowing = RTCRtpDecodingParameters(self._media_ssrc, next(iter(self._codecs)))
                parameters.encodings.append(flowing)
        self.transport._register_rtp_receiver(self, parameters)

    async def stop(self) -> None:
        """End for good."""
        self._is_stopped = True
        if self._sink is not None:
            self.transport._unregister_rtp_receiver(self)
        tasks = [*self._pending, *([self._reporting] if self._reporting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _handle_disconnect(self) -> None:
        """The connection is gone; whoever runs the peer hears of it there."""

    async def _handle_rtcp_packet(self, packet: wire.AnyRtcpPacket) -> None:
        # A sender also reports on its retransmissions, whose clock is nobody's.
        if isinstance(packet, wire.RtcpSrPacket) and self._sink is not None and packet.ssrc == self._media_ssrc:
            arrival_ns = time.monotonic_ns()
            info = packet.sender_info
            self._statistics.on_sender_report(info.ntp_timestamp, arrival_ns)
            report = SenderReport(packet.ssrc, info.ntp_timestamp, info.rtp_timestamp, arrival_ns)
            self._sink.on_sender_report(report)
        elif isinstance(packet, wire.RtcpByePacket):
            # Not an end: a sender that swaps its track says BYE and goes on with a new SSRC.
            log.debug("rtcp_bye", kind=self.kind)

    async def _handle_rtp_packet(self, packet: wire.RtpPacket, arrival_time_ms: int) -> None:
        captured_ntp_ns, extensions = 0, packet.extensions
        if self.capture_time_id and isinstance(extensions, _Extensions):
            captured_ntp_ns = self.capture_time_ns(extensions.block, is_mixed=bool(packet.csrc))
        self.on_rtp(
            packet.ssrc,
            packet.payload_type,
            packet.sequence_number,
            packet.timestamp,
            packet.marker == 1,
            packet.payload,
            captured_ntp_ns,
        )

    # ------------------------------------------------------------------ what both ways of media call

    def expects(self, ssrc: int) -> bool:
        """Whether media or announced retransmissions come under this SSRC now."""
        return ssrc == self._media_ssrc or ssrc in self._retransmission_ssrcs

    def capture_time_ns(self, block: bytes, *, is_mixed: bool) -> int:
        """What a packet's header extensions, from the profile on, tell; see `read_capture_time`."""
        value = element(block, self.capture_time_id)
        return read_capture_time(value, is_mixed=is_mixed) if value else 0

    def on_rtp(
        self,
        ssrc: int,
        payload_type: int,
        sequence_number: int,
        rtp_timestamp: int,
        marker: bool,
        payload: bytes,
        captured_ntp_ns: int,
    ) -> None:
        """Take one RTP packet as it was on the wire, decrypted, without extensions and padding."""
        self.last_arrival_ns = arrival_ns = time.monotonic_ns()
        if self._sink is None or not self._enabled:
            return
        self._bandwidth.received_bytes += _RTP_HEADER_BYTES + len(payload)
        is_retransmission = payload_type in self._retransmits
        if is_retransmission:
            media_ssrc = self._retransmission_ssrcs.get(ssrc, self._media_ssrc)
            if media_ssrc is None or len(payload) < 2:
                return  # probing and padding travel as empty retransmissions
            ssrc, payload_type = media_ssrc, self._retransmits[payload_type]
            sequence_number, payload = int.from_bytes(payload[:2], "big"), payload[2:]
        else:
            if ssrc != self._media_ssrc:
                self._media_ssrc = ssrc
                self._statistics = ReceptionStatistics(self._clock_hz)
            self._statistics.on_packet(sequence_number, rtp_timestamp, arrival_ns)
        self._sink.on_packet(
            RtpPacket(
                ssrc,
                payload_type,
                sequence_number,
                rtp_timestamp,
                marker,
                payload,
                arrival_ns,
                is_retransmission,
                captured_ntp_ns,
            )
        )


def install_encoded_receiver(
    transceiver: RTCRtpTransceiver, on_track: Callable[[RemoteTrack], TrackSink]
) -> EncodedReceiver:
    """Swap the receiver of a fresh transceiver, before any description is set."""
    kind: Kind = "video" if transceiver.kind == "video" else "audio"
    receiver = EncodedReceiver(kind, transceiver.receiver.transport, on_track)
    receiver._set_rtcp_ssrc(transceiver.sender._ssrc)
    transceiver._RTCRtpTransceiver__receiver = receiver  # type: ignore[attr-defined]
    return receiver


def _require_private_names() -> None:
    for name in PRIVATE_NAMES:
        module, _, path = name.partition(":")
        owner, _, attribute = path.partition(".")
        found: Any = getattr(importlib.import_module(module), owner)
        # Attributes of instances show only in the code that sets them.
        if not hasattr(found, attribute) and attribute not in found.__init__.__code__.co_names:
            raise InternalError(f"{module} has no {path} any more, which the receive path relies on")


_require_private_names()
