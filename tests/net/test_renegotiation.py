"""Further offers on a connection that is up, and offers that the client makes."""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from bridge.errors import LocalProtocolError, RemoteProtocolError
from bridge.media.access_unit import Codec, Kind
from bridge.net.codecs import H264_PROFILE_LEVEL_IDS
from bridge.net.ice import limit_to_addresses
from bridge.net.peer import ReceivingPeer, SendingPeer
from tests.net.loopback import LOOPBACK, PATIENCE_S, Line, Sink, Tracks, connected_line

# RFC 6716 §3.1: CELT, 20 ms, mono, no bytes of a frame: a decoder makes silence of it.
SILENCE = b"\xf8\xff\xfe"


def nothing() -> None: ...


def with_section(sdp: str, kind: str, change: Callable[[str], str]) -> str:
    head, *sections = re.split(r"^(?=m=)", sdp, flags=re.MULTILINE)
    return head + "".join(change(s) if s.startswith(f"m={kind}") else s for s in sections)


def renumbered(sdp: str, numbers: dict[str, str]) -> str:
    """Payload types changed, wherever they stand."""

    def change(match: re.Match[str]) -> str:
        return match[1] + numbers.get(match[2], match[2])

    sdp = re.sub(r"(a=(?:rtpmap|fmtp|rtcp-fb):)(\d+)", change, re.sub(r"(apt=)(\d+)", change, sdp))
    return re.sub(
        r"^(m=(?:audio|video) \d+ \S+ )(.*)\r$",
        lambda m: m[1] + " ".join(numbers.get(n, n) for n in m[2].split()) + "\r",
        sdp,
        flags=re.MULTILINE,
    )


def rejecting(sdp: str, kind: str) -> str:
    """The description as browsers write it for a section that is stopped: port 0, out of the bundle, no transport."""
    mids: list[str] = []

    def reject(section: str) -> str:
        mids.extend(re.findall(r"a=mid:(\S+)", section))
        section = re.sub(r"^(m=\w+) \d+", r"\1 0", section)
        section = re.sub(r"a=(?:ice-|fingerprint|setup|candidate|end-of).*\r\n", "", section)
        return re.sub(r"a=(sendonly|recvonly|sendrecv)", "a=inactive", section)

    sdp = with_section(sdp, kind, reject)
    return re.sub(r"(a=group:BUNDLE.*) \b" + mids[0] + r"\b", r"\1", sdp)


async def renegotiate(line: Line, edit: Callable[[str], str] = str) -> str:
    """The answer, which the sender has accepted."""
    offer = edit(await line.sending.renegotiate())
    assert line.receiving.continues(offer)
    answer = await line.receiving.answer(offer)
    await line.sending.accept(answer)
    return answer


async def flows(line: Line, kind: Kind) -> int:
    """Send one unit and wait until it is there; its payload type."""
    sink = await line.tracks.sink(kind)
    before = len(sink.packets)
    _ = line.sending.send_video([b"\x41x"], 0) if kind == "video" else line.sending.send_audio(b"x", 0)
    return (await sink.arrived(before + 1))[-1].payload_type


async def settle() -> None:
    """What a description sets off runs in tasks of its own."""
    for _ in range(10):
        await asyncio.sleep(0)


# ---------------------------------------------------------------------------------------------- the same connection


async def test_media_goes_on_through_a_further_offer() -> None:
    async with connected_line() as line:
        await flows(line, "video")
        sinks = dict(line.tracks.sinks)
        path = line.receiving.path
        for _ in range(3):
            await renegotiate(line)
            await settle()
            await flows(line, "video")
            await flows(line, "audio")
        assert line.tracks.sinks == sinks
        assert line.receiving.is_connected and line.receiving.path == path


async def test_the_version_grows_and_the_session_stays() -> None:
    async with ReceivingPeer(LOOPBACK, Sink) as receiving, SendingPeer(LOOPBACK, nothing) as sending:
        offers, answers = [await sending.offer()], []
        for _ in range(2):
            answers.append(await receiving.answer(offers[-1]))
            await sending.accept(answers[-1])
            offers.append(await sending.renegotiate())
        for descriptions in (offers, answers):
            origins = [re.findall(r"^o=- (\d+) (\d+) ", sdp, re.MULTILINE)[0] for sdp in descriptions]
            assert len({session for session, _ in origins}) == 1
            assert [int(version) for _, version in origins] == list(range(1, len(descriptions) + 1))


@pytest.mark.parametrize(
    "numbers",
    [
        {"101": "120", "102": "121"},
        {"101": "102", "102": "101"},
        {"101": "96", "96": "101"},
    ],
    ids=["fresh", "media and retransmission swapped", "sound and pictures swapped"],
)
async def test_renumbered_payload_types_are_followed(numbers: dict[str, str]) -> None:
    async with connected_line() as line:
        assert await flows(line, "video") == 101 and await flows(line, "audio") == 96
        answer = await renegotiate(line, lambda offer: renumbered(offer, numbers))
        await settle()
        assert f"a=rtpmap:{numbers['101']} H264/90000" in answer
        assert await flows(line, "video") == int(numbers["101"])
        assert await flows(line, "audio") == int(numbers.get("96", "96"))
        for kind, number, codec in (
            ("video", numbers["101"], Codec.H264),
            ("audio", numbers.get("96", "96"), Codec.OPUS),
        ):
            assert line.tracks.sinks[kind].track.codecs[int(number)] is codec  # type: ignore[index]


async def test_retransmissions_are_understood_after_a_renumbering() -> None:
    async with connected_line() as line:
        await renegotiate(line, lambda offer: renumbered(offer, {"101": "102", "102": "101"}))
        await settle()
        await flows(line, "video")
        sink = await line.tracks.sink("video")
        sink.track.feedback.send_nack([sink.packets[0].sequence_number])
        packets = await sink.arrived(2)
        assert packets[1].is_retransmission and packets[1].payload == packets[0].payload
        assert packets[1].payload_type == 102


async def test_a_track_pauses_and_goes_on_as_the_direction_says() -> None:
    async with connected_line() as line:
        await flows(line, "video")
        paused = await renegotiate(
            line, lambda offer: with_section(offer, "video", lambda s: s.replace("a=sendonly", "a=inactive"))
        )
        assert paused.count("a=inactive") == 1 and paused.count("a=recvonly") == 1
        await settle()
        line.sending.send_video([b"\x41paused"], 0)
        await flows(line, "audio")
        resumed = await renegotiate(line)
        assert resumed.count("a=recvonly") == 2
        await settle()
        await flows(line, "video")
        assert b"\x41paused" not in [packet.payload for packet in line.tracks.sinks["video"].packets]


async def test_a_section_that_is_stopped_is_rejected_and_the_other_goes_on() -> None:
    async with connected_line() as line:
        answer = await renegotiate(line, lambda offer: rejecting(offer, "audio"))
        assert "m=audio 0 " in answer and "m=video 0 " not in answer
        assert "a=group:BUNDLE 1\r\n" in answer
        await settle()
        await flows(line, "video")


async def test_a_section_that_is_added_delivers_its_track() -> None:
    tracks = Tracks()
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    try:
        first = pc.addTransceiver("video", "sendonly")
        limit_to_addresses(first.receiver.transport.transport._connection, ["127.0.0.1"])
        await pc.setLocalDescription()
        async with ReceivingPeer(LOOPBACK, tracks.on_track) as receiving:
            await pc.setRemoteDescription(
                RTCSessionDescription(await receiving.answer(pc.localDescription.sdp), "answer")
            )
            await tracks.sink("video")
            added = pc.addTransceiver("audio", "sendonly")
            limit_to_addresses(added.receiver.transport.transport._connection, ["127.0.0.1"])
            offer = await pc.createOffer()
            assert receiving.continues(offer.sdp)
            await pc.setLocalDescription(offer)
            answer = await receiving.answer(offer.sdp)
            assert answer.count("a=recvonly") == 2
            await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
            assert set((await tracks.sink("audio")).track.codecs.values()) == {Codec.OPUS}
            assert receiving.is_connected
    finally:
        await pc.close()


async def test_bundled_sections_need_not_repeat_their_transport() -> None:
    bare = re.compile(r"a=(?:ice-|fingerprint|setup|candidate|end-of).*\r\n")
    async with connected_line() as line:
        await renegotiate(line, lambda offer: with_section(offer, "video", lambda s: bare.sub("", s)))
        await settle()
        await flows(line, "video")


async def test_the_same_offer_once_more_is_answered_once_more() -> None:
    async with ReceivingPeer(LOOPBACK, Sink) as receiving, SendingPeer(LOOPBACK, nothing) as sending:
        offer = await sending.offer()
        await receiving.answer(offer)
        assert receiving.continues(offer)
        await sending.accept(await receiving.answer(offer))
        async with asyncio.timeout(PATIENCE_S):
            await receiving.connected()


async def test_a_further_offer_names_the_stream_that_there_is_now() -> None:
    async with connected_line() as line:
        await flows(line, "video")
        line.sending.restart_stream("video")
        offer = await line.sending.renegotiate()
        await line.sending.accept(await line.receiving.answer(offer))
        await settle()
        await flows(line, "video")
        old, new = (packet.ssrc for packet in line.tracks.sinks["video"].packets)
        assert f"a=ssrc:{new} " in offer and f"a=ssrc:{old} " not in offer


@pytest.mark.parametrize("seed", range(40))
async def test_a_mangled_further_offer_is_answered_or_refused_by_name(seed: int) -> None:
    rng = random.Random(seed)
    async with ReceivingPeer(LOOPBACK, Sink) as receiving, SendingPeer(LOOPBACK, nothing) as sending:
        offer = await sending.offer()
        await receiving.answer(offer)
        lines = (rejecting(offer, "audio") if seed % 2 else offer).splitlines()
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(lines))
            match rng.randrange(3):
                case 0:
                    del lines[at]
                case 1:
                    lines.insert(rng.randrange(len(lines)), lines[at])
                case 2:
                    lines[at] = re.sub(r"\d+", lambda m: rng.choice(["0", "1", "99999", "x", m[0]]), lines[at])
        with suppress(RemoteProtocolError):
            assert (await receiving.answer("\r\n".join(lines))).startswith("v=0")


# ---------------------------------------------------------------------------------------------- what needs a new one


@pytest.mark.parametrize(
    "pattern", [r"a=ice-ufrag:.*", r"a=ice-pwd:.*", r"(?<=a=fingerprint:sha-256 ).."], ids=["user", "password", "key"]
)
async def test_an_ice_restart_or_another_certificate_is_no_continuation(pattern: str) -> None:
    async with connected_line() as line:
        offer = await line.sending.renegotiate()
        other = re.sub(pattern, lambda m: m[0][:-2] + ("00" if m[0][-2:] != "00" else "11"), offer.replace("\r", ""))
        assert not line.receiving.continues(other)
        with pytest.raises(RemoteProtocolError, match="another connection") as caught:
            await line.receiving.answer(other)
        assert caught.value.reason == "media"


@pytest.mark.parametrize("sdp", ["", "garbage", "v=0\r\n"])
async def test_what_cannot_be_read_is_no_continuation(sdp: str) -> None:
    async with connected_line() as line:
        assert not line.receiving.continues(sdp)


async def test_nothing_continues_before_there_is_a_connection() -> None:
    async with ReceivingPeer(LOOPBACK, Sink) as receiving, SendingPeer(LOOPBACK, nothing) as sending:
        assert not receiving.continues(await sending.offer())


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (
            lambda sdp: re.sub(r"^m=video(.|\n|\r)*", "", sdp, flags=re.MULTILINE).replace("BUNDLE 0 1", "BUNDLE 0"),
            "takes away sections",
        ),
        (lambda sdp: sdp.replace("a=mid:1", "a=mid:x").replace("BUNDLE 0 1", "BUNDLE 0 x"), "takes away sections"),
        (lambda sdp: sdp + sdp[sdp.index("m=video") :].replace("a=mid:1", "a=mid:2"), "another connection|bundle"),
        (lambda sdp: sdp.replace("a=setup:actpass", "a=setup:active"), "both ends the DTLS client"),
        (
            lambda sdp: sdp.replace("H264/90000", "VP9/90000").replace("opus/48000", "lyra/48000"),
            r"nothing that can be used: audio \(lyra\), video \(VP9\)",
        ),
    ],
    ids=["fewer sections", "other mid", "outside of the bundle", "other DTLS role", "other codecs"],
)
async def test_a_change_that_cannot_be_followed_is_refused(edit: Callable[[str], str], complaint: str) -> None:
    async with connected_line() as line:
        offer = edit(await line.sending.renegotiate())
        with pytest.raises(RemoteProtocolError, match=complaint):
            await line.receiving.answer(offer)


@pytest.mark.parametrize(
    "edit",
    [lambda sdp: rejecting(sdp, "video"), lambda sdp: sdp.replace("H264/90000", "VP9/90000")],
    ids=["rejected", "of another codec"],
)
async def test_sound_goes_on_where_there_are_no_pictures_any_more(edit: Callable[[str], str]) -> None:
    async with connected_line() as line:
        await flows(line, "video")
        answer = await line.receiving.answer(edit(await line.sending.renegotiate()))
        assert "m=video 0 " in answer and "m=audio 0 " not in answer
        await settle()
        await flows(line, "audio")


async def test_pictures_go_on_in_another_codec() -> None:
    async with connected_line() as line:
        await flows(line, "video")
        offer = await line.sending.renegotiate()
        answer = await line.receiving.answer(offer.replace("H264/90000", "VP8/90000"))
        assert "VP8/90000" in answer and "H264" not in answer
        await settle()
        codecs = line.tracks.sinks["video"].track.codecs
        assert codecs[await flows(line, "video")] is Codec.VP8


async def test_a_further_offer_waits_for_the_answer_to_the_first() -> None:
    async with SendingPeer(LOOPBACK, nothing) as sending:
        with pytest.raises(LocalProtocolError):
            await sending.renegotiate()
        await sending.offer()
        with pytest.raises(LocalProtocolError):
            await sending.renegotiate()


# ---------------------------------------------------------------------------------------------- the client's own offer


@pytest.mark.parametrize("profile_level_id", H264_PROFILE_LEVEL_IDS)
async def test_the_clients_offer_is_answered_with_the_pictures_there_are(profile_level_id: str) -> None:
    tracks = Tracks()
    async with (
        ReceivingPeer(LOOPBACK, tracks.on_track) as receiving,
        SendingPeer(LOOPBACK, nothing, profile_level_id=profile_level_id) as sending,
    ):
        offer = await receiving.offer()
        assert offer.count("a=recvonly") == 2 and offer.count("H264/90000") == 10 and "a=candidate:" in offer
        answer = await sending.answer(offer)
        assert answer.count("a=sendonly") == 2 and f"profile-level-id={profile_level_id}" in answer
        await receiving.accept(answer)
        line = Line(sending, receiving, tracks, asyncio.Event())
        async with asyncio.timeout(PATIENCE_S):
            await sending.connected()
            await receiving.connected()
        await flows(line, "video")
        await flows(line, "audio")


async def test_a_service_may_renegotiate_what_the_client_offered() -> None:
    tracks = Tracks()
    async with ReceivingPeer(LOOPBACK, tracks.on_track) as receiving, SendingPeer(LOOPBACK, nothing) as sending:
        await receiving.accept(await sending.answer(await receiving.offer()))
        async with asyncio.timeout(PATIENCE_S):
            await sending.connected()
            await receiving.connected()
        line = Line(sending, receiving, tracks, asyncio.Event())
        await flows(line, "video")
        await renegotiate(line)
        await settle()
        await flows(line, "video")


async def test_an_offer_that_does_not_take_our_codec_is_refused() -> None:
    async with (
        ReceivingPeer(LOOPBACK, Sink) as receiving,
        SendingPeer(LOOPBACK, nothing, codec=Codec.VP8) as vp8,
        SendingPeer(LOOPBACK, nothing, profile_level_id="640c1f") as high,
    ):
        offer = await receiving.offer()
        assert {*re.findall(r"(\w+)/90000", await vp8.answer(offer))} == {"VP8", "rtx"}
        with pytest.raises(RemoteProtocolError, match="takes no H264 video, only VP8"):
            await high.answer(re.sub(r"a=(rtpmap:\d+ H264|fmtp:\d+ level).*\r\n", "", offer))
        with pytest.raises(RemoteProtocolError):
            await high.answer(re.sub(r"a=(rtpmap|fmtp):105 .*\r\n", "", offer).replace("640c1f", "42e01f"))


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda sdp: sdp.replace("H264/90000", "VP9/90000"), "cannot be used"),
        (lambda sdp: rejecting(rejecting(sdp, "video"), "audio"), "it rejects all its sections"),
        (lambda sdp: re.sub(r"a=ice-ufrag.*\r\n", "", sdp), "no ICE credentials"),
        (lambda sdp: sdp.replace("a=setup:active", "a=setup:actpass"), "cannot be used"),
    ],
)
async def test_an_answer_to_the_client_that_is_no_good_is_refused(edit: Callable[[str], str], complaint: str) -> None:
    async with ReceivingPeer(LOOPBACK, Sink) as receiving, SendingPeer(LOOPBACK, nothing) as sending:
        answer = await sending.answer(await receiving.offer())
        with pytest.raises(RemoteProtocolError, match=complaint) as caught:
            await receiving.accept(edit(answer))
        assert caught.value.reason == "media"


async def test_a_service_that_rejects_the_clients_sound_is_watched_in_silence() -> None:
    tracks = Tracks()
    async with ReceivingPeer(LOOPBACK, tracks.on_track) as receiving, SendingPeer(LOOPBACK, nothing) as sending:
        await receiving.accept(rejecting(await sending.answer(await receiving.offer()), "audio"))
        async with asyncio.timeout(PATIENCE_S):
            await sending.connected()
        await tracks.sink("video")
        assert set(tracks.sinks) == {"video"}


async def test_an_answer_that_no_offer_waits_for_is_refused() -> None:
    async with ReceivingPeer(LOOPBACK, Sink) as receiving, SendingPeer(LOOPBACK, nothing) as sending:
        for peer in (sending, receiving):
            with pytest.raises(RemoteProtocolError, match="no offer that waits"):
                await peer.accept("v=0")
        answer = await receiving.answer(await sending.offer())
        await sending.accept(answer)
        for peer in (sending, receiving):
            with pytest.raises(RemoteProtocolError, match="no offer that waits"):
                await peer.accept(answer)


# ---------------------------------------------------------------------------------------------- the client adds


@asynccontextmanager
async def viewer(*kinds: Kind, is_offered: bool = False) -> AsyncIterator[tuple[RTCPeerConnection, SendingPeer]]:
    """A browser's own peer, connected to ours; `is_offered`: by our offer, else by its own for these kinds."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    try:
        async with SendingPeer(LOOPBACK, nothing) as sending:
            if is_offered:
                await pc.setRemoteDescription(RTCSessionDescription(await sending.offer(), "offer"))
                await pc.setLocalDescription()
                await sending.accept(pc.localDescription.sdp)
            else:
                for kind in kinds:
                    pc.addTransceiver(kind, "recvonly")
                await offer_to(sending, pc)
            async with asyncio.timeout(PATIENCE_S):
                await sending.connected()
            yield pc, sending
    finally:
        await pc.close()


async def offer_to(sending: SendingPeer, pc: RTCPeerConnection) -> str:
    """The answer to an offer of the browser's, which it has accepted."""
    for transceiver in pc.getTransceivers():
        limit_to_addresses(transceiver.receiver.transport.transport._connection, ["127.0.0.1"])
    await pc.setLocalDescription()
    answer = await sending.answer(pc.localDescription.sdp)
    await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    return answer


def directions(sdp: str) -> list[str]:
    return re.findall(r"a=(sendonly|inactive)\r", sdp)


@pytest.mark.parametrize("is_offered", [True, False], ids=["our offer came first", "its offer came first"])
async def test_a_client_that_adds_a_section_is_answered_on_the_connection_there_is(is_offered: bool) -> None:
    async with viewer("audio", "video", is_offered=is_offered) as (pc, sending):
        pc.addTransceiver("audio", "sendonly")
        # What aiortc offers next, without the change of state that making it brings.
        assert sending.continues((await pc.createOffer()).sdp)
        answer = await offer_to(sending, pc)
        assert directions(answer) == ["sendonly", "sendonly", "inactive"]
        assert len(set(re.findall(r"a=ice-ufrag:(\S+)", answer))) == 1
        assert sending.is_connected


async def test_a_section_that_the_client_adds_for_a_kind_that_was_not_sent_carries_it() -> None:
    async with viewer("video") as (pc, sending):
        pc.addTransceiver("audio", "recvonly")
        assert directions(await offer_to(sending, pc)) == ["sendonly", "sendonly"]
        track = pc.getTransceivers()[1].receiver.track
        await settle()
        for number in range(10):
            sending.send_audio(SILENCE, number * 20_000_000)
        async with asyncio.timeout(PATIENCE_S):
            await track.recv()


async def test_an_offer_that_crosses_ours_is_refused_and_ours_goes_on() -> None:
    async with viewer(is_offered=True) as (pc, sending):
        crossing = (await pc.createOffer()).sdp
        offer = await sending.renegotiate()
        with pytest.raises(RemoteProtocolError, match="crosses another one"):
            await sending.answer(crossing)
        await pc.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        await pc.setLocalDescription()
        await sending.accept(pc.localDescription.sdp)
        assert sending.is_stable and sending.is_connected
