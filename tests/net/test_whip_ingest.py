"""WHIP publishers and their input, over the real API and real ICE, DTLS and SRTP on loopback."""

from typing import Any

import pytest

from tests.net.publishers import OTHER_TOKEN, TONE_HZ, Publisher, desk, frequency_hz, post

FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}


@pytest.mark.parametrize(("codec", "rate_hz"), [("opus", 48_000), ("PCMU", 8_000), ("PCMA", 8_000)])
async def test_what_a_publisher_says_is_heard_at_its_rate(codec: str, rate_hz: int) -> None:
    async with desk() as at, Publisher(at, codec) as publisher:
        answer = await publisher.publish()
        assert (answer.status_code, answer.headers["content-type"]) == (201, "application/sdp")
        await at.host.seconds(0.3)  # coders begin softly
        sound = await at.host.seconds(0.5)
        assert at.host.blocks[-1].sample_rate_hz == rate_hz
        assert frequency_hz(sound, rate_hz) == pytest.approx(TONE_HZ, abs=5)
        # Half of full scale; some coders take 3 dB off where one channel becomes two.
        assert 0.3 < abs(sound).max() < 0.6
        assert (await at.client.delete(publisher.session_url)).status_code == 200
        assert (await at.client.delete(publisher.session_url)).status_code == 404


async def test_video_is_declined_and_the_sound_beside_it_taken() -> None:
    async with desk() as at, Publisher(at, video=True) as publisher:
        answer = await publisher.publish()
        assert answer.status_code == 201
        sections = [line.split()[:2] for line in answer.text.splitlines() if line.startswith("m=")]
        assert [(kind, port == "0") for kind, port in sections] == [("m=audio", False), ("m=video", True)]
        assert "a=recvonly" in answer.text
        await at.host.seconds(0.2)


@pytest.mark.parametrize("asked", ["96", "*"])
async def test_retransmission_is_agreed_on_where_it_is_offered(asked: str) -> None:
    async with desk() as at, Publisher(at) as publisher:
        assert "nack" not in (await publisher.publish()).text
        offer = (await publisher.offer()).replace("a=rtpmap:96", f"a=rtcp-fb:{asked} nack\r\na=rtpmap:96")
        await at.client.delete(publisher.session_url)
        assert "a=rtpmap:96 opus/48000/2\r\na=rtcp-fb:96 nack\r\n" in (await post(at, offer)).text


async def test_what_is_lost_on_the_way_is_asked_for_again_or_made_up() -> None:
    async with desk() as at, Publisher(at) as publisher:
        await publisher.publish()
        await at.host.seconds(0.1)
        # One packet in ten once, one in twenty whenever it is sent.
        publisher.lose(lambda number, copy: number % 20 == 7 or (number % 10 == 3 and not copy))
        await at.host.seconds(1.5)
        current: Any = at.studio.whip._publisher
        stats = current._reception.receiver.stats
        assert 2 <= stats.lost <= 5, "what was lost once came when it was asked for"
        assert current.sound.concealed_s + current.sound._opus.sound.restored_samples / 48_000 > 0.03
        ends_ns = [block.pts_ns + round(block.duration_s * 1e9) for block in at.host.blocks]
        begin_ns = [block.pts_ns for block in at.host.blocks]
        assert max(abs(b - e) for b, e in zip(begin_ns[1:], ends_ns, strict=False)) < 1_000_000, "no gap is left"


async def test_the_second_of_two_publishers_is_told_when_to_come_again() -> None:
    async with desk() as at, Publisher(at) as first, Publisher(at) as second:
        await first.publish()
        await at.host.seconds(0.1)
        refused = await second.publish()
        assert (refused.status_code, refused.headers["retry-after"]) == (409, "2")
        assert refused.json()["detail"] == "somebody publishes to input host"
        await at.client.delete(first.session_url)
        assert (await second.publish()).status_code == 201
        await at.host.seconds(0.1)


async def test_a_publisher_that_vanishes_makes_room_within_seconds() -> None:
    async with desk() as at, Publisher(at) as first, Publisher(at) as second:
        await first.publish()
        await at.host.seconds(0.1)
        first.vanish()
        assert await second.publish_once_free(), "it was refused before"
        # What was there is not there any more.
        assert (await at.client.delete(first.session_url)).status_code == 404
        await at.host.seconds(0.1)


async def test_candidates_that_come_later_find_their_way() -> None:
    async with desk() as at, Publisher(at, candidates=False) as publisher:
        answer = await publisher.publish()
        etag = answer.headers["etag"]
        assert answer.headers["accept-patch"] == FRAGMENT["Content-Type"] and "a=ice-options:trickle" in answer.text
        body = publisher.fragment()
        for headers, content, status in (
            (FRAGMENT, body, 428),
            (FRAGMENT | {"If-Match": '"another"'}, body, 412),
            ({"If-Match": etag}, body, 415),
            (FRAGMENT | {"If-Match": etag}, "what is this", 400),
            (FRAGMENT | {"If-Match": "*"}, "a=ice-ufrag:other\r\na=ice-pwd:0123456789012345678901", 422),
            (FRAGMENT | {"If-Match": etag}, "a=x:" + "y" * (128 << 10), 413),
            (FRAGMENT | {"If-Match": etag}, body, 204),
            (FRAGMENT | {"If-Match": f'"other", {etag}'}, "a=candidate:broken\r\na=end-of-candidates\r\n", 204),
        ):
            given = await at.client.patch(publisher.session_url, headers=headers, content=content)
            assert given.status_code == status, (headers, given.text)
        gone = at.url + "/unknown"
        given = await at.client.patch(gone, headers=FRAGMENT | {"If-Match": etag}, content=body)
        assert given.status_code == 404
        await at.host.seconds(0.1)


# ---------------------------------------------------------------------------------------------- refusals


async def test_an_offer_that_is_of_no_use_is_refused_with_its_reason() -> None:
    async with desk() as at:
        offers = {}
        for name, how in {
            "video only": {"sound": False, "video": True},
            "no common codec": {"codec": "G722"},
            "good": {},
        }.items():
            async with Publisher(at, **how) as publisher:  # type: ignore[arg-type]
                offers[name] = await publisher.offer()
        good = offers["good"]
        twice = good + good[good.index("m=") :].replace("a=mid:0", "a=mid:1")
        for offer, status, reason in (
            (offers["video only"], 422, "the offer has no sound (video only), and this input takes nothing else"),
            (offers["no common codec"], 406, "the offer has none of the codecs Opus, PCMU and PCMA (it has g722)"),
            (good.replace("a=sendonly", "a=recvonly"), 422, "the offer sends no sound: its section is recvonly"),
            (good.replace("a=fingerprint", "a=x"), 422, "the offer has no DTLS fingerprint for audio"),
            (twice, 406, "the offer has 2 tracks of sound, and this input takes one"),
            ("", 400, "the offer is no session description"),
            ("v=0\r\n", 400, "the offer is no session description"),
            (good + "a=x:" + "y" * (128 << 10), 413, "the body has more than 131072 bytes"),
        ):
            answer = await post(at, offer)
            assert (answer.status_code, answer.json()["detail"]) == (status, reason)
        assert (await post(at, good, Content_Type="application/json")).headers["accept-post"] == "application/sdp"
        assert (await post(at, good, Content_Type="text/plain")).status_code == 415
        assert (await post(at, good, Accept="application/json")).status_code == 406
        binary = await at.client.post(at.url, content=b"v=0\xff", headers={"Content-Type": "application/sdp"})
        assert binary.status_code == 400
        # None of them has taken the place.
        assert (await post(at, good)).status_code == 201


async def test_the_endpoint_says_what_it_takes() -> None:
    async with desk() as at:
        answer = await at.client.options(at.url)
        assert (answer.status_code, answer.headers["accept-post"]) == (200, "application/sdp")
        for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE"):
            assert (await at.client.request(method, at.url)).status_code == 405, method
        for method in ("GET", "POST", "PUT"):
            assert (await at.client.request(method, at.url + "/some")).status_code == 405, method
        for elsewhere, status in (("leo/whip/nobody", 404), ("leo/whip/pipe", 404), ("mia/whip/host", 404)):
            answer = await at.client.options(f"{at.origin}/v1/sessions/{elsewhere}")
            assert answer.status_code == status


async def test_only_a_token_for_ingest_lets_sound_in() -> None:
    async with desk(tokens=True) as at, Publisher(at) as publisher:
        offer = await publisher.offer()
        for authorization, status in (("", 401), ("Bearer wrong", 401), (f"Bearer {OTHER_TOKEN}", 403)):
            answer = await post(at, offer, Authorization=authorization)
            assert answer.status_code == status
        assert (await publisher.publish()).status_code == 201
        for method in ("PATCH", "DELETE"):
            answer = await at.client.request(method, publisher.session_url, headers={"Authorization": ""})
            assert answer.status_code == 401
        await at.host.seconds(0.1)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Host": "evil.example"}, 400),
    ],
)
async def test_no_page_from_elsewhere_puts_sound_on_air(headers: dict[str, str], status: int) -> None:
    async with desk() as at, Publisher(at) as publisher:
        assert (await post(at, await publisher.offer(), **headers)).status_code == status


async def test_a_public_listener_sends_no_checks_into_private_networks() -> None:
    private = ("127.0.0.1", "10.0.0.7", "192.168.1.5", "169.254.169.254", "fd00::7", "::1")
    asked: list[str] = []
    async with desk(tokens=True, listen="0.0.0.0") as at, Publisher(at, candidates=False) as publisher:
        await publisher.publish()
        peer = at.studio.whip._publisher.peer  # type: ignore[union-attr]
        peer._candidates._add = lambda candidate: note(asked, candidate.ip)
        lines = [f"candidate:1 1 udp {n + 1} {address} 9 typ host" for n, address in enumerate((*private, "8.8.8.8"))]
        headers = FRAGMENT | {"If-Match": publisher.answer.headers["etag"]}  # type: ignore[union-attr]
        body = "".join(f"a={line}\r\n" for line in lines)
        assert (await at.client.patch(publisher.session_url, headers=headers, content=body)).status_code == 204
        assert (asked, peer.rejected_candidates) == (["8.8.8.8"], len(private))
        many = "".join(f"a=candidate:1 1 udp 1 8.8.{n // 250}.{n % 250 + 1} 9 typ host\r\n" for n in range(300))
        assert (await at.client.patch(publisher.session_url, headers=headers, content=many)).status_code == 204
        assert len(asked) == 100


async def note(asked: list[str], address: str) -> None:
    asked.append(address)
