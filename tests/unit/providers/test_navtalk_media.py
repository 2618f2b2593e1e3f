"""Offers, repeated and unusable ones, and how one peer connection takes over from another."""

from collections import Counter

import pytest
import structlog

from bridge.errors import ProviderUnavailable, RemoteProtocolError
from bridge.net.receiving_peer import MEDIA_LOST_S
from bridge.protocols import navtalk
from bridge.protocols.navtalk import End, Ended
from bridge.providers import navtalk_media
from bridge.providers.navtalk_knowledge import Knowledge
from tests.unit.providers.fakes import CONNECTED, HAND_SHAKE, FakePeer, Scene, scene, settled


def offer(sdp: str) -> navtalk.Offer:
    return navtalk.Offer(sdp)


async def on_air(it: Scene) -> FakePeer:
    """Bring the session to the point at which its first connection carries media."""
    await it.socket.say(*HAND_SHAKE, offer("first/1"))
    (peer,) = it.peers
    peer.connect("audio", "video")
    peer.carry("audio", b"a1")
    peer.carry("video", b"v1")
    return peer


async def offered_again(it: Scene) -> tuple[FakePeer, FakePeer]:
    old = await on_air(it)
    await it.socket.say(offer("second/1"))
    return old, it.peers[1]


async def lost(it: Scene) -> tuple[FakePeer, FakePeer]:
    """The connection on air is lost, and another one offered to the service."""
    old = await on_air(it)
    await old.lose()
    return old, it.peers[1]


def ours(it: Scene) -> list[str]:
    return [message["data"]["sdp"]["sdp"] for message in it.socket.sent_of(navtalk.Offer.TYPE)]


# ---------------------------------------------------------------------------------------------- offers


async def test_an_offer_waits_for_the_ice_servers_and_is_answered() -> None:
    async with scene() as it:
        await it.socket.say(offer("room/1"))
        assert it.answers == []
        await it.socket.say(CONNECTED)
        assert it.answers == ["answer to room/1"]


async def test_candidates_before_the_offer_reach_its_peer_and_are_bounded() -> None:
    async with scene() as it:
        early = [navtalk.Candidate(f"candidate {n}") for n in range(navtalk_media.MAX_EARLY_CANDIDATES + 1)]
        await it.socket.say(*early, offer("room/1"), navtalk.Candidate("late"))
        assert it.peers[0].candidates == [candidate.candidate for candidate in early[1:]] + ["late"]


async def test_candidates_that_precede_a_further_offer_reach_its_peer_too() -> None:
    async with scene() as it:
        await on_air(it)
        await it.socket.say(navtalk.Candidate("early"), offer("second/1"), navtalk.Candidate("late"))
        assert it.peers[1].candidates == ["early", "late"]
        await it.socket.say(offer("third/1"))
        assert it.peers[2].candidates == ["late"]


async def test_an_offer_that_continues_a_connection_is_answered_on_it() -> None:
    async with scene() as it:
        peer = await on_air(it)
        await it.socket.say(offer("first/2"))
        assert it.answers == ["answer to first/1", "answer to first/2"]
        assert it.peers == [peer]


async def test_an_offer_that_continues_what_is_on_air_is_answered_there_beside_a_newer_one() -> None:
    async with scene() as it:
        old, new = await offered_again(it)
        await it.socket.say(offer("first/2"))
        assert old.offers == ["first/1", "first/2"]
        assert it.peers == [old, new]


async def test_the_first_offer_that_cannot_be_used_ends_the_session() -> None:
    async with scene() as it:
        await it.socket.say(CONNECTED, offer("VP8 only"))
        error = it.task.exception()
        assert isinstance(error, RemoteProtocolError)
        assert str(error) == "NavTalk at test: the offer has no H.264 video (it offers VP8)"
        assert error.reason == "media"


@pytest.mark.parametrize("sdp", ["VP8 only", "first/VP8"], ids=["new", "renegotiated"])
async def test_a_further_offer_that_cannot_be_used_leaves_what_is_on_air(sdp: str) -> None:
    async with scene() as it:
        old = await on_air(it)
        await it.socket.say(offer(sdp))
        old.carry("video", b"v2")
        assert it.listener.tracks[1][1].payloads == [b"v1", b"v2"]
        assert [event.type for event in it.listener.told("warning")] == [navtalk.Offer.TYPE]
        await it.socket.say(offer("third/1"))
        assert it.answers[-1] == "answer to third/1"


async def test_an_unusable_renegotiation_before_any_media_ends_the_session() -> None:
    async with scene() as it:
        await it.socket.say(CONNECTED, offer("first/1"))
        await it.socket.say(offer("first/VP8"))
        assert isinstance(it.task.exception(), RemoteProtocolError)


# ---------------------------------------------------------------------------------------------- handover


async def test_the_first_connection_shows_its_tracks_once_it_is_up() -> None:
    async with scene() as it:
        await it.socket.say(CONNECTED, offer("first/1"))
        it.peers[0].connect("audio", "video")
        assert it.listener.kinds == ["audio", "video"]
        it.peers[0].report("audio")
        assert it.listener.tracks[0][1].n_reports == 1


async def test_the_old_connection_goes_on_until_the_new_one_shows_a_picture() -> None:
    async with scene() as it:
        old, new = await offered_again(it)
        new.connect("audio", "video")
        new.carry("audio", b"too early")
        new.report("audio")
        old.carry("video", b"v2")
        await settled()
        assert it.listener.kinds == ["audio", "video"]
        assert it.listener.tracks[1][1].payloads == [b"v1", b"v2"]
        assert not old.is_closed
        new.carry("video", b"V1")
        new.carry("audio", b"A1")
        await settled()
        assert it.listener.kinds == ["audio", "video"] * 2
        assert [sink.payloads for _, sink in it.listener.tracks[2:]] == [[b"A1"], [b"V1"]]
        assert (old.is_closed, new.is_closed) == (True, False)


async def test_a_connection_without_pictures_takes_over_with_its_first_sound() -> None:
    async with scene() as it:
        old, new = await offered_again(it)
        new.connect("audio")
        new.carry("audio", b"A1")
        await settled()
        assert it.listener.kinds == ["audio", "video", "audio"]
        assert old.is_closed


async def test_a_track_that_replaces_one_is_shown_before_one_that_is_new() -> None:
    async with scene() as it:
        await it.socket.say(CONNECTED, offer("first/1"))
        it.peers[0].connect("video")
        it.peers[0].carry("video")
        await it.socket.say(offer("second/1"))
        it.peers[1].connect("audio", "video")
        it.peers[1].carry("video")
        assert it.listener.kinds == ["video", "video", "audio"]


async def test_only_the_newest_of_several_offers_counts() -> None:
    async with scene() as it:
        old, second = await offered_again(it)
        second.connect("audio", "video")
        await it.socket.say(offer("third/1"))
        assert (old.is_closed, second.is_closed) == (False, True)
        second.carry("video")
        assert it.listener.kinds == ["audio", "video"]
        it.peers[2].connect("audio", "video")
        it.peers[2].carry("video")
        await settled()
        assert (old.is_closed, it.peers[2].is_closed) == (True, False)
        assert it.listener.kinds == ["audio", "video"] * 2


async def test_a_connection_without_media_gives_way_at_once() -> None:
    async with scene() as it:
        await it.socket.say(CONNECTED, offer("first/1"))
        await it.socket.say(offer("second/1"))
        assert [peer.is_closed for peer in it.peers] == [True, False]
        it.peers[1].connect("audio", "video")
        assert it.listener.kinds == ["audio", "video"]


async def test_an_old_connection_that_ends_early_leaves_the_air_to_the_new_one() -> None:
    async with scene() as it:
        old, new = await offered_again(it)
        new.connect("audio")
        await old.lose()
        new.connect("video")
        assert it.listener.kinds == ["audio", "video", "audio", "video"]
        assert not it.task.done()
        await new.lose("no media connection after 10 s")
        assert "no media connection" in str(it.task.exception())


async def test_a_new_connection_that_fails_leaves_the_air_to_the_old_one() -> None:
    async with scene() as it:
        old, new = await offered_again(it)
        await new.lose("no media connection after 10 s")
        old.carry("video", b"v2")
        assert it.listener.tracks[1][1].payloads == [b"v1", b"v2"]
        assert [event.text for event in it.listener.told("warning")] == [
            "NavTalk at test: no media connection after 10 s"
        ]
        assert (old.is_closed, new.is_closed) == (False, True)
        await old.lose()
        assert ours(it) == ["offer of peer 2"]


async def test_what_was_rejected_is_counted_over_all_connections() -> None:
    async with scene() as it:
        old, new = await offered_again(it)
        old.datagrams_rejected["stray"] = 2
        new.connect("video")
        new.carry("video")
        await settled()
        new.datagrams_rejected.update(stray=1, oversized=1)
        assert it.session.datagrams_rejected == Counter(stray=3, oversized=1)
        assert it.session.media_path == "path 1"


# ---------------------------------------------------------------------------------------------- an offer of our own


async def test_a_lost_connection_is_replaced_by_one_that_we_offer() -> None:
    async with scene() as it:
        old, new = await lost(it)
        assert ours(it) == ["offer of peer 1"]
        assert old.is_closed
        assert (old.first_media_s, new.first_media_s) == (None, MEDIA_LOST_S)
        await it.socket.say(navtalk.Answer("answer of the service"))
        assert new.accepted == ["answer of the service"]
        new.connect("audio", "video")
        new.carry("video", b"V1")
        await settled()
        assert it.listener.kinds == ["audio", "video"] * 2
        assert it.listener.tracks[3][1].payloads == [b"V1"]
        assert not it.task.done()


@pytest.mark.parametrize(("unanswered_s", "offers"), [(600.0, (1, 0)), (0.0, (1, 1))])
async def test_a_service_that_leaves_our_offer_unanswered_is_not_asked_again_for_a_while(
    unanswered_s: float, offers: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(navtalk_media, "RECOVER_S", 0.0)
    monkeypatch.setattr(navtalk_media, "UNANSWERED_S", unanswered_s)
    knowledge = Knowledge()
    for n_offers in offers:
        async with scene(knowledge=knowledge) as it:
            await (await on_air(it)).lose()
            assert str(it.task.exception()) == "NavTalk at test: the far end closed the media connection"
            assert len(ours(it)) == n_offers


async def test_an_answer_that_cannot_be_used_ends_the_session_with_the_loss() -> None:
    async with scene() as it:
        await lost(it)
        await it.socket.say(navtalk.Answer("VP8 only"))
        assert "closed the media connection" in str(it.task.exception())
        assert it.knowledge.no_offer_before_s == 0.0


async def test_a_replacement_that_is_lost_without_media_ends_the_session_with_the_first_loss() -> None:
    async with scene() as it:
        _, new = await lost(it)
        await it.socket.say(navtalk.Answer("answer"))
        new.connect("video")
        await new.lose("the media connection failed")
        assert "the far end closed the media connection" in str(it.task.exception())


async def test_a_connection_that_never_carried_media_is_not_replaced() -> None:
    async with scene() as it:
        await it.socket.say(*HAND_SHAKE, offer("first/1"))
        await it.peers[0].lose()
        assert it.task.done()
        assert ours(it) == []


async def test_a_session_is_mended_so_many_times_and_no_more() -> None:
    async with scene() as it:
        await on_air(it)
        for n in range(navtalk_media.MAX_RECOVERIES):
            await it.peers[-1].lose()
            await it.socket.say(navtalk.Answer("answer"))
            it.peers[-1].connect("video")
            it.peers[-1].carry("video")
            assert len(ours(it)) == n + 1
        await it.peers[-1].lose()
        assert isinstance(it.task.exception(), ProviderUnavailable)


async def test_an_offer_of_the_service_takes_the_place_of_ours() -> None:
    async with scene() as it:
        _, abandoned = await lost(it)
        await it.socket.say(offer("second/1"), navtalk.Answer("too late"))
        assert abandoned.is_closed
        assert abandoned.accepted == []
        it.peers[2].connect("audio", "video")
        it.peers[2].carry("video")
        assert it.listener.kinds == ["audio", "video"] * 2
        assert it.knowledge.no_offer_before_s == 0.0


async def test_an_end_of_the_session_while_our_offer_waits_is_the_end() -> None:
    async with scene() as it:
        await lost(it)
        await it.socket.say(Ended(End.INSUFFICIENT_BALANCE))
        error = it.task.exception()
        assert getattr(error, "reason", "") == "insufficient_balance"


async def test_an_answer_that_nobody_awaits_is_ignored() -> None:
    with structlog.testing.capture_logs() as logged:
        async with scene() as it:
            await on_air(it)
            await it.socket.say(navtalk.Answer("v=0"))
            assert not it.task.done()
    assert [line["event"] for line in logged if line["log_level"] == "debug"] == ["avatar_service_answer_unexpected"]
