"""The media of one session: which connection carries it, and what may befall it."""

import asyncio
import math
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.local_avatar.transmission import MAX_QUEUED_UNITS, drifting_clock
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.h264 import decoder_configuration, join_avcc
from bridge.protocols import navtalk
from bridge.protocols.navtalk_json import dump
from tests.unit.local_avatar.scripted import (
    LEO,
    LONG,
    FakePeer,
    FakePerformer,
    FakeSocket,
    no_media,  # noqa: F401  a fixture of this module
    serve,
    serving,
    settle,
)

ANSWER = dump(navtalk.Answer("answer"))
SPS, PPS, SLICE = b"\x67\x42\xe0\x1f", b"\x68\xce", b"\x65slice"
CANDIDATE = navtalk.Candidate("candidate:1 1 udp 1 127.0.0.1 9 typ host", "0", 0)


async def test_the_performance_begins_with_the_connection() -> None:
    async with serving():
        assert "run" not in FakePerformer.made.did
    async with serving([ANSWER]):
        assert FakePerformer.made.did[-1] == "run"
        assert not FakePerformer.made.paused


async def test_a_client_that_answers_before_the_offer_gets_an_error() -> None:
    socket, session = await serve(LEO, [ANSWER], "no-offer")
    assert navtalk.Failed("an answer, and no offer that waits for one") in socket.got
    assert session.unreadable_frames == 1


async def test_every_connection_is_closed_with_the_session() -> None:
    async with serving([ANSWER], "duplicate-offers:0"):
        assert [peer.is_open for peer in FakePeer.made] == [True, True]
    assert [peer.is_open for peer in FakePeer.made] == [False, False]


async def test_candidates_go_to_the_connection_offered_last() -> None:
    await serve(LEO, [ANSWER, dump(CANDIDATE)])
    assert FakePeer.made[0].took == ["answer", (CANDIDATE.candidate, "0", 0)]


async def test_answers_find_their_connections_when_two_are_offered_and_one_is_renegotiated() -> None:
    async with serving([ANSWER], "duplicate-offers:0", "renegotiate:0") as socket:
        assert offers(socket)[1:] == ["offer 1 with candidates", "further offer"]
        await socket.say(dump(navtalk.Answer("about 0")), dump(navtalk.Answer("another")))
        first, second = FakePeer.made
        assert (first.took, second.took) == (["answer", "about 0"], ["another"])


async def test_no_further_offer_is_made_while_one_waits_for_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakePeer, "is_stable", property(lambda _: False, lambda *_: None), raising=False)
    async with serving([ANSWER], "renegotiate:0") as socket:
        assert len(offers(socket)) == 1


async def test_a_further_offer_of_the_client_is_answered_on_its_connection() -> None:
    async with serving([ANSWER, dump(navtalk.Offer("H264 about 0"))]) as socket:
        assert socket.got[-1] == navtalk.Answer("answer")
        assert len(FakePeer.made) == 1
        await socket.say(dump(navtalk.Offer("VP9 about 0")))
        assert socket.got[-1] == navtalk.Failed("the offer takes no H264 video")
        assert FakePeer.made[0].is_open


async def test_candidates_go_to_the_newest_connection() -> None:
    async with serving([ANSWER], "duplicate-offers:0") as socket:
        await socket.say(dump(CANDIDATE))
        assert [len(peer.took) for peer in FakePeer.made] == [1, 1]


async def test_a_client_that_does_not_answer_loses_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.local_avatar.transmission.CONNECT_S", 0.0)
    monkeypatch.setattr("bridge.local_avatar.transmission.MEDIA_GRACE_S", 0.0)
    with capture_logs() as logs:
        socket, _ = await serve(LEO, LONG)
    [lost] = [entry for entry in logs if entry["event"] == "avatar_media_lost"]
    assert lost["reason"] == "no answer to an offer within 10 s"
    assert not FakePeer.made[0].is_open and socket.closed == (1000, "")


# ---------------------------------------------------------------------------------------------- signalling


async def test_the_offer_holds_all_candidates_by_default() -> None:
    socket, _ = await serve()
    assert offers(socket) == ["offer 0 with candidates"]
    assert navtalk.Candidate not in socket.got_types()


@pytest.mark.parametrize(
    ("faults", "messages"),
    [
        (["trickle-only"], [navtalk.Offer, navtalk.Candidate]),
        (["early-candidates"], [navtalk.Candidate, navtalk.Offer]),
        (["early-candidates", "trickle-only"], [navtalk.Candidate, navtalk.Offer, navtalk.Candidate]),
    ],
)
async def test_candidates_may_come_outside_the_offer(faults: list[str], messages: list[type]) -> None:
    socket, _ = await serve(LEO, [], *faults)
    assert [kind for kind in socket.got_types() if kind in (navtalk.Offer, navtalk.Candidate)] == messages
    assert offers(socket) == ["offer 0"]


async def test_a_second_offer_takes_over_once_its_connection_is_up() -> None:
    async with serving([ANSWER], "duplicate-offers:0") as socket:
        first, second = FakePeer.made
        assert offers(socket) == ["offer 0 with candidates", "offer 1 with candidates"]
        assert first.is_open and not second.is_connected
        await second.accept("answer")
        await settle()
        assert second.is_open and not first.is_open
        assert not FakePerformer.made.paused
        assert FakePerformer.made.did.count("keyframe") == 2


async def test_the_first_connection_stays_open_until_the_second_can_have_been_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bridge.local_avatar.transmission.HANDOVER_S", 60.0)
    async with serving([ANSWER], "duplicate-offers:0"):
        first, second = FakePeer.made
        await second.accept("answer")
        await settle()
        assert first.is_open
        FakePerformer.made.show(picture())
        await settle()
        assert (len(first.did), len(second.did)) == (0, 1)


async def test_a_further_offer_on_the_same_connection_is_made_and_its_answer_taken() -> None:
    async with serving([ANSWER], "renegotiate:0") as socket:
        assert offers(socket)[1:] == ["further offer"]
        assert len(FakePeer.made) == 1


async def test_an_offer_of_the_clients_is_answered_on_a_connection_of_its_own() -> None:
    async with serving([dump(navtalk.Offer("H264"))], "no-offer") as socket:
        assert socket.got[-1] == navtalk.Answer("answer")
        assert FakePerformer.made.did[-1] == "run"


async def test_an_offer_that_cannot_be_answered_leaves_the_session_and_no_connection() -> None:
    async with serving([dump(navtalk.Offer("VP9")), dump(navtalk.ResponseCreate())], "no-offer") as socket:
        assert navtalk.Failed("the offer takes no H264 video") in socket.got
        assert navtalk.AvatarTranscript("Hello, I am Leo.", "response-1") in socket.got
        assert not FakePeer.made[0].is_open


async def test_media_that_is_closed_leaves_the_session_and_comes_back_with_the_clients_offer() -> None:
    sends = [ANSWER, *[dump(navtalk.AudioClear())] * 5, dump(navtalk.Offer("H264"))]
    async with serving(sends, "media-close:0") as socket:
        closed, opened = FakePeer.made
        assert opened.is_open and not closed.is_open
        assert socket.got[-1] == navtalk.Answer("answer")
        assert not FakePerformer.made.paused


@pytest.mark.parametrize("is_lost", [True, False], ids=["lost", "closed"])
async def test_without_a_connection_the_performance_pauses(is_lost: bool) -> None:
    async with serving([ANSWER], *(() if is_lost else ["media-close:0"])) as socket:
        if is_lost:
            FakePeer.made[0].lose()
            await settle()
        assert FakePerformer.made.paused
        assert not FakePeer.made[0].is_open
        assert socket.closed is None


async def test_a_client_that_lost_its_media_and_brings_none_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.local_avatar.transmission.MEDIA_GRACE_S", 0.0)
    async with serving([ANSWER]) as socket:
        FakePeer.made[0].lose()
        await settle()
        assert socket.closed == (1000, "")


@pytest.mark.parametrize("n_turns", range(4))
async def test_a_connection_that_is_lost_in_the_moment_in_which_its_session_ends_holds_nobody_up(n_turns: int) -> None:
    async with serving([ANSWER]):
        (media,) = (task for task in asyncio.all_tasks() if task.get_name() == "avatar-media")
        FakePeer.made[0].lose()
        for _ in range(n_turns):
            await asyncio.sleep(0)
        media.cancel()
        await settle()
        assert media.done()


# ---------------------------------------------------------------------------------------------- media


def offers(socket: FakeSocket) -> list[str]:
    return [event.sdp for event in socket.got if isinstance(event, navtalk.Offer)]


def picture(pts_ns: int = 0, *, codec: Codec = Codec.H264, is_keyframe: bool = True) -> AccessUnit:
    if codec is Codec.VP8:
        return AccessUnit(codec, b"frame", pts_ns, is_keyframe=is_keyframe)
    config = decoder_configuration(SPS, PPS) if is_keyframe else b""
    return AccessUnit(codec, join_avcc([SLICE]), pts_ns, is_keyframe=is_keyframe, codec_config=config)


async def sent(*units: AccessUnit, faults: tuple[str, ...] = ()) -> list[Any]:
    """What the connection is given to send, of these units of the performer."""
    async with serving([ANSWER], *faults):
        for unit in units:
            (FakePerformer.made.say if unit.codec is Codec.OPUS else FakePerformer.made.show)(unit)
        await settle()
    return FakePeer.made[0].did


async def test_pictures_are_sent_with_their_parameter_sets_and_sound_as_it_is() -> None:
    sound = AccessUnit(Codec.OPUS, b"opus", 20)
    assert await sent(picture(0), sound, picture(40, is_keyframe=False)) == [
        ("video", [SPS, PPS, SLICE], 0),
        ("audio", b"opus", 20),
        ("video", [SLICE], 40),
    ]


async def test_a_client_is_sent_nothing_that_refers_to_what_it_does_not_have() -> None:
    assert await sent(picture(0, is_keyframe=False), picture(40)) == [("video", [SPS, PPS, SLICE], 40)]


async def test_too_much_that_waits_is_dropped_up_to_the_next_keyframe() -> None:
    units = [picture(n, is_keyframe=n in (0, MAX_QUEUED_UNITS + 5)) for n in range(MAX_QUEUED_UNITS + 6)]
    assert [pts_ns for _, _, pts_ns in await sent(*units)] == [MAX_QUEUED_UNITS + 5]
    assert FakePerformer.made.did.count("keyframe") == 2


async def test_vp8_only_offers_and_sends_vp8() -> None:
    assert await sent(picture(0, codec=Codec.VP8), faults=("vp8-only",)) == [("vp8", b"frame", 0)]
    assert FakePeer.made[0].options["codec"] is Codec.VP8
    assert FakePerformer.made.options.codec is Codec.VP8


# ---------------------------------------------------------------------------------------------- faults of media


async def test_a_media_stall_pauses_the_performance_and_keeps_the_session() -> None:
    async with serving([ANSWER], "media-stall:0") as socket:
        assert FakePerformer.made.paused
        assert FakePeer.made[0].is_open
        assert socket.closed is None


@pytest.mark.parametrize(("faults", "n_asked"), [((), 2), (("ignore-pli",), 1)])
async def test_keyframe_requests_reach_the_performer_unless_they_are_ignored(
    faults: tuple[str, ...], n_asked: int
) -> None:
    async with serving([ANSWER], *faults):
        FakePeer.made[0].ask_for_keyframe()
        assert FakePerformer.made.did.count("keyframe") == n_asked


@pytest.mark.parametrize(
    ("before_px", "after_px"), [((180, 320), (320, 180)), ((640, 360), (360, 640)), ((320, 320), (160, 320))]
)
async def test_a_size_change_turns_the_picture(before_px: tuple[int, int], after_px: tuple[int, int]) -> None:
    async with serving([ANSWER], "size-change:0", size_px=before_px):
        options = FakePerformer.made.options
        assert (options.width_px, options.height_px) == after_px


async def test_size_and_profile_may_change_together() -> None:
    async with serving([ANSWER], "size-change:0", "sps-change:0", size_px=(180, 320)):
        options = FakePerformer.made.options
        assert (options.width_px, options.profile) == (320, "main")


async def test_timestamps_jump_on_each_track_by_another_time() -> None:
    async with serving([ANSWER], "timestamp-reset:0"):
        jumps = {kind: ticks for _, kind, ticks in FakePeer.made[0].did}
        assert jumps["video"] / 90_000 != jumps["audio"] / 48_000


async def test_an_ssrc_change_restarts_both_tracks() -> None:
    async with serving([ANSWER], "ssrc-change:0"):
        assert FakePeer.made[0].did == [("restart", "video"), ("restart", "audio")]


@pytest.mark.parametrize(
    ("fault", "first_report_s"), [("no-reports", math.inf), ("late-reports:2.5", 2.5), ("trickle-only", 0.0)]
)
async def test_reports_come_when_the_fault_says(fault: str, first_report_s: float) -> None:
    await serve(LEO, [], fault)
    assert FakePeer.made[0].options["first_report_s"] == first_report_s


@pytest.mark.parametrize(
    ("faults", "n_sent"), [(["loss:100"], 0), (["reorder:100"], 0), (["loss:100", "reorder:5"], 0), (["loss:0"], 1)]
)
async def test_packets_are_lost_and_held_back(faults: list[str], n_sent: int) -> None:
    await serve(LEO, [], *faults)
    impair = FakePeer.made[0].options["impairment"] or (lambda packet: [packet])
    assert len(impair(b"packet")) == n_sent


@pytest.mark.parametrize(("fault", "delay_s"), [("video-delay", 0.08), ("video-delay:0.2", 0.2), ("loss", 0.0)])
async def test_pictures_travel_longer(fault: str, delay_s: float) -> None:
    await serve(LEO, [], fault)
    assert FakePeer.made[0].options["video_delay_s"] == delay_s


async def test_a_drifting_clock_is_that_of_performer_and_reports() -> None:
    await serve(LEO, [], "clock-drift:-500")
    assert FakePeer.made[0].options["clock"].monotonic_ns is FakePerformer.made.now_ns


@pytest.mark.parametrize(("ppm", "gained_ns"), [(100, 100_000), (-50, -50_000), (0, 0)])
def test_a_clock_gains_what_it_drifts(ppm: float, gained_ns: int) -> None:
    now = [5_000_000_000]
    clock = drifting_clock(ppm, lambda: now[0])
    assert clock() == 5_000_000_000
    now[0] += 1_000_000_000
    assert clock() - now[0] == gained_ns
