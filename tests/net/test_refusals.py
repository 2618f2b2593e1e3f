"""What a far end that has the keys can make us keep: streams under SSRCs of its own making."""

import struct
from typing import Any

import pytest
from aiortc.rtp import RtcpRrPacket
from pylibsrtp import Error as SrtpError

from bridge.net.aiortc_sender import RtpOrigin
from bridge.net.refusals import MAX_STREAMS
from tests.net.loopback import Line, connected_line

MEDIA_SSRC, FIRST_SSRC = 0x0A0B0C0D, 0x10000000
OTHERS = range(FIRST_SSRC, FIRST_SSRC + 2 * MAX_STREAMS)


def sender_transport(line: Line) -> Any:
    assert line.sending._pc is not None
    return line.sending._pc.getTransceivers()[0].sender.transport


def receiver_transport(line: Line) -> Any:
    assert line.receiving._pc is not None
    return line.receiving._pc.getTransceivers()[0].receiver.transport


def receive_report(line: Line, ssrc: int) -> None:
    """An authentic report under an SSRC, decrypted."""
    report = sender_transport(line)._tx_srtp.protect_rtcp(bytes(RtcpRrPacket(ssrc, [])))
    receiver_transport(line)._rx_srtp.unprotect_rtcp(report)


async def receive_packet(line: Line, ssrc: int, payload_type: int) -> None:
    """An authentic packet of pictures under an SSRC, decrypted and routed."""
    plain = struct.pack("!BBHII", 0x80, payload_type, 1, 0, ssrc) + b"\x41x"
    transport = receiver_transport(line)
    data = transport._rx_srtp.unprotect(sender_transport(line)._tx_srtp.protect(plain))
    await transport._handle_rtp_data(data, arrival_time_ms=0)


def knows(line: Line, ssrc: int) -> bool:
    """Whether the receiver has a stream for it, which it has no more afterwards."""
    try:
        receiver_transport(line)._rx_srtp._session.remove_stream(ssrc)
    except SrtpError:
        return False
    return True


async def test_streams_that_rest_longest_are_forgotten_and_media_that_flows_is_not() -> None:
    # Past its wrap a stream that was forgotten could not be decrypted any more (RFC 3711 §3.3.1).
    async with connected_line(video_origin=RtpOrigin(ssrc=MEDIA_SSRC, sequence_number=0xFFFE)) as line:
        sink = await line.tracks.sink("video")
        line.sending.send_video([b"\x41x"] * 4, 0)
        await sink.until(lambda: len(sink.packets) == 4 and len(sink.reports) > 0)
        for ssrc in OTHERS:
            receive_report(line, ssrc)
        line.sending.send_video([b"\x41x"] * 4, 0)
        await sink.arrived(8)
        assert MAX_STREAMS / 2 < sum(knows(line, ssrc) for ssrc in OTHERS) <= MAX_STREAMS
        assert not line.receiving.datagrams_rejected["undecryptable"]


async def test_a_stream_that_is_used_again_is_not_forgotten() -> None:
    async with connected_line() as line:
        for ssrc in OTHERS:
            receive_report(line, FIRST_SSRC)
            receive_report(line, ssrc)
        assert knows(line, FIRST_SSRC)
        assert not knows(line, FIRST_SSRC + 1)


async def test_media_under_ever_new_ssrcs_leaves_no_trace_in_the_routing() -> None:
    async with connected_line() as line:
        sink = await line.tracks.sink("video")
        payload_type = next(iter(sink.track.codecs))
        for ssrc in OTHERS:
            await receive_packet(line, ssrc, payload_type)
        assert [packet.ssrc for packet in sink.packets] == list(OTHERS)
        assert len(receiver_transport(line)._rtp_router.ssrc_table) <= MAX_STREAMS + 4  # those that were announced
        assert sum(knows(line, ssrc) for ssrc in OTHERS) <= MAX_STREAMS


async def test_announcing_them_all_is_no_way_round() -> None:
    async with connected_line() as line:
        for receiver in line.receiving._receivers:
            receiver._retransmission_ssrcs.update((ssrc, MEDIA_SSRC) for ssrc in OTHERS)
        for ssrc in OTHERS:
            receive_report(line, ssrc)
        assert sum(knows(line, ssrc) for ssrc in OTHERS) <= MAX_STREAMS


@pytest.mark.parametrize("ssrc", [0, 0xFFFFFFFF])
async def test_any_number_is_an_ssrc(ssrc: int) -> None:
    async with connected_line() as line:
        receive_report(line, ssrc)
        assert knows(line, ssrc)
