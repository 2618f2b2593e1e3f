"""The encoded sender against a transport that keeps what it is given, read back by aiortc's own parser."""

from collections.abc import Sequence
from typing import Any

import pytest
from aiortc.rtcrtpparameters import (
    RTCRtpCodecParameters,
    RTCRtpHeaderExtensionParameters,
    RTCRtpSendParameters,
)
from aiortc.rtp import (
    HeaderExtensionsMap,
    RtcpByePacket,
    RtcpPacket,
    RtcpPsfbPacket,
    RtcpRtpfbPacket,
    RtcpSdesPacket,
    RtcpSrPacket,
    RtpPacket,
    is_rtcp,
    unwrap_rtx,
)

from bridge.media.access_unit import Kind
from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.net.aiortc_sender import HISTORY_PACKETS, EncodedSender, RtpOrigin, SenderClock
from bridge.net.impairment import Impairment
from bridge.protocols.header_extension import CAPTURE_TIME_URI, element, read_capture_time

MID = RTCRtpHeaderExtensionParameters(id=3, uri="urn:ietf:params:rtp-hdrext:sdes:mid")
CAPTURE = RTCRtpHeaderExtensionParameters(id=7, uri=CAPTURE_TIME_URI)
UNIX_NS = 1_800_000_000 * NS_PER_S
NTP_S = 1_800_000_000 + 2_208_988_800


class Transport:
    """Stands in for RTCDtlsTransport and the way out; `is_closed` makes it refuse as one that has gone."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.is_closed = False

    def send(self, packets: Sequence[bytes]) -> None:
        for packet in packets:
            self.report(packet)

    async def _send_rtp(self, data: bytes) -> None:
        self.report(data)

    def report(self, data: bytes) -> None:
        if self.is_closed:
            raise ConnectionError("Cannot send encrypted RTP, not connected")
        self.sent.append(data)

    def _register_rtp_sender(self, sender: Any, parameters: Any) -> None: ...

    def _unregister_rtp_sender(self, sender: Any) -> None: ...

    @property
    def packets(self) -> list[RtpPacket]:
        extensions = HeaderExtensionsMap()
        extensions.configure(RTCRtpSendParameters(codecs=[], headerExtensions=[MID]))
        return [RtpPacket.parse(data, extensions) for data in self.sent if not is_rtcp(data)]

    @property
    def control(self) -> list[Any]:
        return [packet for data in self.sent if is_rtcp(data) for packet in RtcpPacket.parse(data)]

    @property
    def reports(self) -> list[RtcpSrPacket]:
        return [packet for packet in self.control if isinstance(packet, RtcpSrPacket)]


class Ticker:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.now_ns = 5 * NS_PER_S

    def __call__(self) -> int:
        return self.now_ns


class Bench:
    """A clock and a transport, and the senders that share them."""

    def __init__(self) -> None:
        self.ticker = Ticker()
        self.transport = Transport()
        self.clock = SenderClock(self.ticker, lambda: UNIX_NS)
        self.keyframe_requests = 0

    def _asked(self) -> None:
        self.keyframe_requests += 1

    async def sender(
        self,
        kind: Kind = "video",
        origin: RtpOrigin | None = None,
        with_rtx: bool = True,
        impairment: Impairment | None = None,
        extensions: Sequence[RTCRtpHeaderExtensionParameters] = (MID,),
    ) -> EncodedSender:
        origin = origin or RtpOrigin(1000, 100, 5000)
        sender = EncodedSender(kind, self.transport, self.clock, origin, self._asked, impairment)  # type: ignore[arg-type]
        rate_hz = 90_000 if kind == "video" else 48_000
        codecs = [RTCRtpCodecParameters(f"{kind}/x", rate_hz, payloadType=98)]
        if with_rtx:
            codecs.append(RTCRtpCodecParameters(f"{kind}/rtx", rate_hz, payloadType=99, parameters={"apt": 98}))
        parameters = RTCRtpSendParameters(codecs=codecs, headerExtensions=[*extensions], muxId="v")
        parameters.rtcp.cname = "someone"
        sender.exit = self.transport  # type: ignore[assignment]
        await sender.send(parameters)
        return sender


@pytest.fixture
def bench() -> Bench:
    return Bench()


def nack(*lost: int) -> RtcpRtpfbPacket:
    return RtcpRtpfbPacket(fmt=1, ssrc=1, media_ssrc=1000, lost=list(lost))


async def test_a_picture_is_numbered_timed_and_ends_with_the_marker(bench: Bench) -> None:
    sender = await bench.sender()
    sender.send_unit([b"one", b"two"], 0)
    sender.send_unit([b"three"], 40 * NS_PER_MS)
    packets = bench.transport.packets
    assert [(p.sequence_number, p.timestamp, p.marker, p.payload) for p in packets] == [
        (100, 5000, 0, b"one"),
        (101, 5000, 1, b"two"),
        (102, 8600, 1, b"three"),
    ]
    assert {(p.ssrc, p.payload_type, p.extensions.mid) for p in packets} == {(1000, 98, "v")}


async def test_sound_carries_no_marker_and_counts_at_48_khz(bench: Bench) -> None:
    sender = await bench.sender("audio")
    sender.send_unit([b"opus"], 20 * NS_PER_MS)
    (packet,) = bench.transport.packets
    assert (packet.timestamp, packet.marker) == (5960, 0)


async def test_sound_behind_a_loss_keeps_its_time_and_leaves_no_hole_in_the_numbers(bench: Bench) -> None:
    # The far decoder conceals by the timestamps; a hole in the numbers it would ask us to fill.
    sender = await bench.sender("audio")
    for number in (0, 1, 2, 6, 7):
        sender.send_unit([b"opus"], number * 20 * NS_PER_MS)
    packets = bench.transport.packets
    assert [(p.timestamp - packets[0].timestamp) // 960 for p in packets] == [0, 1, 2, 6, 7]
    assert [p.sequence_number - packets[0].sequence_number for p in packets] == [0, 1, 2, 3, 4]


async def test_timestamps_are_converted_from_the_start_and_never_drift(bench: Bench) -> None:
    sender = await bench.sender(origin=RtpOrigin(1, 0, 0))
    for picture in range(0, 100_000, 997):
        sender.send_unit([b"x"], picture * NS_PER_S * 1001 // 30_000)
    timestamps = [p.timestamp for p in bench.transport.packets]
    assert timestamps == [picture * 3003 for picture in range(0, 100_000, 997)]


async def test_both_numbers_pass_their_wrap(bench: Bench) -> None:
    # 10 s before: 250 pictures of 25 per second.
    origin = RtpOrigin(1, 2**16 - 250, 2**32 - 900_000)
    sender = await bench.sender(origin=origin)
    for picture in range(252):
        sender.send_unit([b"x"], picture * 40 * NS_PER_MS)
    tail = [(p.sequence_number, p.timestamp) for p in bench.transport.packets[-3:]]
    assert tail == [(2**16 - 1, 2**32 - 3600), (0, 0), (1, 3600)]
    await sender._handle_rtcp_packet(nack(2**16 - 1, 0))
    assert [int.from_bytes(p.payload[:2], "big") for p in bench.transport.packets[-2:]] == [2**16 - 1, 0]


async def test_random_sequence_numbers_start_far_from_the_wrap() -> None:
    assert all(RtpOrigin().sequence_number < 2**15 for _ in range(100))


async def test_a_lost_packet_is_repeated_on_the_retransmission_stream(bench: Bench) -> None:
    sender = await bench.sender()
    sender.send_unit([b"one", b"two"], 0)
    original = bench.transport.packets[1]
    await sender._handle_rtcp_packet(nack(101))
    repeated = bench.transport.packets[-1]
    assert (repeated.payload_type, repeated.ssrc) == (99, sender._rtx_ssrc)
    recovered = unwrap_rtx(repeated, payload_type=98, ssrc=1000)
    assert (recovered.sequence_number, recovered.timestamp, recovered.marker, recovered.payload) == (
        original.sequence_number,
        original.timestamp,
        original.marker,
        original.payload,
    )
    assert repeated.extensions.mid == "v"


def captures(packets: Sequence[bytes]) -> list[int]:
    """What packets without contributing sources say of their capture, in NTP time since the bench's; 0: nothing."""
    told = [read_capture_time(element(packet[12:], CAPTURE.id), is_mixed=False) for packet in packets]
    return [ntp_ns and ntp_ns - NTP_S * NS_PER_S for ntp_ns in told]


async def test_the_first_packet_of_a_picture_says_when_it_was_captured_and_so_does_its_repetition(bench: Bench) -> None:
    sender = await bench.sender(extensions=[MID, CAPTURE])
    sender.send_unit([b"one", b"two"], 0, bench.ticker.now_ns - 30 * NS_PER_MS)
    bench.ticker.now_ns += 40 * NS_PER_MS
    sender.send_unit([b"three"], 40 * NS_PER_MS, bench.ticker.now_ns - 20 * NS_PER_MS)
    await sender._handle_rtcp_packet(nack(100, 101))
    media = [data for data in bench.transport.sent if not is_rtcp(data)]
    assert captures(media) == [-30 * NS_PER_MS, 0, 20 * NS_PER_MS, -30 * NS_PER_MS, 0]
    packets = bench.transport.packets
    assert {packet.extensions.mid for packet in packets} == {"v"}
    assert [packet.payload for packet in packets] == [b"one", b"two", b"three", b"\0\x64one", b"\0\x65two"]
    # By the clock of the reports.
    assert bench.transport.reports[0].sender_info.ntp_timestamp == NTP_S << 32


async def test_nobody_is_told_of_a_capture_who_has_not_agreed(bench: Bench) -> None:
    sender = await bench.sender()
    sender.send_unit([b"one"], 0, bench.ticker.now_ns)
    assert captures(bench.transport.sent[:1]) == [0]
    assert bench.transport.packets[0].extensions.mid == "v"


async def test_without_a_retransmission_stream_the_packet_itself_is_sent_again(bench: Bench) -> None:
    sender = await bench.sender(with_rtx=False)
    sender.send_unit([b"one"], 0)
    first = bench.transport.sent[0]
    await sender._handle_rtcp_packet(nack(100))
    assert bench.transport.sent[-1] == first


async def test_the_history_holds_a_second_of_the_highest_rate_and_no_more(bench: Bench) -> None:
    sender = await bench.sender()
    for index in range(HISTORY_PACKETS + 1):
        sender.send_unit([b"x"], index * NS_PER_MS)
    await sender._handle_rtcp_packet(nack(100))
    assert sender.packets_retransmitted == 0
    await sender._handle_rtcp_packet(nack(101))
    assert sender.packets_retransmitted == 1


@pytest.mark.parametrize(("fmt", "expected"), [(1, 1), (4, 1), (15, 0)])
async def test_pli_and_fir_ask_for_a_keyframe(bench: Bench, fmt: int, expected: int) -> None:
    sender = await bench.sender()
    await sender._handle_rtcp_packet(RtcpPsfbPacket(fmt=fmt, ssrc=1, media_ssrc=1000))
    assert bench.keyframe_requests == expected


async def test_a_report_follows_the_first_unit_at_once_with_the_senders_name(bench: Bench) -> None:
    sender = await bench.sender()
    sender.send_unit([b"one", b"two"], 0)
    report, names = bench.transport.control
    assert (report.ssrc, report.sender_info.ntp_timestamp) == (1000, NTP_S << 32)
    assert (report.sender_info.rtp_timestamp, report.sender_info.packet_count) == (5000, 2)
    assert report.sender_info.octet_count == 6
    assert isinstance(names, RtcpSdesPacket)
    assert names.chunks[0].items == [(1, b"someone")]


async def test_reports_come_often_at_first_and_then_every_second(bench: Bench) -> None:
    sender = await bench.sender()
    times_ms = []
    for at_ms in range(0, 5000, 20):
        bench.ticker.now_ns = at_ms * NS_PER_MS
        before = len(bench.transport.reports)
        if at_ms == 3500:
            sender.restart(RtpOrigin(2000, 100, 5000))  # a publication of its own, for those who hear it
        sender.send_unit([b"x"], at_ms * NS_PER_MS)
        times_ms += [at_ms] * (len(bench.transport.reports) - before)
    assert times_ms == [0, 200, 400, 600, 800, 1000, 2000, 3000, 3500, 3700, 3900, 4100, 4300, 4500]
    assert [report.ssrc for report in bench.transport.reports] == [1000] * 8 + [2000] * 6


async def test_reports_of_both_tracks_lie_on_one_line_however_late_units_were_sent(bench: Bench) -> None:
    video = await bench.sender("video")
    audio = await bench.sender("audio", RtpOrigin(2000, 0, 77))
    start_ns = bench.ticker.now_ns
    for picture in range(50):
        # Sent up to 37 ms late, in jumps; and sound runs 60 ms behind pictures.
        pts_ns = picture * 40 * NS_PER_MS
        bench.ticker.now_ns = start_ns + pts_ns + picture * 7 % 37 * NS_PER_MS
        video.send_unit([b"x"], pts_ns)
        audio.send_unit([b"x"], max(0, pts_ns - 60 * NS_PER_MS))
    errors_ns = []
    for report in bench.transport.reports:
        rate_hz, offset = (90_000, 5000) if report.ssrc == 1000 else (48_000, 77)
        said_ns = (report.sender_info.rtp_timestamp - offset) * NS_PER_S // rate_hz
        ntp_ns = (report.sender_info.ntp_timestamp - (NTP_S << 32)) * NS_PER_S >> 32
        errors_ns.append(abs(said_ns - ntp_ns))
    # Half a tick of the slower clock is 10.4 µs.
    assert len(errors_ns) > 8 and max(errors_ns) <= 10_500


@pytest.mark.parametrize("drift_ppm", [-300, 300])
def test_reports_follow_media_of_another_pace_for_hours_and_both_tracks_as_one(drift_ppm: int) -> None:
    now_ns = 0
    clock = SenderClock(lambda: now_ns, lambda: UNIX_NS)
    last_ns = 0
    for half_second in range(6 * 7200):
        now_ns = half_second * NS_PER_S // 2
        pts_ns = now_ns + now_ns * drift_ppm // 1_000_000
        _, captured_ns = clock.report_at(now_ns, pts_ns)
        assert abs(captured_ns - pts_ns) <= 201 * NS_PER_MS
        # What the other track reported half a second ago is the same line, but for a quarter of a millisecond.
        assert half_second == 0 or abs(captured_ns - last_ns - NS_PER_S // 2) <= NS_PER_MS // 4
        last_ns = captured_ns


async def test_nothing_is_sent_before_the_codec_is_agreed_on(bench: Bench) -> None:
    origin = RtpOrigin()
    sender = EncodedSender("video", bench.transport, bench.clock, origin, bench._asked)  # type: ignore[arg-type]
    assert not sender.is_sending


async def test_stopping_says_goodbye_once(bench: Bench) -> None:
    sender = await bench.sender()
    await sender.stop()
    await sender.stop()
    assert [type(packet) for packet in bench.transport.control] == [RtcpByePacket]
    assert not sender.is_sending


async def test_stopping_after_the_far_end_has_gone_is_no_error(bench: Bench) -> None:
    sender = await bench.sender()
    bench.transport.is_closed = True
    await sender.stop()


async def test_packets_chosen_to_be_lost_are_not_sent_and_can_be_asked_for(bench: Bench) -> None:
    lost = [True, False]
    sender = await bench.sender(impairment=lambda packet: () if lost.pop(0) else (packet,))
    sender.send_unit([b"one"], 0)
    assert bench.transport.packets == []
    await sender._handle_rtcp_packet(nack(100))
    assert unwrap_rtx(bench.transport.packets[0], 98, 1000).payload == b"one"
