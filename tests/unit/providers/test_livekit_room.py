"""A stay in a LiveKit room, with a server that says what a test wants: over a real socket, without media."""

import asyncio
import time
from http import HTTPStatus
from typing import Any

import pytest
from livekit.protocol import models, rtc

from bridge.errors import ProviderRejected, ProviderUnavailable, RemoteProtocolError
from bridge.net.ice import IceSettings
from bridge.protocols.livekit_room import Choice
from bridge.providers import livekit, livekit_room
from bridge.providers.heygen_lives import Room
from bridge.providers.livekit import LiveKitOptions, LiveKitProvider
from bridge.redact import Secret
from tests.unit.providers.livekit_server import (
    API_SECRET,
    AVATAR,
    EventfulListener,
    RoomServer,
    entry_to,
    joined,
    staying,
    token_until,
    update,
)

REASON, ACTION = models.DisconnectReason, rtc.LeaveRequest.Action
GONE = models.ParticipantInfo(sid="PA_leo", identity="leo", state=models.ParticipantInfo.State.DISCONNECTED)


async def test_the_avatar_is_subscribed_to_and_announced() -> None:
    async with RoomServer(joined(AVATAR)).serving() as server, staying(server) as stay:
        await stay.listener.until(lambda: stay.listener.links)
        await server.until(lambda: server.heard("subscription"))
        assert sorted(server.heard("subscription")[0].track_sids) == ["TR_a", "TR_v"]
    await server.until(lambda: server.heard("leave"))
    assert server.heard("leave")[0].reason == REASON.CLIENT_INITIATED


async def test_both_kinds_of_ping_are_sent() -> None:
    async with RoomServer(joined(AVATAR)).serving() as server, staying(server):
        await server.until(lambda: server.heard("ping") and server.heard("ping_req"))


async def test_an_avatar_that_joins_late_leaves_and_returns_is_announced_each_time() -> None:
    async with RoomServer(joined()).serving() as server, staying(server) as stay:
        await server.until(lambda: server.heard("ping"))
        assert not stay.listener.links
        await server.say(update(AVATAR))
        await stay.listener.until(lambda: len(stay.listener.links) == 1)
        await server.say(update(GONE))
        await server.until(lambda: len(server.heard("subscription")) == 2)
        with pytest.raises(ProviderUnavailable, match="has left"):
            await stay.listener.links[0].send_audio(bytes(2))
        await server.say(update(AVATAR))
        await stay.listener.until(lambda: len(stay.listener.links) == 2)
        await stay.listener.links[1].send_audio(bytes(2))


async def test_a_room_without_an_avatar_is_left_and_says_who_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(livekit_room, "AVATAR_S", 0.05)
    guest = models.ParticipantInfo(sid="PA_g", identity="guest")
    async with RoomServer(joined(guest)).serving() as server, staying(server) as stay:
        error = await stay.outcome()
    assert isinstance(error, ProviderUnavailable) and error.reason == "absent"
    assert "there is no avatar in it" in str(error) and "in the room: guest" in str(error)


async def test_an_avatar_in_an_unknown_codec_is_named_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(livekit_room, "AVATAR_S", 0.05)
    video = models.TrackInfo(
        sid="TR_v", type=models.TrackType.VIDEO, source=models.TrackSource.CAMERA, mime_type="video/AV1"
    )
    av1 = models.ParticipantInfo(sid="PA_leo", identity="leo", tracks=[video])
    async with RoomServer(joined(av1)).serving() as server, staying(server) as stay:
        error = await stay.outcome()
        assert server.heard("subscription") == []
    assert "nothing that can be received (H.264 or VP8" in str(error)


async def test_an_avatar_that_does_not_return_ends_the_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(livekit_room, "RETURN_S", 0.05)
    async with RoomServer(joined(AVATAR)).serving() as server, staying(server) as stay:
        await stay.listener.until(lambda: stay.listener.links)
        await server.say(update(GONE))
        error = await stay.outcome()
    assert isinstance(error, ProviderUnavailable) and error.reason == "absent"


@pytest.mark.parametrize(
    "status, words, kind",
    [
        (HTTPStatus.UNAUTHORIZED, "check avatar.api_key and avatar.api_secret", ProviderRejected),
        (HTTPStatus.NOT_FOUND, "check avatar.url: no LiveKit server answers there", ProviderRejected),
        (HTTPStatus.TOO_MANY_REQUESTS, "not available now", ProviderUnavailable),
        (HTTPStatus.SERVICE_UNAVAILABLE, "not available now", ProviderUnavailable),
    ],
)
async def test_a_refusal_at_the_door_says_who_has_to_act(status: HTTPStatus, words: str, kind: type[Exception]) -> None:
    server = RoomServer()
    server.refusal = (status, "the server's own words\n")
    async with server.serving(), staying(server) as stay:
        error = await stay.outcome()
    assert type(error) is kind
    assert words in str(error) and 'it says "the server\'s own words"' in str(error)


@pytest.mark.parametrize(
    "leave, kind, words",
    [
        (rtc.LeaveRequest(reason=REASON.DUPLICATE_IDENTITY), ProviderRejected, "use each once"),
        (rtc.LeaveRequest(reason=REASON.PARTICIPANT_REMOVED), ProviderRejected, "removed this participant"),
        (rtc.LeaveRequest(reason=REASON.ROOM_DELETED), ProviderUnavailable, "room_deleted"),
        (rtc.LeaveRequest(reason=REASON.SERVER_SHUTDOWN, action=ACTION.RECONNECT), ProviderUnavailable, "shutdown"),
        (rtc.LeaveRequest(reason=REASON.MIGRATION, action=ACTION.RESUME), ProviderUnavailable, "migration"),
    ],
)
async def test_a_goodbye_says_who_has_to_act(leave: rtc.LeaveRequest, kind: type[Exception], words: str) -> None:
    async with RoomServer(joined(AVATAR), rtc.SignalResponse(leave=leave)).serving() as server:
        async with staying(server) as stay:
            error = await stay.outcome()
    assert type(error) is kind and words in str(error)


async def test_a_token_that_expires_in_the_middle_is_renewed_by_the_server() -> None:
    renewed = token_until(time.time() + 600)
    server = RoomServer(joined(AVATAR), rtc.SignalResponse(refresh_token=renewed))
    async with server.serving():
        entry = entry_to(server, token_until(time.time() + 1))
        async with staying(server, entry) as stay:
            await stay.listener.until(lambda: stay.listener.links)
            await server.close()
            assert "closed the connection (1000)" in str(await stay.outcome())
        async with staying(server, entry) as stay:
            await stay.listener.until(lambda: stay.listener.links)
    assert server.tokens[1] == renewed != server.tokens[0]


async def test_a_token_without_the_right_to_send_data_is_for_the_operator_to_replace() -> None:
    join = rtc.JoinResponse(participant=models.ParticipantInfo(sid="PA", identity="us"))
    join.participant.permission.can_subscribe = True
    async with RoomServer(rtc.SignalResponse(join=join)).serving() as server:
        async with staying(server, drive="worker") as stay:
            error = await stay.outcome()
    assert isinstance(error, ProviderRejected) and "does not grant canPublishData" in str(error)


async def test_a_server_that_begins_with_something_else_is_wrong() -> None:
    async with RoomServer(rtc.SignalResponse(pong=1)).serving() as server, staying(server) as stay:
        error = await stay.outcome()
    assert isinstance(error, RemoteProtocolError) and "answers with pong" in str(error)


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", "text"])
async def test_garbage_for_a_join_ends_the_stay_and_later_it_is_an_event(garbage: bytes | str) -> None:
    async with RoomServer(garbage).serving() as server, staying(server) as stay:
        assert isinstance(await stay.outcome(), RemoteProtocolError)
    async with RoomServer(joined(), garbage, update(AVATAR)).serving() as server, staying(server) as stay:
        await stay.listener.until(lambda: stay.listener.links)
        assert [event.type for event in stay.listener.told("malformed")] == ["signal"]


async def test_a_server_that_says_nothing_ends_the_stay() -> None:
    async with RoomServer().serving() as server, staying(server, step_s=0.5) as stay:
        assert "has said nothing for 0.5 s" in str(await stay.outcome())
    async with RoomServer(joined(AVATAR, ping_timeout=1, ping_interval=1)).serving() as server:
        async with staying(server) as stay:
            error = await stay.outcome()
    assert isinstance(error, ProviderUnavailable) and "nothing for 1 s" in str(error)


@pytest.mark.parametrize("echo_ms", [-(2**63), 2**63 - 1])
async def test_an_echo_of_no_ping_of_ours_says_nothing_of_the_way(echo_ms: int) -> None:
    pong = rtc.SignalResponse(pong_resp=rtc.Pong(last_ping_timestamp=echo_ms))
    async with RoomServer(joined(AVATAR, ping_interval=1), pong).serving() as server, staying(server) as stay:
        await server.until(lambda: len(server.heard("ping_req")) == 2)
        assert [ping.rtt for ping in server.heard("ping_req")] == [0, 0]
        assert stay.listener.links


async def test_times_that_are_none_are_replaced_by_what_servers_do() -> None:
    join = joined(AVATAR, ping_interval=-1, ping_timeout=-1)
    async with RoomServer(join).serving() as server, staying(server) as stay:
        await stay.listener.until(lambda: stay.listener.links)
        await server.say(update(GONE))
        await server.until(lambda: len(server.heard("subscription")) == 2)
        assert len(server.heard("ping_req")) == 1


@pytest.mark.parametrize(
    "status, words",
    [
        (HTTPStatus.UNAUTHORIZED, "check avatar.room.api_key and avatar.room.api_secret"),
        (HTTPStatus.NOT_FOUND, "check avatar.room.url"),
        (HTTPStatus.PAYMENT_REQUIRED, "check avatar.room.url and the token"),
    ],
)
async def test_a_refusal_names_the_keys_that_the_entry_was_configured_with(status: HTTPStatus, words: str) -> None:
    server = RoomServer()
    server.refusal = (status, "no")
    async with server.serving():
        room = Room(Secret.url(server.url), "studio", "key", Secret(API_SECRET), "us")
        async with staying(server, room.entry("us", may_publish=False)) as stay:
            assert words in str(await stay.outcome())


async def test_a_given_token_that_the_server_refuses_is_named() -> None:
    server = RoomServer()
    server.refusal = (HTTPStatus.UNAUTHORIZED, "no")
    async with server.serving(), staying(server, entry_to(server, token_until(time.time() + 60))) as stay:
        assert "check avatar.token;" in str(await stay.outcome())


async def test_who_interrupts_while_the_room_ends_is_not_told_of_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[asyncio.Task[None]] = []

    class EndingRoom:
        def __init__(self, entry: Any, choice: Any, ice: Any, stay: livekit_room.RoomListener, *_: Any, **__: Any):
            self._stay = stay

        def send(self, packet: models.DataPacket) -> None:
            """Nobody answers."""

        async def run(self) -> None:
            self._stay.on_presence("leo")
            await listener.links[0].interrupt()
            await asyncio.sleep(0)
            late.append(asyncio.create_task(listener.links[0].interrupt()))
            raise ProviderUnavailable("the room has ended")

    monkeypatch.setattr(livekit, "LiveKitRoom", EndingRoom)
    listener = EventfulListener()
    options = LiveKitOptions(entry=entry_to(RoomServer()), choice=Choice())
    with pytest.raises(ProviderUnavailable, match="the room has ended"):
        await LiveKitProvider(options, IceSettings()).run(listener)
    await late[0]


async def test_a_secret_that_the_server_repeats_at_the_end_is_not_shown() -> None:
    async with RoomServer(joined(AVATAR)).serving() as server, staying(server) as stay:
        await stay.listener.until(lambda: stay.listener.links)
        await server.close(API_SECRET)
        assert "closed the connection (1000 ***" in str(await stay.outcome())


async def test_our_own_successor_is_no_stranger() -> None:
    leave = rtc.SignalResponse(leave=rtc.LeaveRequest(reason=REASON.DUPLICATE_IDENTITY))
    async with RoomServer(joined(AVATAR)).serving() as server, staying(server) as first:
        await first.listener.until(lambda: first.listener.links)
        second = type(first)(first.provider, type(first.listener)())
        await second.listener.until(lambda: second.listener.links)
        await server.say(leave)
        error = await second.outcome()
    assert isinstance(error, ProviderUnavailable)
