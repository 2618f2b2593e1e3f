"""Viewers and their output, over the real API and real ICE, DTLS and SRTP on loopback."""

import asyncio
import gc
import itertools
from typing import Any

import httpx
import pytest

from bridge.net import viewer_peer, wire
from bridge.net.url_policy import UrlPolicy
from bridge.ops.media_sessions import Reach
from bridge.outputs import whep
from tests.interop.programme import programme
from tests.net.test_peer_leaks import open_files
from tests.net.viewers import OTHER_TOKEN, StockViewer, Viewer, theatre

FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}
IDR, SPS = 5, 7


def nal_types(payload: bytes) -> list[int]:
    """Of an aggregate (RFC 6184 §5.7.1) those inside, of a fragment (§5.8) that of the whole."""
    match payload[0] & 0x1F:
        case 24:
            found, rest = [], payload[1:]
            while rest:
                found.append(rest[2] & 0x1F)
                rest = rest[2 + int.from_bytes(rest[:2], "big") :]
            return found
        case 28:
            return [payload[1] & 0x1F]
        case kind:
            return [kind]


# ---------------------------------------------------------------------------------------------- what viewers get


async def test_a_viewer_starts_at_the_last_keyframe_and_is_soon_in_the_present() -> None:
    units = programme()
    async with theatre(is_playing=False) as show, Viewer(show) as viewer:
        for _ in range(36):  # twelve pictures with their sound, of which the first is a keyframe
            show.units.put(next(units))
        await viewer.watch()
        video, audio = await viewer.sink("video"), await viewer.sink("audio")
        await video.arrived(1)
        for _ in range(60):
            await asyncio.sleep(0.013)
            show.units.put(next(units))
        await video.until(lambda: len({packet.rtp_timestamp for packet in video.packets}) == 32)
        await audio.arrived(30)
    packets = video.packets
    assert SPS in nal_types(packets[0].payload) and packets[0].sequence_number < 1 << 15
    numbers = [packet.sequence_number for packet in packets]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    times = sorted({packet.rtp_timestamp for packet in packets})
    assert times == [packet.rtp_timestamp for packet in packets if packet.marker], "in order, one marker each"
    steps = [later - earlier for earlier, later in itertools.pairwise(times)]
    # Eight times as fast at first, then 25 pictures a second of 90 kHz.
    assert all(abs(step - 450) <= 1 for step in steps[:11]) and all(step == 3600 for step in steps[13:])
    # The past is stamped as if it were made now: by the first report it is, and not half a second old.
    assert abs(video.reports[0].rtp_timestamp - times[0]) < 90 * 100


async def test_all_viewers_get_the_same_and_one_that_vanishes_takes_nothing_from_the_others() -> None:
    async with theatre() as show, Viewer(show) as first, Viewer(show) as second:
        await first.watch()
        await second.watch()
        seen, also_seen = await first.sink("video"), await second.sink("video")
        await also_seen.arrived(20)
        payloads = {packet.payload for packet in seen.packets}
        assert len(payloads & {packet.payload for packet in also_seen.packets}) > 10
        assert len({packet.ssrc for packet in (*seen.packets, *also_seen.packets)}) == 1
        first.vanish()
        await also_seen.arrived(len(also_seen.packets) + 50)
        assert show.viewers == 2, "ICE has not missed it yet"


async def test_what_is_asked_for_again_comes_again_as_it_was() -> None:
    async with theatre() as show, Viewer(show) as viewer:
        await asyncio.sleep(0.3)
        await viewer.watch()
        video = await viewer.sink("video")
        await video.arrived(40)
        wanted = [video.packets[0], video.packets[30]]
        video.track.feedback.send_nack([packet.sequence_number for packet in wanted])
        await video.until(lambda: sum(packet.is_retransmission for packet in video.packets) == 2)
        again = [packet for packet in video.packets if packet.is_retransmission]
        for packet, repeated in zip(wanted, again, strict=True):
            assert repeated._replace(arrival_ns=0, is_retransmission=False) == packet._replace(arrival_ns=0)
        audience = show.output.progress().audience
        assert audience is not None and audience.repeats_asked == 2


async def test_viewers_do_not_make_the_avatar_produce_keyframes_all_the_time() -> None:
    async with theatre() as show, Viewer(show) as first, Viewer(show) as second:
        await first.watch()
        await second.watch()
        tracks = [(await viewer.sink("video")).track for viewer in (first, second)]
        for _ in range(10):
            for track in tracks:
                track.feedback.send_pli()
            await asyncio.sleep(0.02)
        async with asyncio.timeout(5):
            while (audience := show.output.progress().audience) and audience.keyframes_asked < 20:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert show.listener.n_keyframe_requests == 1
        # What is needed soon after is asked for as soon as it may be.
        show.output._want_keyframe()
        await asyncio.sleep(0.1)
        assert show.listener.n_keyframe_requests == 1 and show.output._request is not None


@pytest.mark.parametrize("kinds", [("video",), ("audio",), ("audio", "video"), ("video", "audio")], ids="-".join)
async def test_stock_aiortc_decodes_whatever_it_asks_for(kinds: tuple[str, ...]) -> None:
    async with theatre() as show, StockViewer(*kinds) as viewer:  # type: ignore[arg-type]
        answer = await show.post(await viewer.offer())
        assert (answer.status_code, answer.headers["content-type"]) == (201, "application/sdp")
        await viewer.take(answer.text)
        frames = await viewer.decoded(3)
        sizes = {(frame.width, frame.height) for frame in frames if hasattr(frame, "width")}
        assert sizes == ({(320, 180)} if "video" in kinds else set())


async def test_where_the_kernel_cuts_no_datagrams_they_leave_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_UDP_SEGMENT", 12_345)  # what no kernel knows
    async with theatre() as show, Viewer(show) as viewer:
        await asyncio.sleep(0.2)
        await viewer.watch()
        video = await viewer.sink("video")
        await video.arrived(60)
        numbers = [packet.sequence_number for packet in video.packets]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


async def test_nothing_is_done_while_nobody_watches() -> None:
    async with theatre() as show:
        await asyncio.sleep(0.2)
        assert not show.listener.written and show.units.lag_s == 0
        assert not any(track._units for track in show.output._tracks.values())
        async with Viewer(show) as viewer:
            await viewer.watch()
            await (await viewer.sink("video")).arrived(10)
            assert show.output.progress().bytes_total > 5_000
            async with asyncio.timeout(5):
                while not show.listener.written:  # noqa: ASYNC110  what came first was the past
                    await asyncio.sleep(0.02)
        await show.until_viewers(0)
        assert not any(track._units for track in show.output._tracks.values())
        n_written = len(show.listener.written)
        await asyncio.sleep(0.1)
        assert len(show.listener.written) == n_written > 0


async def test_pictures_are_packetized_while_somebody_sees_them_and_sound_while_somebody_hears_it() -> None:
    async with theatre() as show, StockViewer("audio") as listener:
        tracks = show.output._tracks
        await listener.take((await show.post(await listener.offer())).text)
        await listener.decoded(10)
        assert tracks["audio"]._units and not tracks["video"]._units
        async with Viewer(show) as viewer:
            await viewer.watch()
            await (await viewer.sink("video")).arrived(10)
            assert tracks["video"]._units
        await show.until_viewers(1)
        await listener.decoded(10)
        assert tracks["audio"]._units and not tracks["video"]._units


async def test_without_a_keyframe_to_start_from_one_is_asked_for() -> None:
    async with theatre() as show, Viewer(show) as viewer:
        await asyncio.sleep(0.1)
        await show.pause()
        show.output._group._clear()
        await viewer.watch()
        async with asyncio.timeout(5):
            while not show.listener.n_keyframe_requests:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        show.units.put(next(programme()))
        video = await viewer.sink("video")
        await video.arrived(1)
        assert SPS in nal_types(video.packets[0].payload)


# ---------------------------------------------------------------------------------------------- how they go


async def test_a_viewer_that_leaves_is_gone_at_once() -> None:
    async with theatre() as show, Viewer(show) as viewer:
        await viewer.watch()
        assert (await show.client.delete(viewer.session_url)).status_code == 200
        assert show.viewers == 0
        assert (await show.client.delete(viewer.session_url)).status_code == 404


async def test_why_there_is_no_answer_is_read_also_where_whoever_asked_has_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, unread = asyncio.Event(), list[dict[str, Any]]()

    async def hang(peer: viewer_peer.ViewerPeer, offer: str) -> str:
        asked.set()
        return await asyncio.Future()

    monkeypatch.setattr(viewer_peer.ViewerPeer, "answer", hang)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unread.append(context))
    async with theatre() as show, Viewer(show) as viewer:
        asking = asyncio.create_task(show.output.watch(await viewer.peer.offer(), lambda address: True))
        await asked.wait()
        asking.cancel()
        await asyncio.wait((asking,))
        show.units.finish()
        await show.until_viewers(0)
    gc.collect()
    assert unread == []


async def test_a_track_that_is_ready_while_its_connection_is_closed_keeps_nothing_going(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    close = viewer_peer.ViewerPeer.__aexit__

    async def finish_and_close(peer: viewer_peer.ViewerPeer, *error: Any) -> None:
        # As a hand-shake does that ends while the connection is being closed.
        for sender in peer.senders:
            peer._on_ready(sender)
        await close(peer, *error)

    monkeypatch.setattr(viewer_peer.ViewerPeer, "__aexit__", finish_and_close)
    async with theatre() as show, Viewer(show) as viewer:
        await viewer.watch()
        await (await viewer.sink("video")).arrived(1)
        await show.client.delete(viewer.session_url)
        assert show.output._senders == {"audio": [], "video": []}


async def test_a_viewer_that_never_reads_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    # One that reads says so within 1.5 s (RFC 3550 §6.2, as aiortc has it).
    monkeypatch.setattr(viewer_peer, "UNREAD_S", 2.5)
    monkeypatch.setattr(whep, "LOOK_S", 0.1)
    async with theatre() as show, Viewer(show) as silent, StockViewer("audio", "video") as other:
        await other.take((await show.post(await other.offer())).text)
        await silent.watch()
        await (await silent.sink("video")).arrived(1)
        silent.vanish()
        await show.until_viewers(1)
        # One that reports what it has got is there at the end.
        await other.decoded(1)


async def test_the_end_of_the_session_is_told_to_every_viewer() -> None:
    async with theatre() as show, Viewer(show) as first, Viewer(show) as second:
        for viewer in (first, second):
            await viewer.watch()
            await (await viewer.sink("video")).arrived(1)
        show.units.finish()
        async with asyncio.timeout(5):
            await show.running
            for viewer in (first, second):
                await viewer.peer._gone.wait()
        assert show.viewers == 0
        assert (await show.post("v=0\r\n")).status_code == 503


async def test_nine_viewers_leave_no_task_socket_or_timer() -> None:
    async with theatre() as show:
        async with Viewer(show) as viewer:  # what is made once for the process
            await viewer.watch()
        await show.client.aclose()
        await show.until_viewers(0)
        gc.collect()
        before = asyncio.all_tasks(), open_files()
        for index in range(3):
            async with httpx.AsyncClient(trust_env=False) as show.client:
                viewers = [Viewer(show) for _ in range(3)]
                await asyncio.gather(*(viewer.watch() for viewer in viewers))
                if index % 2:
                    await (await viewers[0].sink("video")).arrived(1)
                await asyncio.gather(*(viewer.__aexit__(None, None, None) for viewer in viewers))
                await show.until_viewers(0)
        async with asyncio.timeout(10):
            while tasks := asyncio.all_tasks() - before[0]:
                await asyncio.wait(tasks, timeout=0.1)
            while len(open_files()) > len(before[1]):  # the server's ends of HTTP connections
                await asyncio.sleep(0.1)
                gc.collect()
        assert not show.output._senders["video"] and not show.output._senders["audio"]


# ---------------------------------------------------------------------------------------------- refusals


async def test_an_offer_that_cannot_be_shown_anything_is_refused_with_its_reason() -> None:
    async with theatre() as show:
        offers = {}
        for name, viewer in {
            "good": StockViewer("audio", "video"),
            "vp8": StockViewer("audio", "video", codecs=("opus", "VP8")),
            "g711": StockViewer("audio", codecs=("PCMU", "PCMA")),
        }.items():
            async with viewer:
                offers[name] = await viewer.offer()
        good = offers["good"]
        for offer, status, reason in (
            (offers["vp8"], 406, "and the offer has vp8"),
            (offers["g711"], 406, "the sound here is Opus, and the offer has pcmu, pcma"),
            (good.replace("packetization-mode=1", "packetization-mode=0"), 406, "in packetization-mode 0 alone"),
            (good.replace("a=recvonly", "a=sendonly"), 422, "the offer receives nothing"),
            (good.replace("m=audio", "m=text").replace("m=video", "m=text"), 422, "neither sound nor pictures"),
            (good.replace("a=fingerprint", "a=x"), 422, "no DTLS fingerprint"),
            (good + good[good.index("m=video") :], 406, "2 tracks of pictures, and there is one"),
            ("", 400, "no session description"),
            (good + "a=x:" + "y" * (128 << 10), 413, "more than 131072 bytes"),
        ):
            answer = await show.post(offer)
            assert (answer.status_code, reason in answer.json()["detail"]) == (status, True), answer.text
        assert (await show.post(good, Content_Type="text/plain")).headers["accept-post"] == "application/sdp"
        assert (await show.post(good, Content_Type="text/plain")).status_code == 415
        assert (await show.post(good, Accept="application/json")).status_code == 406
        assert show.viewers == 0


async def test_viewers_beyond_the_limit_are_told_when_to_come_again() -> None:
    async with theatre(max_viewers=1) as show, Viewer(show) as viewer, StockViewer("video") as late:
        await viewer.watch()
        offer = await late.offer()
        answers = [await show.post(offer) for _ in range(20)]
        assert {answer.status_code for answer in answers} == {503}
        assert (answers[0].headers["retry-after"], answers[0].json()["detail"]) == (
            "10",
            "1 viewers watch, which is the limit",
        )
        await (await viewer.sink("video")).arrived(10)
        await show.client.delete(viewer.session_url)
        assert (await show.post(offer)).status_code == 201


async def test_before_the_first_picture_viewers_are_asked_to_wait() -> None:
    async with theatre(is_playing=False) as show, StockViewer("video") as viewer:
        answer = await show.post(await viewer.offer())
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_the_endpoint_says_what_it_takes_and_which_ice_servers_there_are() -> None:
    links = ['<stun:stun.example.com>; rel="ice-server"', '<turn:turn.example.com>; rel="ice-server"; username="me"']
    async with theatre(ice_links=links) as show, Viewer(show) as viewer:
        answer = await show.client.options(show.url)
        assert (answer.status_code, answer.headers["accept-post"]) == (200, "application/sdp")
        assert answer.headers.get_list("link") == links
        await viewer.watch()
        assert viewer.answer is not None and viewer.answer.headers.get_list("link") == links
        for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE"):
            assert (await show.client.request(method, show.url)).status_code == 405, method
        for elsewhere in ("leo/whep/nobody", "leo/whep/archive", "mia/whep/stage"):
            answer = await show.client.options(f"{show.origin}/v1/sessions/{elsewhere}")
            assert answer.status_code == 404, elsewhere


async def test_candidates_may_come_later_and_there_is_no_ice_restart() -> None:
    async with theatre() as show, Viewer(show) as viewer:
        await viewer.watch()
        assert viewer.answer is not None
        assert "a=ice-options:trickle" in viewer.answer.text
        etag = viewer.answer.headers["etag"]
        body = "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\na=candidate:1 1 udp 1 127.0.0.1 9 typ host\r\n"
        for headers, content, status in (
            (FRAGMENT, body, 428),
            (FRAGMENT | {"If-Match": '"another"'}, body, 412),
            ({"If-Match": etag}, body, 415),
            (FRAGMENT | {"If-Match": etag}, "what is this", 400),
            (FRAGMENT | {"If-Match": "*"}, "a=ice-ufrag:other\r\na=ice-pwd:0123456789012345678901", 422),
            (FRAGMENT | {"If-Match": etag}, body, 204),
        ):
            given = await show.client.patch(viewer.session_url, headers=headers, content=content)
            assert given.status_code == status, (headers, given.text)
        given = await show.client.patch(show.url + "/unknown", headers=FRAGMENT | {"If-Match": etag}, content=body)
        assert given.status_code == 404


async def test_only_a_token_for_viewing_shows_anything() -> None:
    async with theatre(tokens=True) as show, Viewer(show) as viewer:
        for authorization, status in (("", 401), ("Bearer wrong", 401), (f"Bearer {OTHER_TOKEN}", 403)):
            assert (await show.post("v=0\r\n", Authorization=authorization)).status_code == status
        await viewer.watch()
        for method in ("PATCH", "DELETE"):
            answer = await show.client.request(method, viewer.session_url, headers={"Authorization": ""})
            assert answer.status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Host": "evil.example"}, 400),
        ({"Origin": "http://localhost:3000", "Sec_Fetch_Site": "cross-site"}, 400),  # it is the offer that is none
    ],
)
async def test_pages_of_allowed_hosts_may_play_and_no_others(headers: dict[str, str], status: int) -> None:
    async with theatre() as show:
        answer = await show.post("no offer", **headers)
        assert answer.status_code == status
        is_allowed = "localhost" in headers.get("Origin", "")
        assert answer.headers.get("access-control-allow-origin") == ("http://localhost:3000" if is_allowed else None)


@pytest.mark.parametrize(("origin", "status"), [("http://localhost:3000", 200), ("https://evil.example", 400)])
async def test_a_preflight_needs_no_token_and_is_answered_for_the_paths_of_viewers_alone(
    origin: str, status: int
) -> None:
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
        "Authorization": "",
    }
    async with theatre(tokens=True) as show:
        answer = await show.client.options(show.url, headers=asked)
        assert answer.status_code == status
        assert ("access-control-allow-origin" in answer.headers) == (status == 200)
        elsewhere = await show.client.options(f"{show.origin}/v1/sessions/leo/whip/host", headers=asked)
        assert elsewhere.status_code in (401, 403)


async def test_a_public_listener_sends_no_checks_into_private_networks() -> None:
    offer = "a=candidate:1 1 udp 1 10.0.0.7 9 typ host\r\na=candidate:1 1 udp 1 127.0.0.1 9 typ host\r\n"
    async with theatre(tokens=True, listen="0.0.0.0") as show, StockViewer("video") as viewer:
        answer = await show.post(await viewer.offer() + offer)
        assert answer.status_code == 201
        (watching,) = show.output._viewers
        assert not watching.peer._candidates.addresses and watching.peer.rejected_candidates >= 3
    assert Reach(UrlPolicy())("8.8.8.8") and not Reach(UrlPolicy())("10.0.0.7")
