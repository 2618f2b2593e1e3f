"""WhipOutput against a server with real WebRTC peers, and against servers that misbehave."""

import asyncio
import json
import logging
import re
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from bridge.check import check_connections
from bridge.config import Config
from bridge.errors import BridgeError, OutputLost, OutputRejected, RemoteProtocolError
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS
from bridge.media.h264 import decoder_configuration, parameter_sets
from bridge.media.live_queue import LiveQueue
from bridge.net import hearing, peer_connection
from bridge.net.ice import IceServer, IceSettings
from bridge.net.url_policy import UrlPolicy
from bridge.outputs import whip_session, whip_signalling
from bridge.outputs.runner import reconnect_reason
from bridge.outputs.whip import WhipOutput
from bridge.ports import OutputProgress
from bridge.redact import Secret, mask
from bridge.samples import SPEECH
from tests.interop.whip_endpoint import PATH, TOKEN, Behaviour, WhipEndpoint, make_certificate
from tests.interop.whip_publication import PICTURES, Listener, Publication, output_to, published, sound
from tests.net.loopback import LOOPBACK
from tests.net.relay import turn_server

TEST_S = 30.0


@pytest.fixture
async def endpoint() -> AsyncIterator[WhipEndpoint]:
    async with asyncio.timeout(TEST_S), WhipEndpoint().serving() as serving:
        yield serving


@pytest.fixture
async def neighbour() -> AsyncIterator[WhipEndpoint]:
    """Another origin."""
    async with WhipEndpoint().serving() as serving:
        yield serving


class Ipv6Only(IceSettings):
    """Without the IPv4 address of loopback."""

    def host_addresses(self) -> list[str]:
        return ["::1"]


async def failure(output: WhipOutput) -> BridgeError:
    """What ends an output; it tells no secret."""
    publication = Publication(output)
    with pytest.raises((OutputLost, OutputRejected, RemoteProtocolError)) as raised:
        await publication.running
    assert "canary" not in str(raised.value)
    assert isinstance(raised.value, BridgeError)
    return raised.value


def answering(status: int, headers: dict[str, str] | None = None, body: str = "", method: str = "POST") -> Behaviour:
    async def behave(request: Request, _body: bytes) -> Response | None:
        return Response(body, status, headers) if request.method == method else None

    return behave


# ---------------------------------------------------------------------------------------------- a server that is well


async def test_units_arrive_as_they_are(endpoint: WhipEndpoint) -> None:
    async with published(endpoint) as publication:
        session = await endpoint.session()
        for unit in (*PICTURES, sound(0), sound(20)):
            publication.units.put(unit)
        audio, video = await session.tracks.sink("audio"), await session.tracks.sink("video")
        await audio.arrived(2)
        await publication.finish()
        assert publication.listener.written == [*PICTURES, sound(0), sound(20)]
        assert [packet.payload for packet in audio.packets] == [sound(0).payload, sound(20).payload]
        assert len([packet for packet in video.packets if packet.marker]) == len(PICTURES)
        sent_bytes = sum(len(packet.payload) for packet in (*video.packets, *audio.packets))
        assert publication.output.progress() == OutputProgress(sent_bytes)


async def test_a_unit_leaves_within_the_call_that_brings_it(endpoint: WhipEndpoint) -> None:
    async with published(endpoint) as publication:
        publication.units.put(PICTURES[0])
        await (await (await endpoint.session()).tracks.sink("video")).arrived(1)
        for unit in (PICTURES[1], sound(0)):
            publication.units.put(unit)
            assert publication.listener.written[-1] is unit
        await publication.finish()


async def test_parameter_sets_stand_before_every_keyframe(endpoint: WhipEndpoint) -> None:
    async with published(endpoint) as publication:
        for unit in (PICTURES[0], PICTURES[1]):
            publication.units.put(unit)
        video = await (await endpoint.session()).tracks.sink("video")
        first = (await video.arrived(1))[0].payload
        (sps,), (pps,) = parameter_sets(PICTURES[0].codec_config)
        assert first[0] & 0x1F == 24 and sps in first and pps in first
        await publication.finish()


async def test_the_offer_is_what_whip_wants(endpoint: WhipEndpoint) -> None:
    async with published(endpoint) as publication:
        await publication.finish()
    posted = endpoint.seen[0]
    assert posted.headers["content-type"] == "application/sdp"
    assert posted.headers["authorization"] == f"Bearer {TOKEN}"
    offer = posted.body
    assert (
        offer.count("a=sendonly\r\n") == offer.count("a=rtcp-mux-only\r\n") == offer.count("a=setup:actpass\r\n") == 2
    )
    assert len(re.findall(r"^a=group:BUNDLE", offer, re.MULTILINE)) == 1
    assert len(set(re.findall(r"^a=msid:(\S+)", offer, re.MULTILINE))) == 1
    assert re.findall(r"profile-level-id=(\w+)", offer) == ["42e01f"]
    assert "typ host" in offer and "\r\nm=audio" in offer and "\r\nm=video" in offer


async def test_what_waited_while_connecting_is_forgotten_so_that_viewers_start_in_the_present(
    endpoint: WhipEndpoint,
) -> None:
    publication = Publication(output_to(endpoint))
    for unit in PICTURES[1:]:
        publication.units.put(unit)
    await publication.published()
    await publication.finish()
    assert publication.listener.written == []


async def test_a_request_for_a_keyframe_reaches_the_listener(endpoint: WhipEndpoint) -> None:
    async with published(endpoint) as publication:
        publication.units.put(PICTURES[0])
        video = await (await endpoint.session()).tracks.sink("video")
        await video.arrived(1)
        video.track.feedback.send_pli()
        await publication.listener.keyframe_requested.wait()


async def test_a_lost_packet_is_sent_again(endpoint: WhipEndpoint) -> None:
    async with published(endpoint) as publication:
        publication.units.put(PICTURES[0])
        video = await (await endpoint.session()).tracks.sink("video")
        first = (await video.arrived(1))[0]
        video.track.feedback.send_nack([first.sequence_number])
        await video.until(lambda: any(packet.is_retransmission for packet in video.packets))
        again = next(packet for packet in video.packets if packet.is_retransmission)
        assert (again.sequence_number, again.payload) == (first.sequence_number, first.payload)


async def test_sender_reports_tell_the_timeline(endpoint: WhipEndpoint) -> None:
    async with published(endpoint) as publication:
        publication.units.put(PICTURES[0])
        publication.units.put(sound(0))
        tracks = (await endpoint.session()).tracks
        video, audio = await tracks.sink("video"), await tracks.sink("audio")
        await video.until(lambda: bool(video.reports and video.packets))
        await audio.until(lambda: bool(audio.reports and audio.packets))
        ages_s = [
            (report.ntp_q32 / 2**32, (sink.packets[0].rtp_timestamp - report.rtp_timestamp) / rate_hz)
            for sink, report, rate_hz in ((video, video.reports[0], 90_000), (audio, audio.reports[0], 48_000))
        ]
        captured_s = [ntp_s + age_s for ntp_s, age_s in ages_s]
        assert abs(captured_s[0] - captured_s[1]) < 0.001


@pytest.mark.parametrize("location", ["{path}", "{origin}{path}", "..{path}"])
async def test_the_session_is_deleted_at_its_end_wherever_its_location_points(
    endpoint: WhipEndpoint, location: str
) -> None:
    endpoint.location = location
    async with published(endpoint) as publication:
        await publication.finish()
    assert endpoint.methods() == ["POST", "DELETE"]
    assert len(endpoint.ended) == 1
    assert endpoint.seen[-1].headers["authorization"] == f"Bearer {TOKEN}"


async def test_a_session_is_deleted_when_the_output_is_cancelled(endpoint: WhipEndpoint) -> None:
    async with published(endpoint):
        pass
    assert len(endpoint.ended) == 1


async def test_a_session_that_the_server_was_making_when_the_output_was_cancelled_is_deleted(
    endpoint: WhipEndpoint,
) -> None:
    is_asked, may_answer = asyncio.Event(), asyncio.Event()

    async def hold(request: Request, _body: bytes) -> None:
        if request.method == "POST":
            is_asked.set()
            await may_answer.wait()

    endpoint.behaviour = hold
    publication = Publication(output_to(endpoint))
    await is_asked.wait()
    publication.running.cancel()
    await asyncio.sleep(0)
    may_answer.set()
    with pytest.raises(asyncio.CancelledError):
        await publication.running
    assert len(endpoint.ended) == 1


async def test_a_server_that_does_not_answer_delete_holds_up_the_end_for_its_deadline_only(
    endpoint: WhipEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whip_signalling, "CLOSE_TIMEOUT_S", 0.1)
    never = asyncio.Event()

    async def hold(request: Request, _body: bytes) -> None:
        if request.method == "DELETE":
            await never.wait()

    endpoint.behaviour = hold
    async with published(endpoint) as publication:
        await publication.finish()
    never.set()


@pytest.mark.parametrize("status", [204, 404, 500])
async def test_whatever_a_server_answers_to_delete_the_output_ends_well(endpoint: WhipEndpoint, status: int) -> None:
    endpoint.behaviour = answering(status, method="DELETE")
    async with published(endpoint) as publication:
        await publication.finish()


async def test_without_a_picture_nothing_is_asked_of_the_server(endpoint: WhipEndpoint) -> None:
    units = LiveQueue(10.0)
    units.put(sound(0))
    units.finish()
    await output_to(endpoint).run(units, Listener())
    assert endpoint.seen == []


async def test_pictures_of_another_profile_take_another_offer(endpoint: WhipEndpoint) -> None:
    async with published(endpoint) as publication:
        (sps,), (pps,) = parameter_sets(PICTURES[0].codec_config)
        main = decoder_configuration(sps[:1] + b"\x4d\x00" + sps[3:], pps)
        publication.units.put(AccessUnit(Codec.H264, PICTURES[0].payload, 0, codec_config=main))
        with pytest.raises(OutputLost, match=r"profile changed from H.264 baseline .* to H.264 main"):
            await publication.running
    assert len(endpoint.ended) == 1


# ---------------------------------------------------------------------------------------------- relays


async def test_where_no_direct_way_is_found_the_server_s_relays_are_tried_and_trickled(
    endpoint: WhipEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whip_session, "DIRECT_S", 0.05)
    async with turn_server() as (server, url):
        endpoint.links = [f'<{url}?transport=udp>; rel="ice-server"; username="user"; credential="canary-credential"']
        # Over IPv6 neither end learns where the other one is, and over IPv4 we have nothing but the relay.
        endpoint.edit_offer = endpoint.edit = lambda sdp: re.sub(r"a=candidate:.* ::1 .*\r\n", "", sdp)
        async with published(endpoint, Ipv6Only(("lo",))) as publication:
            publication.units.put(PICTURES[0])
            session = await endpoint.session()
            await (await session.tracks.sink("video")).arrived(1)
            assert server.relayed_packets > 0
            (fragment,) = session.fragments
            assert "typ relay" in fragment and fragment.endswith("a=end-of-candidates\r\n")
            assert endpoint.methods() == ["POST", "PATCH"]
            assert endpoint.seen[1].headers["if-match"] == '"first"'
            assert endpoint.seen[1].headers["content-type"] == "application/trickle-ice-sdpfrag"
            await publication.finish()


async def test_a_server_that_links_to_no_relay_is_asked_for_one_by_options(
    endpoint: WhipEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whip_session, "DIRECT_S", 0.05)
    monkeypatch.setattr(peer_connection, "CONNECT_TIMEOUT_S", 0.5)
    endpoint.mute = True
    await failure(output_to(endpoint))
    assert endpoint.methods() == ["POST", "OPTIONS", "DELETE"]


async def test_a_session_that_is_gone_when_candidates_are_trickled_is_made_anew(
    endpoint: WhipEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whip_session, "DIRECT_S", 0.05)
    endpoint.mute = True
    endpoint.behaviour = answering(404, method="PATCH")
    async with turn_server() as (_, url):
        endpoint.links = [f'<{url}?transport=udp>; rel=ice-server; username=user; credential="canary-credential"']
        assert "the session is gone" in str(await failure(output_to(endpoint)))


async def test_a_relay_on_an_address_that_the_policy_refuses_is_not_asked(
    endpoint: WhipEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whip_session, "DIRECT_S", 0.05)
    monkeypatch.setattr(peer_connection, "CONNECT_TIMEOUT_S", 0.5)
    endpoint.mute = True
    async with turn_server() as (server, url):
        endpoint.links = [f'<{url}?transport=udp>; rel=ice-server; username=user; credential="canary-credential"']
        await failure(output_to(endpoint, policy=UrlPolicy()))
        assert not server.relays


@pytest.mark.parametrize("named_by", ["the server", "the API"])
async def test_a_relay_of_strangers_is_asked_at_the_address_that_was_judged(
    endpoint: WhipEndpoint, monkeypatch: pytest.MonkeyPatch, named_by: str
) -> None:
    monkeypatch.setattr(whip_session, "DIRECT_S", 0.05)
    monkeypatch.setattr(peer_connection, "CONNECT_TIMEOUT_S", 0.5)
    endpoint.mute = True

    async def resolve(host: str, port: int) -> list[str]:
        return ["::1", "127.0.0.1"]

    policy = UrlPolicy(["127.0.0.1", "::1"], resolve=resolve)
    async with turn_server() as (server, url):
        # The name has an address for the policy alone.
        url = url.replace("127.0.0.1", "relay.example") + "?transport=udp"
        strange = (IceServer((url,), "user", Secret("canary-credential")),) if named_by == "the API" else ()
        if not strange:
            endpoint.links = [f'<{url}>; rel=ice-server; username=user; credential="canary-credential"']
        await failure(WhipOutput(endpoint.url, Secret(TOKEN), LOOPBACK, policy=policy, strange_ice_servers=strange))
        assert server.relays


# ---------------------------------------------------------------------------------------------- media that fails


async def test_a_server_whose_media_never_connects_is_lost_and_its_session_deleted(
    endpoint: WhipEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_connection, "CONNECT_TIMEOUT_S", 0.3)
    endpoint.mute = True
    error = await failure(output_to(endpoint))
    assert isinstance(error, OutputLost) and "no media connection" in str(error)
    assert len(endpoint.ended) == 1


async def test_a_server_that_closes_the_media_connection_is_lost(endpoint: WhipEndpoint) -> None:
    async with published(endpoint) as publication:
        session = await endpoint.session()
        await session.peer.__aexit__(None, None, None)
        with pytest.raises(OutputLost, match="closed the media connection"):
            await publication.running
    assert endpoint.methods() == ["POST", "DELETE"]


async def test_a_server_that_no_longer_consents_to_media_is_lost(
    endpoint: WhipEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hearing, "ASK_EVERY_NS", 100 * NS_PER_MS)
    monkeypatch.setattr(hearing, "CONSENT_NS", 300 * NS_PER_MS)
    async with published(endpoint) as publication:
        session = await endpoint.session()
        # Its process is gone: the sockets close without a word.
        for connection in session.peer._connections:
            for protocol in connection._protocols:
                protocol.transport.abort()
        with pytest.raises(OutputLost, match="media connection"):
            await publication.running


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (400, OutputRejected, "offered were H.264 baseline"),
        (401, OutputRejected, "token"),
        (403, OutputRejected, "token"),
        (404, OutputLost, "nothing to publish to"),
        (405, OutputRejected, "no WHIP endpoint"),
        (406, OutputRejected, "none of the codecs; offered were H.264 baseline .* and Opus"),
        (409, OutputLost, "somebody"),
        (410, OutputLost, "gone"),
        (415, OutputRejected, "application/sdp"),
        (418, OutputRejected, "HTTP 418"),
        (422, OutputRejected, "offered were"),
        (429, OutputLost, "frequent"),
        (500, OutputLost, "HTTP 500"),
        (503, OutputLost, "full"),
        (301, OutputRejected, "redirects with 301"),
        (302, OutputRejected, "redirects with 302"),
        (200, RemoteProtocolError, "200, where WHIP wants 201"),
        (204, RemoteProtocolError, "204, where WHIP wants 201"),
    ],
)
async def test_a_status_other_than_201_says_who_must_act(
    endpoint: WhipEndpoint, status: int, kind: type[BridgeError], words: str
) -> None:
    endpoint.behaviour = answering(status, {"Location": "/session/canary-elsewhere"} if status < 400 else None)
    error = await failure(output_to(endpoint))
    assert type(error) is kind
    assert re.search(words, str(error)), error


async def test_the_words_of_a_refusal_are_shown_without_secrets_in_them(endpoint: WhipEndpoint) -> None:
    endpoint.behaviour = answering(403, body=json.dumps({"error": f"token {TOKEN} has\nexpired at {endpoint.url}"}))
    assert '"token *** has' in str(await failure(output_to(endpoint)))


async def test_a_server_that_is_full_says_when_to_come_back(endpoint: WhipEndpoint) -> None:
    endpoint.behaviour = answering(503, {"Retry-After": "17"})
    error = await failure(output_to(endpoint))
    assert isinstance(error, OutputLost) and error.retry_after_s == 17.0


# ---------------------------------------------------------------------------------------------- redirects


async def test_a_redirect_is_followed_and_locations_are_relative_to_its_end(endpoint: WhipEndpoint) -> None:
    async def elsewhere(request: Request, _body: bytes) -> Response | None:
        return Response(status_code=307, headers={"Location": "/new/home"}) if request.url.path == PATH else None

    endpoint.behaviour = elsewhere
    endpoint.location = "../{path}"
    async with published(endpoint) as publication:
        await publication.finish()
    assert [request.path for request in endpoint.seen[:2]] == [PATH, "/new/home"]
    assert endpoint.seen[0].body == endpoint.seen[1].body
    assert endpoint.seen[1].headers["authorization"] == f"Bearer {TOKEN}"
    assert len(endpoint.ended) == 1


async def test_a_redirect_to_another_origin_does_not_get_the_token(
    endpoint: WhipEndpoint, neighbour: WhipEndpoint
) -> None:
    endpoint.behaviour = answering(308, {"Location": f"{neighbour.origin}/over/here"})
    async with published(endpoint) as publication:
        await publication.finish()
    assert neighbour.methods() == ["POST", "DELETE"]
    assert all("authorization" not in request.headers for request in neighbour.seen)


async def test_another_origin_that_wanted_the_token_is_explained(
    endpoint: WhipEndpoint, neighbour: WhipEndpoint
) -> None:
    endpoint.behaviour = answering(307, {"Location": neighbour.origin})
    neighbour.behaviour = answering(401)
    assert "did not get the token" in str(await failure(output_to(endpoint)))


async def test_a_redirect_to_an_address_that_the_policy_refuses_is_not_followed(
    endpoint: WhipEndpoint, neighbour: WhipEndpoint
) -> None:
    endpoint.behaviour = answering(307, {"Location": neighbour.origin})
    error = await failure(output_to(endpoint, policy=UrlPolicy()))
    assert isinstance(error, OutputRejected) and "this machine" in str(error)
    assert neighbour.seen == []


async def test_redirects_in_a_circle_end(endpoint: WhipEndpoint) -> None:
    endpoint.behaviour = answering(307, {"Location": "/canary/again"})
    error = await failure(output_to(endpoint))
    assert isinstance(error, RemoteProtocolError) and "more than 5 times" in str(error)
    assert endpoint.methods() == ["POST"] * 6


# ---------------------------------------------------------------------------------------------- answers that are none


async def test_an_answer_without_location_is_an_error(endpoint: WhipEndpoint) -> None:
    endpoint.location = ""
    error = await failure(output_to(endpoint))
    assert isinstance(error, RemoteProtocolError) and "no Location" in str(error)


async def test_an_answer_of_ten_megabytes_is_not_read_and_its_session_deleted(endpoint: WhipEndpoint) -> None:
    endpoint.edit = lambda answer: answer + "a=filler\r\n" * 1_000_000
    error = await failure(output_to(endpoint))
    assert isinstance(error, RemoteProtocolError) and "more than 131072 bytes" in str(error)
    assert len(endpoint.ended) == 1


async def test_an_answer_that_does_not_end_is_given_up_and_its_session_deleted(
    endpoint: WhipEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whip_signalling, "REQUEST_TIMEOUT_S", 0.3)
    never = asyncio.Event()

    async def drip() -> AsyncIterator[bytes]:
        yield b"v=0\r\n"
        await never.wait()

    async def answer(request: Request, _body: bytes) -> Response | None:
        if request.method != "POST":
            return None
        return StreamingResponse(drip(), 201, {"Location": "/session/canary-slow"}, "application/sdp")

    endpoint.behaviour = answer
    error = await failure(output_to(endpoint))
    assert isinstance(error, OutputLost) and "within 0.3 s" in str(error)
    assert reconnect_reason(error) == "timeout"
    assert endpoint.seen[-1].path == "/session/canary-slow"
    never.set()


def declined(kind: str) -> Callable[[str], str]:
    return lambda answer: re.sub(rf"^m={kind} \d+", f"m={kind} 0", answer, flags=re.MULTILINE)


def replaced(old: str, new: str) -> Callable[[str], str]:
    return lambda answer: answer.replace(old, new)


@pytest.mark.parametrize(
    ("edit", "kind", "words"),
    [
        (declined("video"), OutputRejected, "declines the video"),
        (declined("audio"), OutputRejected, "declines the audio"),
        (replaced("a=recvonly", "a=inactive"), OutputRejected, "declines the audio"),
        (replaced("a=recvonly", "a=sendonly"), RemoteProtocolError, "makes the audio sendonly"),
        (replaced("H264/90000", "VP8/90000"), RemoteProtocolError, "wants vp8, rtx|wants rtx, vp8"),
        (replaced("profile-level-id=42e01f", "profile-level-id=64001f"), RemoteProtocolError, "profile 64001f"),
        (lambda answer: answer[: answer.index("m=video")], RemoteProtocolError, "has sections audio$"),
        (lambda answer: "", RemoteProtocolError, "sections of nothing"),
        (lambda answer: re.sub(r"a=fingerprint.*\r\n", "", answer), RemoteProtocolError, "no DTLS fingerprint"),
        (lambda answer: re.sub(r"a=ice-pwd.*\r\n", "", answer), RemoteProtocolError, "no ICE credentials"),
    ],
)
async def test_an_answer_that_does_not_fit_the_offer_is_named_and_its_session_deleted(
    endpoint: WhipEndpoint, edit: Callable[[str], str], kind: type[BridgeError], words: str
) -> None:
    endpoint.edit = edit
    error = await failure(output_to(endpoint))
    assert type(error) is kind
    assert re.search(words, str(error)), error
    assert len(endpoint.ended) == 1


async def test_an_answer_of_another_type_is_named(endpoint: WhipEndpoint) -> None:
    endpoint.behaviour = answering(201, {"Location": "/session/canary-x", "Content-Type": "text/html"}, "<html>")
    error = await failure(output_to(endpoint))
    assert isinstance(error, RemoteProtocolError) and "content type text/html" in str(error)
    assert endpoint.methods() == ["POST", "DELETE"]


# ---------------------------------------------------------------------------------------------- the way to the server


async def test_a_server_that_is_not_there_is_lost(free_port: int) -> None:
    error = await failure(WhipOutput(f"whip+http://127.0.0.1:{free_port}{PATH}", Secret(TOKEN), LOOPBACK))
    assert isinstance(error, OutputLost) and reconnect_reason(error) == "refused"
    assert "Connection refused" in str(error)


async def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    async with WhipEndpoint().serving(make_certificate(tmp_path)) as endpoint:
        error = await failure(output_to(endpoint))
    assert isinstance(error, OutputRejected) and "certificate" in str(error)
    assert endpoint.seen == []


async def test_a_redirect_from_https_to_http_is_not_followed(tmp_path: Path, neighbour: WhipEndpoint) -> None:
    certificate = make_certificate(tmp_path)
    async with WhipEndpoint().serving(certificate) as endpoint:
        endpoint.behaviour = answering(307, {"Location": neighbour.origin})
        tls = ssl.create_default_context(cafile=certificate[0])
        error = await failure(output_to(endpoint, tls=tls))
    assert isinstance(error, RemoteProtocolError) and "from https to http" in str(error)
    assert neighbour.seen == []


async def test_https_to_another_host_is_verified_by_its_name(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    tls = ssl.create_default_context(cafile=certificate[0])
    async with WhipEndpoint().serving(certificate) as endpoint, WhipEndpoint().serving(certificate) as other:
        port = other.origin.rpartition(":")[2]

        async def resolve(host: str, port: int) -> list[str]:
            return ["127.0.0.1"]

        policy = UrlPolicy(["127.0.0.0/8"], resolve=resolve)
        endpoint.behaviour = answering(307, {"Location": f"https://whip.test:{port}/there"})
        publication = Publication(output_to(endpoint, policy, tls))
        await publication.published()
        await publication.finish()
        assert other.seen[0].headers["host"] == f"whip.test:{port}"
        endpoint.behaviour = answering(307, {"Location": f"https://other.test:{port}/there"})
        assert "certificate" in str(await failure(output_to(endpoint, policy, tls)))


async def test_a_name_without_host_is_refused_before_anything_is_asked() -> None:
    error = await failure(WhipOutput(f"whip+http://{'a' * 64}.test/x", None, LOOPBACK))
    assert "cannot connect" in str(error) or "malformed" in str(error)


async def test_nothing_secret_is_logged(
    endpoint: WhipEndpoint, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.behaviour = answering(500, method="DELETE")
    with caplog.at_level(logging.DEBUG):
        async with published(endpoint) as publication:
            await publication.finish()
    client_side = [record for record in caplog.records if record.name.split(".")[0] in ("httpx", "httpcore", "bridge")]
    assert "canary" not in capsys.readouterr().out
    assert not [record for record in client_side if "canary" in record.getMessage()]


async def test_of_a_session_s_path_only_what_is_random_is_masked(endpoint: WhipEndpoint) -> None:
    """Words of the program would vanish from logs for as long as the process lives."""
    endpoint.location = "/live/resource/session-of-publishers/5f3759df9e3779b9{path}"
    async with published(endpoint) as publication:
        await publication.finish()
    said = "output session of session-of-publishers in resource 5f3759df9e3779b9"
    assert mask(said) == "output session of session-of-publishers in resource ***"


async def test_check_connects_to_a_whip_server(
    endpoint: WhipEndpoint, free_port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in (("url", endpoint.url), ("token", TOKEN), ("licence", "a licence")):
        (tmp_path / name).write_text(content)
    config = Config.model_validate(
        {
            "ice": {"interfaces": ["lo"]},
            "storage": {"dir": tmp_path},
            "sessions": {
                "leo": {
                    "avatar": {
                        "url": f"ws://127.0.0.1:{free_port}/",
                        "license_file": tmp_path / "licence",
                        "name": "leo",
                    },
                    "inputs": {"speech": {"url": f"file:{SPEECH}"}},
                    "outputs": {"studio": {"url_file": tmp_path / "url", "token_file": tmp_path / "token"}},
                }
            },
        }
    )
    assert not await check_connections(config)  # there is no avatar
    assert re.search(r"^ok +leo.outputs.studio: .*: publish accepted$", capsys.readouterr().out, re.MULTILINE)
    assert endpoint.methods() == ["POST", "DELETE"]
