"""What a misbehaving service does to its streams, and that the receiving side survives it."""

import asyncio
import math
import re
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
import pytest
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from bridge.errors import LocalProtocolError
from bridge.media.access_unit import Codec, Kind
from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.net.aiortc_sender import RtpOrigin, SenderClock
from bridge.net.ice import limit_to_addresses
from bridge.net.impairment import RandomLoss, Reordering
from bridge.net.peer import ReceivingPeer, SendingPeer
from bridge.receive.track import TrackReceiver
from tests.net.loopback import LOOPBACK, PATIENCE_S, Line, Sink, Tracks, connected_line, unchanged

KINDS: tuple[Kind, ...] = ("audio", "video")


def nothing() -> None: ...


def without_ssrc(sdp: str) -> str:
    return re.sub(r"a=ssrc(-group)?:.*\r\n", "", sdp)


def send(line: Line, kind: Kind, index: int) -> None:
    pts_ns = index * 20 * NS_PER_MS
    if kind == "video":
        line.sending.send_video([b"\x41%d" % index], pts_ns)
    else:
        line.sending.send_audio(b"%d" % index, pts_ns)


# ---------------------------------------------------------------------------------------------- streams that change


@pytest.mark.parametrize("edit", [unchanged, without_ssrc], ids=["announced", "unannounced"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_under_a_new_ssrc_arrives(kind: Kind, edit: Callable[[str], str]) -> None:
    async with connected_line(edit) as line:
        sink = await line.tracks.sink(kind)
        for index in range(3):
            send(line, kind, index)
        await sink.arrived(3)
        line.sending.restart_stream(kind)
        for index in range(3, 6):
            send(line, kind, index)
        packets = await sink.arrived(6)
        (first,), (second,) = ({p.ssrc for p in packets[:3]}, {p.ssrc for p in packets[3:]})
        assert first != second
        assert [int(p.payload.strip(b"\x41")) for p in packets] == list(range(6))
        assert packets[3].rtp_timestamp != packets[0].rtp_timestamp + 3 * (1800 if kind == "video" else 960)
        assert len({p.payload_type for p in packets}) == 1


async def test_feedback_reaches_a_stream_under_its_new_ssrc() -> None:
    async with connected_line() as line:
        sink = await line.tracks.sink("video")
        send(line, "video", 0)
        old = (await sink.arrived(1))[0].sequence_number
        line.sending.restart_stream("video")
        send(line, "video", 1)
        new = (await sink.arrived(2))[1]
        # What the stream before had sent is forgotten.
        sink.track.feedback.send_nack([old])
        sink.track.feedback.send_nack([new.sequence_number])
        repeated = (await sink.arrived(3))[2]
        assert repeated.is_retransmission
        assert (repeated.ssrc, repeated.sequence_number, repeated.payload) == (new.ssrc, new.sequence_number, b"\x411")
        sink.track.feedback.send_pli()
        async with asyncio.timeout(PATIENCE_S):
            await line.keyframe_requested.wait()


async def test_sender_reports_follow_a_new_ssrc() -> None:
    clock = SenderClock(iter(range(0, 10**15, NS_PER_S)).__next__)
    async with connected_line(clock=clock) as line:
        sink = await line.tracks.sink("video")
        send(line, "video", 0)
        await sink.until(lambda: len(sink.reports) == 1)
        line.sending.restart_stream("video")
        send(line, "video", 1)
        await sink.until(lambda: len(sink.reports) == 2)
        assert [report.ssrc for report in sink.reports] == [packet.ssrc for packet in sink.packets]


async def test_timestamps_jump_and_reports_jump_with_them() -> None:
    clock = SenderClock(iter(range(0, 10**15, NS_PER_S)).__next__)
    async with connected_line(video_origin=RtpOrigin(1, 0, 1000), clock=clock) as line:
        sink = await line.tracks.sink("video")
        send(line, "video", 0)
        await sink.until(lambda: len(sink.reports) == 1)
        line.sending.shift_timestamps("video", -5000)
        send(line, "video", 1)
        await sink.until(lambda: len(sink.reports) == 2)
        assert [p.rtp_timestamp for p in sink.packets] == [1000, (1000 + 1800 - 5000) % 2**32]
        assert [p.sequence_number for p in sink.packets] == [0, 1] and {p.ssrc for p in sink.packets} == {1}
        # This clock is 50 times too fast for its media, which reports follow by half a millisecond a second: 45 ticks.
        assert (sink.reports[1].rtp_timestamp - sink.reports[0].rtp_timestamp) % 2**32 == 90_000 - 45 - 5000


async def test_a_stream_may_restart_before_it_began() -> None:
    async with SendingPeer(LOOPBACK, nothing) as sending:
        sending.restart_stream("video")
        await sending.offer()
        sending.restart_stream("video")
        sending.shift_timestamps("audio", 10)


# ---------------------------------------------------------------------------------------------- sender reports


@pytest.mark.parametrize(("first_report_s", "n_reports"), [(0.0, 10), (5.0, 5), (math.inf, 0)])
async def test_sender_reports_begin_when_they_are_to(first_report_s: float, n_reports: int) -> None:
    clock = SenderClock(iter(range(0, 10**15, NS_PER_S)).__next__)
    async with connected_line(clock=clock, first_report_s=first_report_s) as line:
        sink = await line.tracks.sink("audio")
        for index in range(10):
            send(line, "audio", index)
        await sink.until(lambda: len(sink.packets) == 10 and len(sink.reports) == n_reports)


# ---------------------------------------------------------------------------------------------- a bad network


async def test_pictures_and_their_reports_may_travel_longer_than_sound() -> None:
    async with connected_line(video_delay_s=0.15) as line:
        for index in range(3):
            send(line, "video", index)
            send(line, "audio", index)
        video, audio = await line.tracks.sink("video"), await line.tracks.sink("audio")
        await audio.arrived(3)
        await audio.until(lambda: len(audio.reports) > 0)
        assert not video.packets and not video.reports
        packets = await video.arrived(3)
        await video.until(lambda: len(video.reports) > 0)
        assert [packet.payload for packet in packets] == [b"\x410", b"\x411", b"\x412"]
        assert packets[0].arrival_ns - audio.packets[0].arrival_ns > 100 * NS_PER_MS
        assert video.reports[0].arrival_ns - audio.reports[0].arrival_ns > 100 * NS_PER_MS


async def test_what_is_on_a_longer_path_at_the_end_is_lost_and_forgotten() -> None:
    async with connected_line(video_delay_s=60.0) as line:
        send(line, "video", 0)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "longer path"]


async def test_lost_packets_do_not_arrive() -> None:
    async with connected_line(impairment=RandomLoss(0.3, seed=1), audio_origin=RtpOrigin(1, 0, 0)) as line:
        sink = await line.tracks.sink("audio")
        for index in range(100):
            send(line, "audio", index)
        there = RandomLoss(0.3, seed=1)
        expected = [index for index in range(100) if there(b"")]
        packets = await sink.arrived(len(expected))
        assert [packet.sequence_number for packet in packets] == expected


async def test_reordered_packets_arrive_out_of_order_and_can_be_decrypted() -> None:
    async with connected_line(impairment=Reordering(0.2, seed=1), audio_origin=RtpOrigin(1, 2**16 - 50, 0)) as line:
        sink = await line.tracks.sink("audio")
        for index in range(100):
            send(line, "audio", index)
        packets = await sink.arrived(97)
        order = [int(packet.payload) for packet in packets]
        assert order != sorted(order) and len(set(order)) == len(order)
        assert all(packet.sequence_number == (2**16 - 50 + i) % 2**16 for packet, i in zip(packets, order, strict=True))


# ---------------------------------------------------------------------------------------------- trickling


async def test_candidates_may_all_come_later() -> None:
    tracks = Tracks()
    async with ReceivingPeer(LOOPBACK, tracks.on_track) as receiving, SendingPeer(LOOPBACK, nothing) as sending:
        offer = await sending.offer(candidates=False)
        assert "candidate" not in offer and "a=ice-options:trickle" in offer
        assert re.findall(r"^m=\w+ (\d+)", offer, re.MULTILINE) == ["9", "9"] and "127.0.0.1" not in offer
        trickled = sending.candidates()
        assert trickled
        assert all(line.startswith("candidate:") and (mid, index) == ("0", 0) for line, mid, index in trickled)
        # The receiver's candidates are kept back, so that nothing but the trickled ones leads from one to the other.
        answer = re.sub(r"a=(candidate:.*|end-of-candidates)\r?\n", "", await receiving.answer(offer))
        await sending.accept(answer)
        await asyncio.sleep(0.5)  # aioice gives up on what has no candidates within 20 ms if it is told of their end
        assert not receiving.is_connected
        for line, mid, index in trickled:
            await receiving.add_candidate(line, mid, index)
        async with asyncio.timeout(PATIENCE_S):
            await sending.connected()
            await receiving.connected()
        assert sending.is_connected and receiving.is_connected


async def test_candidates_may_come_before_the_offer_is_answered() -> None:
    async with ReceivingPeer(LOOPBACK, Sink) as receiving, SendingPeer(LOOPBACK, nothing) as sending:
        offer = await sending.offer(candidates=False)
        for line, mid, index in sending.candidates():
            await receiving.add_candidate(line, mid, index)
        await sending.accept(await receiving.answer(offer))
        async with asyncio.timeout(PATIENCE_S):
            await receiving.connected()
        assert receiving.is_connected and receiving.rejected_candidates == 0


async def test_there_are_no_candidates_before_the_offer() -> None:
    async with SendingPeer(LOOPBACK, nothing) as sending:
        with pytest.raises(LocalProtocolError):
            sending.candidates()


# ---------------------------------------------------------------------------------------------- VP8


async def test_vp8_arrives_frame_by_frame_where_nothing_else_is_offered() -> None:
    frames = vp8_frames(5)
    async with connected_line(codec=Codec.VP8) as line:
        sink = await line.tracks.sink("video")
        assert set(sink.track.codecs.values()) == {Codec.VP8}
        for index, frame in enumerate(frames):
            line.sending.send_vp8(frame, index * 40 * NS_PER_MS)
        await sink.until(lambda: sum(packet.marker for packet in sink.packets) == len(frames))
        receiver = TrackReceiver(sink.track.codecs, "video", 0)
        units = [unit for packet in sink.packets for unit in receiver.push(packet)]
    assert [unit.payload for unit in units] == frames
    assert [unit.is_keyframe for unit in units] == [True, False, False, False, False]


def vp8_frames(count: int) -> list[bytes]:
    """Grey pictures that grow brighter, with enough noise to fill several packets."""
    encoder = av.CodecContext.create("libvpx", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 160, 120, "yuv420p", Fraction(1, 25)
    encoder.bit_rate = 2_000_000
    encoder.options = {"deadline": "realtime", "lag-in-frames": "0", "cpu-used": "8"}
    noise = np.random.default_rng(1)
    packets = []
    for index in range(count):
        levels = 20 + 8 * index + noise.integers(0, 16, (120, 160))
        picture = av.VideoFrame.from_ndarray(levels.astype(np.uint8), "gray").reformat(format="yuv420p")
        picture.pts = index
        packets += encoder.encode(picture)
    return [bytes(packet) for packet in packets]


async def test_a_stock_peer_decodes_our_vp8() -> None:
    frames = vp8_frames(12)
    assert max(map(len, frames)) > 2400
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    videos: asyncio.Queue[MediaStreamTrack] = asyncio.Queue()
    is_up = asyncio.Event()
    pc.on("connectionstatechange", lambda: is_up.set() if pc.connectionState == "connected" else None)
    pc.on("track", lambda track: videos.put_nowait(track) if track.kind == "video" else None)
    try:
        async with SendingPeer(LOOPBACK, nothing, codec=Codec.VP8) as sending:
            await pc.setRemoteDescription(RTCSessionDescription(await sending.offer(), "offer"))
            for transceiver in pc.getTransceivers():
                limit_to_addresses(transceiver.receiver.transport.transport._connection, ["127.0.0.1"])
            await pc.setLocalDescription(await pc.createAnswer())
            await sending.accept(pc.localDescription.sdp)
            track = videos.get_nowait()
            async with asyncio.timeout(PATIENCE_S):
                await sending.connected()
                await is_up.wait()
                for index, frame in enumerate(frames):
                    sending.send_vp8(frame, index * 40 * NS_PER_MS)
                pictures = [await track.recv() for _ in range(11)]
        levels = [int(np.median(picture.to_ndarray(format="gray"))) for picture in pictures]  # type: ignore[union-attr]
        assert levels == sorted(levels) and levels[-1] - levels[0] > 60
    finally:
        await pc.close()
