"""Two peers of ours, and ours against aiortc's own, over real ICE, DTLS and SRTP on loopback."""

import asyncio
import gc
import os
import random
import re
import secrets
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from fractions import Fraction
from weakref import ref

import av
import numpy as np
import pytest
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDtlsTransport,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.rtcrtpsender import RTCRtpSender

import bridge.net.ice
import bridge.net.peer_connection
import bridge.net.receiving_peer
from bridge.errors import ConfigError, OutputLost, ProviderUnavailable, RemoteProtocolError
from bridge.media.access_unit import Kind
from bridge.media.clock import NS_PER_MS
from bridge.media.h264 import split_annexb
from bridge.media.rtp import RtpPacket
from bridge.net.aiortc_sender import RtpOrigin
from bridge.net.codecs import H264_PROFILE_LEVEL_IDS
from bridge.net.ice import IceServer, IceSettings, limit_to_addresses
from bridge.net.peer import ReceivingPeer, SendingPeer
from bridge.redact import Secret
from tests.net.loopback import LOOPBACK, PATIENCE_S, Sink, Tracks, connected_line, negotiate, outcome
from tests.net.relay import turn_server

SPS, PPS = b"\x67sps", b"\x68pps"


def nothing() -> None: ...


def candidate_lines(sdp: str) -> list[str]:
    return re.findall(r"a=(candidate:.*?)\r?\n", sdp)


def without_candidates(sdp: str) -> str:
    return re.sub(r"a=(candidate:.*|end-of-candidates)\r?\n", "", sdp)


def reassemble(packets: list[RtpPacket]) -> list[tuple[int, list[bytes]]]:
    """Timestamp and NAL units of each picture: written apart from the code that cuts them."""
    pictures: list[tuple[int, list[bytes]]] = []
    for packet in packets:
        if not pictures or pictures[-1][0] != packet.rtp_timestamp:
            pictures.append((packet.rtp_timestamp, []))
        nals, payload = pictures[-1][1], packet.payload
        if payload[0] & 0x1F == 24:
            position = 1
            while position < len(payload):
                size = int.from_bytes(payload[position : position + 2], "big")
                nals.append(payload[position + 2 : position + 2 + size])
                position += 2 + size
        elif payload[0] & 0x1F == 28:
            if payload[1] & 0x80:
                nals.append(bytes([payload[0] & 0xE0 | payload[1] & 0x1F]))
            nals[-1] += payload[2:]
        else:
            nals.append(payload)
    return pictures


async def stock_offer(*codecs: str, kinds: tuple[str, ...] = ("video", "audio"), data: bool = False) -> str:
    """What a stock aiortc peer offers, with video of these codecs."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    try:
        for kind in kinds:
            transceiver = pc.addTransceiver(kind, "sendonly")
            if kind == "video":
                capable = RTCRtpSender.getCapabilities("video").codecs
                transceiver.setCodecPreferences([c for c in capable if c.name in (*codecs, "rtx")])
        if data:
            pc.createDataChannel("events")
        # Not set as local description: nothing is gathered.
        return (await pc.createOffer()).sdp
    finally:
        await pc.close()


# ---------------------------------------------------------------------------------------------- media


async def test_pictures_and_sound_arrive_bit_for_bit() -> None:
    async with connected_line(video_origin=RtpOrigin(1, 10, 0), audio_origin=RtpOrigin(2, 10, 0)) as line:
        pictures = [[SPS, PPS, b"\x65" + os.urandom(20_000)]] + [[b"\x41" + os.urandom(3000)] for _ in range(9)]
        sounds = [secrets.token_bytes(100) for _ in range(10)]
        for index in range(10):
            line.sending.send_video(pictures[index], index * 40 * NS_PER_MS)
            line.sending.send_audio(sounds[index], index * 20 * NS_PER_MS)
        video, audio = await line.tracks.sink("video"), await line.tracks.sink("audio")
        await video.until(lambda: sum(packet.marker for packet in video.packets) == 10)
        await audio.arrived(10)
        assert reassemble(video.packets) == [(index * 3600, pictures[index]) for index in range(10)]
        assert [(packet.rtp_timestamp, packet.payload) for packet in audio.packets] == [
            (index * 960, sounds[index]) for index in range(10)
        ]


async def test_sequence_numbers_and_timestamps_wrap_under_encryption() -> None:
    origin = RtpOrigin(1, 2**16 - 5, 2**32 - 5 * 3600)
    async with connected_line(video_origin=origin) as line:
        for index in range(10):
            line.sending.send_video([b"\x41%d" % index], index * 40 * NS_PER_MS)
        packets = await (await line.tracks.sink("video")).arrived(10)
        assert [p.sequence_number for p in packets] == [*range(2**16 - 5, 2**16), *range(5)]
        assert [p.rtp_timestamp for p in packets][4:7] == [2**32 - 3600, 0, 3600]
        assert [p.payload for p in packets] == [b"\x41%d" % index for index in range(10)]


async def test_a_keyframe_request_reaches_the_sender() -> None:
    async with connected_line() as line:
        sink = await line.tracks.sink("video")
        line.sending.send_video([b"\x41first"], 0)
        await sink.arrived(1)
        sink.track.feedback.send_pli()
        async with asyncio.timeout(PATIENCE_S):
            await line.keyframe_requested.wait()


async def test_a_lost_packet_comes_again_when_asked_for() -> None:
    seen = 0

    def third_is_lost(packet: bytes) -> tuple[bytes, ...]:
        nonlocal seen
        seen += packet[1] & 0x7F != 96  # pictures and their retransmissions, not sound
        return () if seen == 3 else (packet,)

    async with connected_line(video_origin=RtpOrigin(1, 100, 0), impairment=third_is_lost) as line:
        sink = await line.tracks.sink("video")
        for index in range(5):
            line.sending.send_video([b"\x41%d" % index], index * 40 * NS_PER_MS)
        await sink.arrived(4)
        assert [packet.sequence_number for packet in sink.packets] == [100, 101, 103, 104]
        sink.track.feedback.send_nack([102])
        await sink.arrived(5)
        repeated = sink.packets[-1]
        assert (repeated.sequence_number, repeated.rtp_timestamp, repeated.payload) == (102, 7200, b"\x412")
        assert repeated.is_retransmission


async def test_sender_reports_of_both_tracks_agree() -> None:
    async with connected_line(video_origin=RtpOrigin(1, 0, 0), audio_origin=RtpOrigin(2, 0, 0)) as line:
        video, audio = await line.tracks.sink("video"), await line.tracks.sink("audio")
        line.sending.send_video([b"\x41x"], 500 * NS_PER_MS)
        line.sending.send_audio(b"x", 440 * NS_PER_MS)
        await video.until(lambda: bool(video.reports))
        await audio.until(lambda: bool(audio.reports))
        v, a = video.reports[0], audio.reports[0]
        assert 0.5 <= v.rtp_timestamp / 90_000 < 0.51
        apart_s = (a.ntp_ns - v.ntp_ns) / 1e9 - (a.rtp_timestamp / 48_000 - v.rtp_timestamp / 90_000)
        assert abs(apart_s) < 20e-6


async def test_what_is_sent_before_the_connection_is_up_is_dropped() -> None:
    async with SendingPeer(LOOPBACK, nothing) as sending:
        sending.send_video([b"\x41x"], 0)
        await sending.offer()
        sending.send_audio(b"x", 0)


# ---------------------------------------------------------------------------------------------- negotiation


@pytest.mark.parametrize("profile_level_id", H264_PROFILE_LEVEL_IDS)
async def test_every_usual_profile_is_agreed_on(profile_level_id: str) -> None:
    async with connected_line(profile_level_id=profile_level_id) as line:
        line.sending.send_video([b"\x41x"], 0)
        await (await line.tracks.sink("video")).arrived(1)


@pytest.mark.parametrize("mode", ["0", "1"])
@pytest.mark.parametrize("profile_level_id", [*H264_PROFILE_LEVEL_IDS, "42c01e", "640028", "4d0032"])
async def test_offers_of_one_profile_and_mode_are_answered_with_it(profile_level_id: str, mode: str) -> None:
    offer = await stock_offer("H264")
    lines = [
        line
        for line in offer.splitlines()
        if not re.match(r"a=(rtpmap|fmtp|rtcp-fb):(?!(?:96|97)\b)1?\d+ ", line) or "opus" in line
    ]
    text = "\r\n".join(re.sub(r"^(m=video .*SAVPF).*", r"\1 97", line) for line in lines) + "\r\n"
    text = re.sub(
        r"(m=video .*\r\n)",
        r"\1a=rtpmap:97 H264/90000\r\n"
        rf"a=fmtp:97 profile-level-id={profile_level_id};packetization-mode={mode};level-asymmetry-allowed=1\r\n",
        text,
    )
    async with ReceivingPeer(LOOPBACK, Sink) as receiving:
        answer = await receiving.answer(text)
    assert "m=video" in answer and "a=rtpmap:97 H264/90000" in answer
    assert f"packetization-mode={mode}" in answer


@pytest.mark.parametrize("kinds", [("audio", "video"), ("video", "audio"), ("video",)])
@pytest.mark.parametrize("data", [False, True])
async def test_sections_of_any_order_and_a_data_channel_are_answered(kinds: tuple[str, ...], data: bool) -> None:
    async with ReceivingPeer(LOOPBACK, Sink) as receiving:
        answer = await receiving.answer(await stock_offer("H264", "VP8", kinds=kinds, data=data))
    sections = re.findall(r"^m=(\w+)", answer, re.MULTILINE)
    assert sections == [*kinds, *(["application"] if data else [])]
    assert "VP8" not in answer
    assert answer.count("a=recvonly") == len(kinds)


async def test_a_stock_peer_with_a_data_channel_is_up_on_all_its_transports() -> None:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    is_up = asyncio.Event()
    pc.on("connectionstatechange", lambda: is_up.set() if pc.connectionState == "connected" else None)
    try:
        transports = [pc.addTransceiver("video", "sendonly").receiver.transport]
        pc.createDataChannel("events")
        assert pc.sctp is not None
        for transport in (*transports, pc.sctp.transport):
            limit_to_addresses(transport.transport._connection, ["127.0.0.1"])
        await pc.setLocalDescription()
        async with ReceivingPeer(LOOPBACK, Tracks().on_track) as receiving, asyncio.timeout(PATIENCE_S):
            answer = await receiving.answer(pc.localDescription.sdp)
            await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
            await is_up.wait()
    finally:
        await pc.close()


async def test_a_second_video_section_is_answered_but_not_received() -> None:
    async with ReceivingPeer(LOOPBACK, Sink) as receiving:
        answer = await receiving.answer(await stock_offer("H264", kinds=("video", "video")))
    assert answer.count("a=recvonly") == 1 and answer.count("a=inactive") == 1


@pytest.mark.parametrize(
    ("offered", "answered"),
    [(("VP8", "H264"), "H264"), (("H264", "VP8"), "H264"), (("VP8",), "VP8")],
    ids=["VP8 first", "H.264 first", "VP8 alone"],
)
async def test_h264_is_preferred_and_vp8_taken_where_there_is_nothing_else(
    offered: tuple[str, ...], answered: str
) -> None:
    async with ReceivingPeer(LOOPBACK, Sink) as receiving:
        answer = await receiving.answer(await stock_offer(*offered))
    assert {*re.findall(r"a=rtpmap:\d+ (\w+)/90000", answer)} == {answered, "rtx"}


@pytest.mark.parametrize(
    ("kind", "edit"),
    [
        ("video", lambda sdp: sdp.replace("VP8/90000", "AV1/90000")),
        ("audio", lambda sdp: sdp.replace("opus/48000/2", "speex/48000/2")),
    ],
)
async def test_a_section_of_unknown_codecs_is_declined_and_the_other_flows(
    kind: Kind, edit: Callable[[str], str]
) -> None:
    offer = edit(await stock_offer("VP8"))
    async with ReceivingPeer(LOOPBACK, Sink) as receiving:
        answer = await receiving.answer(offer)
    assert {*re.findall(r"^m=(\w+) 0 ", answer, re.MULTILINE)} == {kind}
    assert answer.count("a=recvonly") == 1 and re.findall(r"^m=(\w+)", answer, re.MULTILINE) == ["video", "audio"]


async def test_an_offer_of_nothing_that_is_known_is_refused_with_what_it_has() -> None:
    offer = (await stock_offer("VP8")).replace("VP8/90000", "AV1/90000").replace("opus/48000/2", "speex/48000/2")
    async with ReceivingPeer(LOOPBACK, Sink) as receiving:
        with pytest.raises(RemoteProtocolError, match=r"video \(AV1\), audio \(speex, G722, PCMU, PCMA\)"):
            await receiving.answer(offer)


@pytest.mark.parametrize("is_first", [True, False])
async def test_media_flows_beside_sections_of_kinds_that_nobody_knows(is_first: bool) -> None:
    text = "m=text 9 RTP/AVP 98\r\na=mid:t\r\na=rtpmap:98 t140/1000\r\na=fmtp:99 what\r\n"

    def with_text(sdp: str) -> str:
        return sdp.replace("m=audio", text + "m=audio") if is_first else sdp + text

    tracks = Tracks()
    async with ReceivingPeer(LOOPBACK, tracks.on_track) as receiving, SendingPeer(LOOPBACK, nothing) as sending:
        answer = await receiving.answer(with_text(await sending.offer()))
        (declined,) = re.findall(r"^m=text 0 RTP/AVP 98\r\n(?:(?!m=).*\r\n)*", answer, re.MULTILINE)
        assert "a=mid:t\r\n" in declined
        await sending.accept(answer.replace(declined, ""))
        sink = await tracks.sink("video")
        async with asyncio.timeout(PATIENCE_S):
            await sending.connected()
        sending.send_video([b"\x41x"], 0)
        await sink.arrived(1)


@pytest.mark.parametrize("garbage", ["", "no sdp", "v=0\r\nm=video 9 RTP/AVP 96\r\n", "m=video\0"])
async def test_garbage_for_an_offer_is_the_far_ends_mistake(garbage: str) -> None:
    async with ReceivingPeer(LOOPBACK, Sink) as receiving:
        with pytest.raises(RemoteProtocolError):
            await receiving.answer(garbage)


@pytest.mark.parametrize("seed", range(40))
async def test_a_mangled_offer_is_answered_or_refused_by_name(seed: int) -> None:
    rng = random.Random(seed)
    lines = (await stock_offer("H264", "VP8", data=True)).splitlines()
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines))
        match rng.randrange(4):
            case 0:
                del lines[at]
            case 1:
                lines.insert(rng.randrange(len(lines)), lines[at])
            case 2:
                lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]
            case 3:
                lines[at] = re.sub(r"\d+", lambda m: rng.choice(["0", "-1", "99999", "x", m[0]]), lines[at])
    async with ReceivingPeer(LOOPBACK, Sink) as receiving:
        with suppress(RemoteProtocolError):
            assert (await receiving.answer("\r\n".join(lines))).startswith("v=0")


async def test_a_section_that_leaves_out_its_direction_is_received() -> None:
    offer = (await stock_offer("H264")).replace("a=sendonly\r\n", "")
    async with ReceivingPeer(LOOPBACK, Sink) as receiving:
        assert (await receiving.answer(offer)).count("a=recvonly") == 2


async def test_a_second_offer_is_refused() -> None:
    async with ReceivingPeer(LOOPBACK, Sink) as receiving:
        await receiving.answer(await stock_offer("H264"))
        with pytest.raises(RemoteProtocolError, match="another connection"):
            await receiving.answer(await stock_offer("H264"))


async def test_an_answer_that_does_not_fit_the_offer_is_refused() -> None:
    async with SendingPeer(LOOPBACK, nothing) as sending, ReceivingPeer(LOOPBACK, Sink) as receiving:
        answer = await receiving.answer(await stock_offer("H264", kinds=("video",)))
        await sending.offer()
        with pytest.raises(RemoteProtocolError, match="answer cannot be used"):
            await sending.accept(answer)


async def test_an_interface_that_is_not_there_is_the_operators_mistake() -> None:
    async with ReceivingPeer(IceSettings(("nothing0",)), Sink) as receiving:
        with pytest.raises(ConfigError, match="nothing0"):
            await receiving.answer(await stock_offer("H264"))


# ---------------------------------------------------------------------------------------------- ICE


async def test_on_loopback_every_candidate_is_loopback() -> None:
    async with SendingPeer(LOOPBACK, nothing) as sending, ReceivingPeer(LOOPBACK, Sink) as receiving:
        offer = await sending.offer()
        answer = await receiving.answer(offer)
    for sdp in (offer, answer):
        addresses = {line.split()[4] for line in candidate_lines(sdp)}
        assert addresses and addresses <= {"127.0.0.1", "::1"}


async def test_without_interfaces_no_candidate_is_loopback() -> None:
    async with SendingPeer(IceSettings(), nothing) as sending:
        offer = await sending.offer()
    assert not {line.split()[4] for line in candidate_lines(offer)} & {"127.0.0.1", "::1"}


@pytest.mark.parametrize("is_early", [True, False])
async def test_candidates_may_come_before_and_after_the_offer(is_early: bool) -> None:
    tracks = Tracks()
    async with ReceivingPeer(LOOPBACK, tracks.on_track) as receiving, SendingPeer(LOOPBACK, nothing) as sending:
        offer = await sending.offer()
        trickled = candidate_lines(offer)
        assert trickled
        if is_early:
            for line in trickled:
                await receiving.add_candidate(line, "0", 0)
        # Without candidates in the answer the sender cannot reach us: the pair is made by our checks alone.
        answer = await receiving.answer(without_candidates(offer))
        await sending.accept(without_candidates(answer))
        if not is_early:
            for line in trickled:
                await receiving.add_candidate(line, "1", 1)
        await receiving.add_candidate("", "0", 0)
        async with asyncio.timeout(PATIENCE_S):
            await sending.connected()
            await receiving.connected()
        assert receiving.is_connected and sending.is_connected
        assert re.fullmatch(r"host \S+:\d+ to \w+ \S+:\d+", receiving.path)


async def test_a_peer_that_nobody_announced_is_found_by_its_checks() -> None:
    async with ReceivingPeer(LOOPBACK, Sink) as receiving, SendingPeer(LOOPBACK, nothing) as sending:
        await sending.accept(await receiving.answer(without_candidates(await sending.offer())))
        async with asyncio.timeout(PATIENCE_S):
            await receiving.connected()


@pytest.mark.parametrize("is_early", [True, False])
async def test_malformed_candidates_are_counted_and_harm_nothing(is_early: bool) -> None:
    bad = [
        "candidate:",
        "candidate:1",
        "x" * 100,
        "candidate:1 1 udp x 127.0.0.1 5 typ host",
        "1 1 udp 1 a.local 5 typ host",
    ]
    async with ReceivingPeer(LOOPBACK, Sink) as receiving, SendingPeer(LOOPBACK, nothing) as sending:
        if is_early:
            for line in bad:
                await receiving.add_candidate(line, "0", 0)
        await negotiate(sending, receiving)
        if not is_early:
            for line in bad:
                await receiving.add_candidate(line, "0", 0)
        assert receiving.rejected_candidates == len(bad)
        async with asyncio.timeout(PATIENCE_S):
            await receiving.connected()


async def test_candidates_without_end_are_not_remembered_without_end() -> None:
    async with ReceivingPeer(LOOPBACK, Sink) as receiving:
        for port in range(1000):
            await receiving.add_candidate(f"candidate:1 1 udp 1 127.0.0.1 {port + 1} typ host", "0", 0)
        await receiving.answer(without_candidates(await stock_offer("H264")))
        for port in range(1000):
            await receiving.add_candidate(f"candidate:1 1 udp 1 127.0.0.2 {port + 1} typ host", "0", 0)
        assert receiving.rejected_candidates == 900 + 1000


async def relays_given_back() -> None:
    """Each is, by an exchange with its server, once its connection is closed."""
    async with asyncio.timeout(PATIENCE_S):
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(tasks)


async def test_media_passes_through_a_turn_server_and_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    tracks = Tracks()
    async with turn_server() as (server, url):
        async with SendingPeer(LOOPBACK, nothing) as sending:
            offer = await sending.offer()
            # Without an address of its own, the relay is the receiver's only way.
            monkeypatch.setattr(IceSettings, "host_addresses", lambda self: [])
            async with ReceivingPeer(LOOPBACK, tracks.on_track) as receiving:
                answer = await receiving.answer(offer, [IceServer((url,), "user", Secret("pass"))])
                assert {line.split()[7] for line in candidate_lines(answer)} == {"relay"}
                await sending.accept(answer)
                sink = await tracks.sink("video")
                async with asyncio.timeout(PATIENCE_S):
                    await sending.connected()
                sending.send_video([b"\x41through the relay"], 0)
                packets = await sink.arrived(1)
                assert packets[0].payload == b"\x41through the relay"
                assert receiving.path.startswith("relay 127.0.0.1:")
                assert not receiving.datagrams_rejected
        assert server.relayed_packets > 3
        await relays_given_back()


async def test_nothing_is_left_of_a_connection_through_a_turn_server() -> None:
    async with turn_server() as (_, url):
        async with ReceivingPeer(LOOPBACK, Sink) as receiving:
            await receiving.answer(await stock_offer("H264"), [IceServer((url,), "user", Secret("pass"))])
            connections = [ref(connection) for connection in receiving._connections]
        del receiving
        await relays_given_back()
    gc.collect()
    assert connections and not any(connection() for connection in connections)


# ---------------------------------------------------------------------------------------------- the end


async def test_nothing_of_a_connection_that_is_closed_while_it_connects_runs_any_more() -> None:
    before = asyncio.all_tasks()
    async with SendingPeer(LOOPBACK, lambda: None) as sending:
        async with ReceivingPeer(LOOPBACK, lambda track: pytest.fail()) as receiving:
            await receiving.answer(await sending.offer())
    assert asyncio.all_tasks() == before


async def test_the_end_of_the_sender_is_noticed_and_named() -> None:
    async with connected_line() as line:
        watching = asyncio.create_task(outcome(line.receiving))
        await line.sending.__aexit__(None, None, None)
        error = await watching
        assert isinstance(error, ProviderUnavailable)
        assert "far end closed the media connection" in str(error) and error.reason == "media"
        assert not line.receiving.is_connected


async def test_the_end_of_the_receiver_is_noticed_and_named() -> None:
    async with connected_line() as line:
        watching = asyncio.create_task(outcome(line.sending))
        await line.receiving.__aexit__(None, None, None)
        assert isinstance(await watching, OutputLost)
        line.sending.send_video([b"\x41x"], 0)


@pytest.mark.parametrize(
    ("candidates", "advice"),
    [
        ("", "it has named no address that could be tried"),
        ("a=candidate:1 1 udp 2130706431 127.0.0.1 9 typ host\r\n", "none of its 1 addresses answers: let UDP through"),
    ],
)
async def test_a_path_that_is_not_there_fails_at_the_deadline_of_ice(
    candidates: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge.net.peer_connection, "CONNECT_TIMEOUT_S", 0.2)
    async with ReceivingPeer(LOOPBACK, Sink) as receiving:
        await receiving.answer(without_candidates(await stock_offer("H264")) + candidates)
        error = await outcome(receiving)
        assert isinstance(error, ProviderUnavailable)
        assert str(error).startswith("no media connection after 0.2 s: ICE has not reached") and advice in str(error)
        assert error.reason == "media"


async def test_a_far_end_that_does_not_shake_hands_fails_at_the_deadline_of_dtls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bridge.net.peer_connection, "DTLS_TIMEOUT_S", 0.2)

    async def stay_mute(self: RTCDtlsTransport, remote: object) -> None: ...

    async with ReceivingPeer(LOOPBACK, Sink) as receiving, SendingPeer(LOOPBACK, nothing) as sending:
        answer = await receiving.answer(await sending.offer())
        assert sending._pc is not None
        transport = sending._pc.getTransceivers()[0].receiver.transport
        monkeypatch.setattr(transport, "start", stay_mute.__get__(transport))
        await sending.accept(answer)
        error = await outcome(receiving)
        assert "was reached (host " in str(error) and "did not finish its DTLS hand-shake within 0.2 s" in str(error)


async def test_a_gathering_that_does_not_end_fails_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge.net.peer_connection, "GATHER_TIMEOUT_S", 0.1)
    monkeypatch.setattr(bridge.net.ice, "_bind", lambda *_: asyncio.sleep(60))
    async with ReceivingPeer(LOOPBACK, Sink) as receiving:
        with pytest.raises(
            ProviderUnavailable, match=r"gathering ICE candidates took more than 0\.1 s: the name server"
        ):
            await receiving.answer(await stock_offer("H264"))


async def test_a_connection_that_carries_nothing_any_more_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge.net.receiving_peer, "MEDIA_LOST_S", 0.3)
    monkeypatch.setattr(bridge.net.receiving_peer, "LOOK_FOR_MEDIA_S", 0.02)
    async with connected_line() as line:
        watching = asyncio.create_task(outcome(line.receiving))
        await asyncio.sleep(0.4)
        assert not watching.done(), "a service may load its avatar with the connection up"
        for index in range(10):
            # Either track will do: a still avatar is heard, one that is silent may be seen.
            _ = line.sending.send_audio(b"x", index) if index % 2 else line.sending.send_video([b"\x41x"], index)
            await asyncio.sleep(0.1)
        assert not watching.done()
        error = await watching
        assert isinstance(error, ProviderUnavailable) and error.reason == "media"
        assert str(error) == "no media for 0.3 s over a connection that is up"


async def test_a_replacement_has_to_bring_media_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge.net.receiving_peer, "LOOK_FOR_MEDIA_S", 0.02)
    async with (
        ReceivingPeer(LOOPBACK, Tracks().on_track, first_media_s=0.1) as receiving,
        SendingPeer(LOOPBACK, nothing) as sending,
    ):
        await negotiate(sending, receiving)
        assert "no media for 0.1 s" in str(await outcome(receiving))


# ---------------------------------------------------------------------------------------------- what the operator says


async def test_host_candidates_carry_the_public_address_and_media_flows() -> None:
    tracks = Tracks()
    mapped = IceSettings(("lo",), public_address="198.51.100.7")
    async with ReceivingPeer(mapped, tracks.on_track) as receiving, SendingPeer(LOOPBACK, nothing) as sending:
        answer = await receiving.answer(await sending.offer())
        v4 = {line.split()[4] for line in candidate_lines(answer) if ":" not in line.split()[4]}
        assert v4 == {"198.51.100.7"} and "c=IN IP4 198.51.100.7\r\n" in answer
        await sending.accept(answer)
        sink = await tracks.sink("audio")
        async with asyncio.timeout(PATIENCE_S):
            await sending.connected()
        sending.send_audio(b"x", 0)
        await sink.arrived(1)


def free_ports(count: int) -> range:
    """A range of UDP ports that nobody uses on loopback."""
    for first in range(42_000, 60_000, 97):
        with ExitStack() as sockets:
            try:
                for port in range(first, first + count):
                    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                        sockets.enter_context(socket.socket(family, socket.SOCK_DGRAM)).bind((host, port))
            except OSError:
                continue
            return range(first, first + count)
    raise AssertionError("no range is free")


async def test_sockets_lie_in_the_range_of_ports_until_it_is_used_up() -> None:
    ports = free_ports(2)
    settings = IceSettings(("lo",), udp_ports=ports)
    async with SendingPeer(settings, nothing) as first, SendingPeer(settings, nothing) as second:
        offers = [await first.offer(), await second.offer()]
        for host in ("127.0.0.1", "::1"):
            found = [int(line.split()[5]) for sdp in offers for line in candidate_lines(sdp) if line.split()[4] == host]
            assert sorted(set(found)) in ([], [*ports])
        async with ReceivingPeer(settings, Sink) as third:
            with pytest.raises(
                ProviderUnavailable, match=rf"ice\.udp_ports: every port of {ports[0]}-{ports[1]} is in"
            ):
                await third.answer(offers[0])
    async with SendingPeer(settings, nothing) as again:
        assert await again.offer(), "the ports are free again"


async def test_a_certificate_other_than_the_announced_one_ends_the_connection() -> None:
    async with ReceivingPeer(LOOPBACK, Sink) as receiving, SendingPeer(LOOPBACK, nothing) as sending:
        offer = await sending.offer()
        forged = re.sub(r"(a=fingerprint:sha-\d+ )\w\w:\w\w:\w\w", r"\g<1>00:00:00", offer)
        await sending.accept(await receiving.answer(forged))
        assert isinstance(await outcome(receiving), ProviderUnavailable)


@pytest.mark.parametrize("step", ["new", "offered", "answered", "accepted"])
async def test_closing_at_any_step_leaves_nothing_behind(step: str) -> None:
    async with ReceivingPeer(LOOPBACK, Sink) as receiving, SendingPeer(LOOPBACK, nothing) as sending:
        if step == "new":
            return
        offer = await sending.offer()
        if step == "offered":
            return
        answer = await receiving.answer(offer)
        if step == "accepted":
            await sending.accept(answer)


async def test_a_peer_that_is_cancelled_while_it_gathers_closes_its_sockets() -> None:
    async with SendingPeer(LOOPBACK, nothing) as sending:
        offer = await sending.offer()

        async def answer() -> None:
            async with ReceivingPeer(LOOPBACK, lambda track: Sink()) as peer:
                await peer.answer(offer)

        for n_turns in range(30):
            answering = asyncio.create_task(answer())
            for _ in range(n_turns):
                await asyncio.sleep(0)
            answering.cancel()
            await asyncio.wait((answering,))
    gc.collect()  # a socket that nobody closed warns here, and warnings are errors


async def test_a_close_that_hangs_is_given_up_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge.net.peer_connection, "CLOSE_TIMEOUT_S", 0.05)
    released = asyncio.Event()
    async with SendingPeer(LOOPBACK, nothing) as sending:
        await sending.offer()
        assert sending._pc is not None
        close = sending._pc.close
        monkeypatch.setattr(sending._pc, "close", released.wait)
    await close()


def encoded_pictures(count: int) -> list[list[bytes]]:
    """NAL units of grey pictures that grow brighter."""
    encoder = av.CodecContext.create("libx264", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 160, 120, "yuv420p", Fraction(1, 25)
    encoder.thread_count = 1
    encoder.options = {"profile": "baseline", "tune": "zerolatency", "preset": "ultrafast"}
    packets = []
    for index in range(count):
        picture = av.VideoFrame.from_ndarray(np.full((120, 160), 20 + 8 * index, np.uint8), "gray").reformat(
            format="yuv420p"
        )
        picture.pts = index
        packets += encoder.encode(picture)
    return [list(split_annexb(bytes(packet))) for packet in packets]


async def test_a_stock_peer_decodes_what_we_send() -> None:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    videos: asyncio.Queue[MediaStreamTrack] = asyncio.Queue()
    is_up = asyncio.Event()
    pc.on("connectionstatechange", lambda: is_up.set() if pc.connectionState == "connected" else None)
    pc.on("track", lambda track: videos.put_nowait(track) if track.kind == "video" else None)
    try:
        async with SendingPeer(LOOPBACK, nothing) as sending:
            await pc.setRemoteDescription(RTCSessionDescription(await sending.offer(), "offer"))
            for transceiver in pc.getTransceivers():
                limit_to_addresses(transceiver.receiver.transport.transport._connection, ["127.0.0.1"])
            await pc.setLocalDescription(await pc.createAnswer())
            await sending.accept(pc.localDescription.sdp)
            track = videos.get_nowait()
            async with asyncio.timeout(PATIENCE_S):
                await sending.connected()
                await is_up.wait()
                for index, nals in enumerate(encoded_pictures(12)):
                    sending.send_video(nals, index * 40 * NS_PER_MS)
                # The stock receiver keeps a picture until the next one begins.
                pictures = [await track.recv() for _ in range(11)]
        assert [round((picture.pts or 0) / 3600) for picture in pictures] == list(range(11))
        levels = [int(np.median(picture.to_ndarray(format="gray"))) for picture in pictures]  # type: ignore[union-attr]
        assert levels == sorted(levels) and levels[-1] - levels[0] > 60
    finally:
        await pc.close()


async def test_a_stock_peer_is_understood() -> None:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    tracks = Tracks()
    try:
        for kind in ("audio", "video"):
            transceiver = pc.addTransceiver(kind, "sendonly")
            limit_to_addresses(transceiver.receiver.transport.transport._connection, ["127.0.0.1"])
        await pc.setLocalDescription(await pc.createOffer())
        async with ReceivingPeer(LOOPBACK, tracks.on_track) as receiving:
            answer = await receiving.answer(pc.localDescription.sdp)
            await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
            async with asyncio.timeout(PATIENCE_S):
                await receiving.connected()
            video = await tracks.sink("video")
            assert set(video.track.codecs.values()) == {"h264"}
    finally:
        await pc.close()
