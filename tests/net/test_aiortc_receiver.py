"""The encoded receiver: alone against a transport that keeps what it is given, and fed by aiortc's own sender."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.rtcrtpparameters import (
    RTCRtcpFeedback,
    RTCRtpCodecParameters,
    RTCRtpDecodingParameters,
    RTCRtpReceiveParameters,
    RTCRtpRtxParameters,
)
from aiortc.rtp import (
    RtcpByePacket,
    RtcpPacket,
    RtcpPsfbPacket,
    RtcpRrPacket,
    RtcpRtpfbPacket,
    RtcpSdesPacket,
    RtcpSenderInfo,
    RtcpSrPacket,
    RtpPacket,
    is_rtcp,
    unpack_remb_fci,
)

import bridge.net.aiortc_receiver
from bridge.media.access_unit import Codec, Kind, ReceivedUnit
from bridge.media.clock import NS_PER_S
from bridge.media.h264 import join_avcc, nal_type, split_annexb
from bridge.media.rtp import RtpPacket as ReceivedPacket
from bridge.media.rtp import SenderReport
from bridge.net.aiortc_receiver import MAX_PENDING_MESSAGES, EncodedReceiver, nack_entries
from bridge.net.ice import limit_to_addresses
from bridge.net.peer import ReceivingPeer
from bridge.net.reception_statistics import ReceptionStatistics
from bridge.ports import RemoteTrack
from bridge.receive.track import TrackReceiver
from bridge.timeline.sync import SessionTimeline
from tests.net.loopback import LOOPBACK, PATIENCE_S, Sink

OUR_SSRC, MEDIA_SSRC, RTX_SSRC = 1, 0xABCD, 0xDCBA
H264_TYPE, RTX_TYPE = 102, 103
NTP_Q32 = 3_900_000_000 << 32


# ------------------------------------------------------------------------------------------- alone


class Transport:
    """Stands in for RTCDtlsTransport. While `gate` is closed nothing leaves, as with a stalled TURN server."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.registered: list[Any] = []
        self.is_closed = False
        self.gate = asyncio.Event()
        self.gate.set()
        self._changed = asyncio.Event()

    async def _send_rtp(self, data: bytes) -> None:
        if self.is_closed:
            raise ConnectionError("Cannot send encrypted RTP, not connected")
        await self.gate.wait()
        self.sent.append(data)
        self._changed.set()

    def _register_rtp_receiver(self, receiver: Any, parameters: Any) -> None:
        self.registered.append(receiver)

    def _unregister_rtp_receiver(self, receiver: Any) -> None:
        self.registered.remove(receiver)

    async def messages(self, count: int) -> list[Any]:
        """The first RTCP messages sent, once there are that many."""
        async with asyncio.timeout(PATIENCE_S):
            while len(messages := [m for data in self.sent for m in RtcpPacket.parse(data)]) < count:
                self._changed.clear()
                await self._changed.wait()
        return messages


PLI, FIR = RTCRtcpFeedback("nack", "pli"), RTCRtcpFeedback("ccm", "fir")


class Bench:
    def __init__(self, has_rtx_ssrc: bool = True, keyframes: Sequence[RTCRtcpFeedback] = (PLI,)) -> None:
        self.transport = Transport()
        self.receiver = EncodedReceiver("video", self.transport, self._on_track)  # type: ignore[arg-type]
        self.receiver._set_rtcp_ssrc(OUR_SSRC)
        self.sink: Sink
        rtx = RTCRtpRtxParameters(RTX_SSRC) if has_rtx_ssrc else None
        feedback = [RTCRtcpFeedback("nack"), *keyframes, RTCRtcpFeedback("goog-remb")]
        self.parameters = RTCRtpReceiveParameters(
            codecs=[
                RTCRtpCodecParameters("video/H264", 90_000, payloadType=H264_TYPE, rtcpFeedback=feedback),
                RTCRtpCodecParameters("video/rtx", 90_000, payloadType=RTX_TYPE, parameters={"apt": H264_TYPE}),
            ],
            encodings=[RTCRtpDecodingParameters(MEDIA_SSRC, H264_TYPE, rtx)] if has_rtx_ssrc else [],
        )

    def _on_track(self, track: RemoteTrack) -> Sink:
        self.sink = Sink(track)
        return self.sink

    async def take(
        self, sequence_number: int, payload: bytes = b"\x61", *, type_: int = H264_TYPE, ssrc: int = MEDIA_SSRC
    ) -> None:
        packet = RtpPacket(type_, 1, sequence_number, 90_000, ssrc, payload)
        await self.receiver._handle_rtp_packet(packet, arrival_time_ms=0)

    async def report(self, ssrc: int = MEDIA_SSRC) -> None:
        info = RtcpSenderInfo(ntp_timestamp=NTP_Q32, rtp_timestamp=7, packet_count=1, octet_count=1)
        await self.receiver._handle_rtcp_packet(RtcpSrPacket(ssrc, info))


@asynccontextmanager
async def started(**options: Any) -> AsyncIterator[Bench]:
    bench = Bench(**options)
    await bench.receiver.receive(bench.parameters)
    try:
        yield bench
    finally:
        await bench.receiver.stop()


@pytest.mark.parametrize(
    ("numbers", "entries"),
    [
        ([5], [(5, 0)]),
        ([5, 6, 21], [(5, 0b1000_0000_0000_0001)]),
        ([5, 22], [(5, 0), (22, 0)]),
        ([65535, 0, 1], [(65535, 0b11)]),
        ([65530, 40], [(65530, 0), (40, 0)]),
    ],
)
def test_missing_numbers_are_packed_with_their_followers_across_the_wrap(
    numbers: list[int], entries: list[tuple[int, int]]
) -> None:
    assert nack_entries(numbers) == b"".join(a.to_bytes(2, "big") + b.to_bytes(2, "big") for a, b in entries)


async def test_the_track_is_announced_with_its_codecs_and_without_retransmission_types() -> None:
    async with started() as bench:
        assert bench.sink.track.kind == "video"
        assert dict(bench.sink.track.codecs) == {H264_TYPE: Codec.H264}
        assert bench.transport.registered == [bench.receiver]
    assert bench.transport.registered == []


async def test_packets_are_handed_on_as_they_come_with_their_arrival() -> None:
    async with started() as bench:
        before_ns = time.monotonic_ns()
        await bench.take(65535, b"\x61abc")
        (packet,) = bench.sink.packets
        assert packet[:6] == (MEDIA_SSRC, H264_TYPE, 65535, 90_000, True, b"\x61abc")
        assert before_ns <= packet.arrival_ns <= time.monotonic_ns()
        assert packet.marker is True and not packet.is_retransmission


@pytest.mark.parametrize("has_rtx_ssrc", [True, False], ids=["by SSRC", "by payload type"])
async def test_retransmissions_are_unwrapped_to_the_packet_they_repeat(has_rtx_ssrc: bool) -> None:
    async with started(has_rtx_ssrc=has_rtx_ssrc) as bench:
        await bench.take(10)
        await bench.take(999, b"\x00\x09\x61abc", type_=RTX_TYPE, ssrc=RTX_SSRC)
        repeated = bench.sink.packets[-1]
        assert repeated[:6] == (MEDIA_SSRC, H264_TYPE, 9, 90_000, True, b"\x61abc")
        assert repeated.is_retransmission


async def test_retransmissions_of_the_stream_that_flows_are_known_through_descriptions_and_others_forgotten() -> None:
    async with started() as bench:
        await bench.take(10)
        for media_ssrc in range(1, 20):
            bench.parameters.encodings = [
                RTCRtpDecodingParameters(media_ssrc, H264_TYPE, RTCRtpRtxParameters(1000 + media_ssrc))
            ]
            await bench.receiver.receive(bench.parameters)
        await bench.take(999, b"\x00\x09\x61abc", type_=RTX_TYPE, ssrc=RTX_SSRC)
        assert bench.sink.packets[-1].ssrc == MEDIA_SSRC
        announced = [ssrc for ssrc in (RTX_SSRC, *range(1000, 1020)) if bench.receiver.expects(ssrc)]
        assert announced == [RTX_SSRC, 1019]


async def test_retransmissions_of_nothing_are_dropped() -> None:
    async with started(has_rtx_ssrc=False) as bench:
        await bench.take(999, b"\x00\x09\x61abc", type_=RTX_TYPE, ssrc=RTX_SSRC)  # of whom?
        await bench.take(10)
        await bench.take(1000, b"", type_=RTX_TYPE, ssrc=RTX_SSRC)  # padding
        await bench.take(1001, b"\x00", type_=RTX_TYPE, ssrc=RTX_SSRC)
        assert [packet.sequence_number for packet in bench.sink.packets] == [10]


async def test_a_disabled_receiver_hands_nothing_on() -> None:
    async with started() as bench:
        bench.receiver._enabled = False
        await bench.take(10)
        assert bench.sink.packets == []


async def test_sender_reports_are_handed_on_with_their_rtp_time() -> None:
    async with started() as bench:
        await bench.report()
        (report,) = bench.sink.reports
        assert (report.ssrc, report.ntp_q32, report.rtp_timestamp) == (MEDIA_SSRC, NTP_Q32, 7)


async def test_sender_reports_about_retransmissions_are_not() -> None:
    async with started() as bench:
        await bench.report(RTX_SSRC)
        assert bench.sink.reports == []


async def test_a_goodbye_ends_nothing() -> None:
    async with started() as bench:
        await bench.receiver._handle_rtcp_packet(RtcpByePacket([MEDIA_SSRC]))
        await bench.take(10)
        assert len(bench.sink.packets) == 1


async def test_feedback_names_the_ssrc_that_sends_now() -> None:
    async with started() as bench:
        bench.receiver.send_pli()
        await bench.take(10, ssrc=77)
        bench.receiver.send_nack([8, 9])
        pli, nack = await bench.transport.messages(2)
        assert isinstance(pli, RtcpPsfbPacket) and isinstance(nack, RtcpRtpfbPacket)
        assert (pli.fmt, pli.ssrc, pli.media_ssrc) == (1, OUR_SSRC, MEDIA_SSRC)
        assert (nack.fmt, nack.ssrc, nack.media_ssrc, nack.lost) == (1, OUR_SSRC, 77, [8, 9])


@pytest.mark.parametrize("agreed", [(PLI,), (PLI, FIR), ()], ids=["PLI", "both", "neither"])
async def test_keyframes_are_asked_for_by_pli(agreed: Sequence[RTCRtcpFeedback]) -> None:
    async with started(keyframes=agreed) as bench:
        bench.receiver.send_pli()
        (message,) = await bench.transport.messages(1)
        assert isinstance(message, RtcpPsfbPacket) and message.fmt == 1


async def test_a_sender_that_has_agreed_to_fir_alone_is_asked_so_with_a_new_number_each_time() -> None:
    async with started(keyframes=[FIR]) as bench:
        bench.receiver.send_pli()
        bench.receiver.send_pli()
        messages = await bench.transport.messages(2)
        assert [message.fmt for message in messages] == [4, 4]
        entries = [message.fci for message in messages]
        assert entries == [MEDIA_SSRC.to_bytes(4, "big") + bytes([number, 0, 0, 0]) for number in (1, 2)]


async def test_feedback_about_nobody_is_not_sent() -> None:
    async with started(has_rtx_ssrc=False) as bench:
        bench.receiver.send_pli()
        bench.receiver.send_nack([])
        await bench.take(10)
        bench.receiver.send_nack([8])
        assert len(await bench.transport.messages(1)) == 1


async def test_a_sender_whose_ssrc_nobody_announced_can_be_asked_at_its_first_packet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with started(has_rtx_ssrc=False) as bench:
        monkeypatch.setattr(bench.sink, "on_packet", lambda packet: bench.receiver.send_pli())
        await bench.take(10)
        (message,) = await bench.transport.messages(1)
        assert message.media_ssrc == MEDIA_SSRC


async def test_feedback_to_a_connection_that_is_gone_is_lost_silently() -> None:
    async with started() as bench:
        bench.transport.is_closed = True
        bench.receiver.send_pli()
        bench.receiver._handle_disconnect()
    assert bench.transport.sent == []


async def test_feedback_that_cannot_leave_is_bounded_and_counted() -> None:
    async with started() as bench:
        bench.transport.gate.clear()
        for _ in range(MAX_PENDING_MESSAGES + 5):
            bench.receiver.send_pli()
        assert bench.receiver.messages_dropped == 5
        bench.transport.gate.set()
        await bench.transport.messages(MAX_PENDING_MESSAGES)
        await asyncio.sleep(0)  # one turn, for the tasks to be forgotten
        bench.receiver.send_pli()
        assert bench.receiver.messages_dropped == 5


async def test_reports_and_the_bandwidth_ceiling_are_sent_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge.net.aiortc_receiver, "REPORT_INTERVAL_S", 0.001)
    async with started() as bench:
        report, names, remb = (await bench.transport.messages(3))[:3]
        assert isinstance(report, RtcpRrPacket) and report.reports == []  # nothing has come yet
        assert isinstance(names, RtcpSdesPacket)
        assert unpack_remb_fci(remb.fci)[1] == [MEDIA_SSRC]
        assert unpack_remb_fci(remb.fci)[0] == pytest.approx(20e6, rel=1e-4)
        await bench.take(10)
        await bench.take(12)
        await bench.report()
        sent = len(bench.transport.sent)
        report = (await bench.transport.messages(3 * sent + 6))[-3]
        (block,) = report.reports
        assert (block.ssrc, block.packets_lost, block.highest_sequence) == (MEDIA_SSRC, 1, 12)
        # A third was lost, and of the rest next to nothing came in this millisecond.
        remb = next(m for m in reversed(await bench.transport.messages(3 * sent + 6)) if isinstance(m, RtcpPsfbPacket))
        assert unpack_remb_fci(remb.fci)[0] < 20e6
        assert block.lsr == NTP_Q32 >> 16 & 0xFFFFFFFF


async def test_stopping_twice_or_before_the_start_is_harmless() -> None:
    bench = Bench()
    await bench.receiver.stop()


async def test_what_was_closed_while_it_came_up_does_not_begin() -> None:
    bench = Bench()
    await bench.receiver.stop()
    await bench.receiver.receive(bench.parameters)
    assert bench.transport.registered == []


# ------------------------------------------------------------------------------------------- reception statistics


def test_losses_are_reported_since_the_last_report_and_in_total() -> None:
    statistics = ReceptionStatistics(90_000)
    for n in (0, 1, 2, 4, 6, 7):
        statistics.on_packet(n, 3600 * n, 40_000_000 * n)
    block = statistics.report(1, 0)
    assert block is not None
    assert (block.packets_lost, block.fraction_lost) == (2, 2 * 256 // 8)
    for n in (8, 9):
        statistics.on_packet(n, 3600 * n, 40_000_000 * n)
    block = statistics.report(1, 0)
    assert block is not None
    assert (block.packets_lost, block.fraction_lost) == (2, 0)


def test_wraps_are_counted_in_the_highest_number_and_leave_the_jitter_alone() -> None:
    statistics = ReceptionStatistics(90_000)
    for n in range(200):
        statistics.on_packet((65_436 + n) % 2**16, (2**32 - 360_000 + 3600 * n) % 2**32, 40_000_000 * n)
    block = statistics.report(1, 0)
    assert block is not None
    assert block.highest_sequence == 65_436 + 199
    assert (block.jitter, block.packets_lost) == (0, 0)


def test_jitter_is_the_mean_change_of_transit_in_ticks() -> None:
    statistics = ReceptionStatistics(90_000)
    for n in range(2000):
        statistics.on_packet(n, 3600 * n, 40_000_000 * n + (10_000_000 if n % 2 else 0))
    block = statistics.report(1, 0)
    assert block is not None
    assert block.jitter == pytest.approx(900, abs=2)


def test_the_delay_since_the_last_sender_report_is_told() -> None:
    statistics = ReceptionStatistics(90_000)
    statistics.on_packet(1, 0, 0)
    statistics.on_sender_report(NTP_Q32 + (1 << 31), 5 * NS_PER_S)
    block = statistics.report(1, 5 * NS_PER_S + NS_PER_S // 2)
    assert block is not None
    assert (block.lsr, block.dlsr) == ((NTP_Q32 + (1 << 31)) >> 16 & 0xFFFFFFFF, 1 << 15)


# ------------------------------------------------------------------------------------------- fed by a stock sender


# A stock sender repeats only its last 128 packets: at five a picture these must last for several round trips.
SPACING_S = 0.01


class CodedTrack(MediaStreamTrack):
    """Coded packets that a stock sender packetises as they are, one per `spacing_s` once `may_start`."""

    def __init__(self, kind: Kind, packets: list[bytes], unit_s: Fraction, spacing_s: float) -> None:
        super().__init__()
        self.kind = kind
        self.may_start = asyncio.Event()
        self._packets = packets
        self._unit_s = unit_s
        self._spacing_s = spacing_s
        self._index = 0

    async def recv(self) -> Any:
        await self.may_start.wait()
        if self._index:
            await asyncio.sleep(self._spacing_s)
        packet = av.Packet(self._packets[self._index % len(self._packets)])
        packet.pts, packet.time_base = self._index, self._unit_s
        self._index += 1
        return packet


def coded_pictures(count: int) -> list[bytes]:
    """H.264 in Annex B, each picture noise of several packets, the first one a keyframe."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 96, 64, "yuv420p"
    encoder.time_base, encoder.framerate, encoder.thread_count = Fraction(1, 25), Fraction(25), 1
    encoder.options = {"profile": "baseline", "preset": "ultrafast", "tune": "zerolatency", "g": str(count)}
    noise = np.random.default_rng(1)
    pictures = []
    for index in range(count):
        frame = av.VideoFrame.from_ndarray(noise.integers(0, 255, (96, 96), dtype=np.uint8), format="yuv420p")
        frame.pts = index
        pictures.append(b"".join(bytes(packet) for packet in encoder.encode(frame)))
    return pictures


class DrivenTrack:
    """Runs a TrackReceiver as a session does: polls it when its deadline comes, and obeys it."""

    def __init__(self, track: RemoteTrack) -> None:
        self.track = track
        self.units: list[ReceivedUnit] = []
        self.report_ticks: list[tuple[int, SenderReport]] = []
        self.receiver = TrackReceiver(track.codecs, track.kind, time.monotonic_ns())
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._arm()

    def on_packet(self, packet: ReceivedPacket) -> None:
        self.units += self.receiver.push(packet)
        self._arm()
        self._changed.set()

    def on_sender_report(self, report: SenderReport) -> None:
        ticks = self.receiver.report_ticks(report)
        if ticks is not None:
            self.report_ticks.append((ticks, report))
        self._changed.set()

    def _arm(self) -> None:
        self.close()
        deadline_ns = self.receiver.next_deadline_ns()
        if deadline_ns is not None:
            delay_s = max(0, deadline_ns - time.monotonic_ns()) / NS_PER_S
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._poll)

    def _poll(self) -> None:
        feedback = self.receiver.poll(time.monotonic_ns())
        self.units += feedback.units
        self.track.feedback.send_nack(feedback.nacks)
        if feedback.keyframe_reason is not None:
            self.track.feedback.send_pli()
        self._arm()
        self._changed.set()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def until(self, is_reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not is_reached():
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def stock_sender(
    *media: CodedTrack, drops: Callable[[bytes], bool] = lambda packet: False
) -> AsyncIterator[dict[Kind, DrivenTrack]]:
    """A stock aiortc peer that sends `media` to ours over loopback; `drops` loses RTP packets before encryption."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    driven: dict[Kind, DrivenTrack] = {}
    complete = asyncio.Event()

    def on_track(track: RemoteTrack) -> DrivenTrack:
        driven[track.kind] = DrivenTrack(track)
        if len(driven) == len(media):
            complete.set()
        return driven[track.kind]

    try:
        for each in media:
            limit_to_addresses(
                pc.addTransceiver(each, "sendonly").sender.transport.transport._connection, ["127.0.0.1"]
            )
        await pc.setLocalDescription(await pc.createOffer())
        async with ReceivingPeer(LOOPBACK, on_track) as receiving, asyncio.timeout(PATIENCE_S):
            answer = await receiving.answer(pc.localDescription.sdp)
            await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
            await complete.wait()
            transport = pc.getSenders()[0].transport
            send = transport._send_rtp

            async def send_or_lose(data: bytes) -> None:
                if is_rtcp(data) or not drops(data):
                    await send(data)

            transport._send_rtp = send_or_lose  # type: ignore[method-assign]
            for each in media:
                each.may_start.set()
            yield driven
    finally:
        for track in driven.values():
            track.close()
        await pc.close()


def as_received(picture: bytes) -> bytes:
    return join_avcc(nal for nal in split_annexb(picture) if nal_type(nal) not in (7, 8))


async def test_coded_pictures_of_a_stock_sender_arrive_bit_for_bit() -> None:
    pictures = coded_pictures(30)
    async with stock_sender(CodedTrack("video", pictures, Fraction(1, 25), SPACING_S)) as tracks:
        video = tracks["video"]
        await video.until(lambda: len(video.units) >= 30)
        units = video.units[:30]
    assert [unit.payload for unit in units] == [as_received(picture) for picture in pictures]
    assert [unit.is_keyframe for unit in units] == [True] + [False] * 29
    assert [unit.rtp_ticks - units[0].rtp_ticks for unit in units] == [3600 * n for n in range(30)]
    assert video.receiver.stats.lost == 0


async def test_lost_packets_of_a_stock_sender_are_asked_for_and_every_picture_is_whole() -> None:
    pictures = coded_pictures(60)
    chance = random.Random(3)
    track = CodedTrack("video", pictures, Fraction(1, 25), SPACING_S)
    async with stock_sender(track, drops=lambda packet: chance.random() < 0.05) as tracks:
        video = tracks["video"]
        await video.until(lambda: len(video.units) >= 60)
        units, stats = video.units[:60], replace(video.receiver.stats)  # before the end loses what is on its way
    assert [unit.payload for unit in units] == [as_received(picture) for picture in pictures]
    assert not any(unit.is_discontinuity for unit in units)
    assert stats.recovered > 0
    assert stats.lost == 0


async def test_after_a_loss_that_nobody_can_repair_pictures_go_on_at_a_keyframe() -> None:
    pictures = coded_pictures(25)  # a keyframe each 25 pictures, as the track repeats
    outage = iter(range(10_000))
    track = CodedTrack("video", pictures, Fraction(1, 25), SPACING_S)
    async with stock_sender(track, drops=lambda packet: 40 <= next(outage) < 300) as tracks:
        video = tracks["video"]
        await video.until(lambda: any(unit.is_discontinuity for unit in video.units))
        resumed = next(unit for unit in video.units if unit.is_discontinuity)
        await video.until(lambda: video.units[-1] is not resumed)
    assert resumed.is_keyframe
    assert video.receiver.stats.lost > 0


async def test_both_tracks_of_a_stock_sender_are_aligned_by_their_reports() -> None:
    origin_ns = time.monotonic_ns()
    timeline = SessionTimeline(origin_ns, {})
    sound = CodedTrack("audio", [bytes([9 << 3]) + b"voice"], Fraction(1, 50), 0.02)
    picture = CodedTrack("video", coded_pictures(50), Fraction(1, 25), 0.04)
    async with stock_sender(picture, sound) as tracks:
        for track in tracks.values():
            await track.until(lambda track=track: len(track.report_ticks) > 0 and len(track.units) > 0)  # type: ignore[misc]
        # As it happened: first the units, then the reports.
        for kind, track in tracks.items():
            for unit in track.units:
                timeline.place(kind, unit.rtp_ticks, unit.first_arrival_ns)
        for kind, track in tracks.items():
            for ticks, report in track.report_ticks:
                timeline.on_sender_report(kind, ticks, report.ntp_ns, report.arrival_ns)
    assert abs(timeline.av_offset_s) <= 0.005
    assert timeline.nudged_units == 0
