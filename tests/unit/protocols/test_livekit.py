"""LiveKit's signalling, tokens, rooms and data, as values."""

import time
from urllib.parse import parse_qs, urlsplit

import pytest
from livekit.protocol import models, rtc

from bridge.errors import RemoteProtocolError
from bridge.protocols import livekit
from bridge.protocols.livekit_data import (
    MAX_CHUNK_BYTES,
    MAX_STREAMS,
    Inbox,
    Outbox,
    StreamReader,
    StreamWriter,
    read_audio_attributes,
)
from bridge.protocols.livekit_room import ON_BEHALF, Choice, Room
from bridge.protocols.livekit_token import BadToken, Grant, mint, read, verify

SECRET = "a secret of more than 32 characters"
VIDEO, AUDIO = models.TrackType.VIDEO, models.TrackType.AUDIO
AGENT, STANDARD = models.ParticipantInfo.Kind.AGENT, models.ParticipantInfo.Kind.STANDARD


# ------------------------------------------------------------------------------------------- addresses and frames


@pytest.mark.parametrize(
    "given, expected",
    [
        ("wss://x.livekit.cloud", "wss://x.livekit.cloud/rtc"),
        ("https://x.livekit.cloud/", "wss://x.livekit.cloud/rtc"),
        ("http://127.0.0.1:7880/below/", "ws://127.0.0.1:7880/below/rtc"),
    ],
)
def test_the_address_of_the_socket_follows_from_that_of_the_server(given: str, expected: str) -> None:
    assert livekit.join_url(given).partition("?")[0] == expected


def test_whoever_joins_subscribes_to_nothing_by_itself_and_keeps_what_the_operator_adds() -> None:
    query = parse_qs(urlsplit(livekit.join_url("wss://x?region=eu&auto_subscribe=1")).query)
    assert query["auto_subscribe"] == ["0"]
    assert query["adaptive_stream"] == query["subscriber_allow_pause"] == ["0"]
    assert query["region"] == ["eu"]


@pytest.mark.parametrize("frame", ["{}", b"\xff\xff\xff\xff", b"\x0a\x80"])
def test_what_is_no_message_is_the_peers_mistake(frame: str | bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        livekit.parse(rtc.SignalResponse, frame)


def test_a_candidate_survives_the_way() -> None:
    message = livekit.trickle("candidate:1 1 udp 1 1.2.3.4 5 typ host", "0", 0, rtc.SignalTarget.SUBSCRIBER)
    assert livekit.read_candidate(message) == ("candidate:1 1 udp 1 1.2.3.4 5 typ host", "0", 0)
    assert livekit.read_candidate(rtc.TrickleRequest(final=True)) == ("", None, None)


@pytest.mark.parametrize("init", ["[]", "nonsense", '{"candidate": 5}', '{"sdpMLineIndex": "0"}'])
def test_a_candidate_that_is_none_is_the_peers_mistake(init: str) -> None:
    with pytest.raises(RemoteProtocolError):
        livekit.read_candidate(rtc.TrickleRequest(candidateInit=init))


def test_a_goodbye_says_whether_to_come_again() -> None:
    reason, action = models.DisconnectReason, rtc.LeaveRequest.Action
    assert livekit.may_return(rtc.LeaveRequest(reason=reason.SERVER_SHUTDOWN, action=action.RECONNECT))
    assert livekit.may_return(rtc.LeaveRequest(reason=reason.ROOM_DELETED))
    assert not livekit.may_return(rtc.LeaveRequest(reason=reason.DUPLICATE_IDENTITY))
    assert livekit.reason_name(reason.ROOM_DELETED) == "room_deleted"
    assert livekit.reason_name(250) == "250"


# ------------------------------------------------------------------------------------------- tokens


def test_a_token_says_what_was_put_into_it() -> None:
    grant = Grant("leo", "studio", "agent", may_publish=False, attributes={"a": "b"}, expires_s=2_000_000_000)
    token = mint(grant, "key", SECRET, 1_000_000_000)
    assert read(token) == verify(token, "key", SECRET, 1_000_000_000) == grant


@pytest.mark.parametrize(
    "key, secret, now_s, why",
    [
        ("key", "another " + SECRET, 1_000.0, "another secret"),
        ("other", SECRET, 1_000.0, "another API key"),
        ("key", SECRET, 3_000.0, "expired"),
    ],
)
def test_a_token_that_opens_nothing_says_why(key: str, secret: str, now_s: float, why: str) -> None:
    token = mint(Grant("leo", "studio", expires_s=2_000), "key", SECRET, 1_000)
    with pytest.raises(BadToken, match=why):
        verify(token, key, secret, now_s)


@pytest.mark.parametrize("token", ["", "a.b.c", "nonsense"])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(BadToken):
        read(token)
    with pytest.raises(BadToken):
        verify(token, "key", SECRET, time.time())


# ------------------------------------------------------------------------------------------- rooms


def track(sid: str, kind: int = VIDEO, mime: str = "", source: int | None = None, **more: object) -> models.TrackInfo:
    usual = models.TrackSource.CAMERA if kind == VIDEO else models.TrackSource.MICROPHONE
    return models.TrackInfo(
        sid=sid,
        type=kind,
        mime_type=mime,
        source=usual if source is None else source,
        **more,  # type: ignore[arg-type]
    )


def participant(sid: str, *tracks: models.TrackInfo, identity: str = "", **more: object) -> models.ParticipantInfo:
    return models.ParticipantInfo(sid=sid, identity=identity or sid.lower(), tracks=tracks, **more)  # type: ignore[arg-type]


def subscriptions(requests: list[rtc.SignalRequest]) -> list[tuple[bool, list[str]]]:
    asked = [request.subscription for request in requests if request.HasField("subscription")]
    return [(each.subscribe, list(each.track_sids)) for each in asked]


WORKER = participant("PA_w", track("TR_v", width=720, height=1280), track("TR_a", AUDIO), kind=AGENT)


def test_the_avatars_camera_and_microphone_are_subscribed_to_in_full_size() -> None:
    room = Room(Choice(), own_identity="us")
    requests = room.update([participant("PA_us", identity="us"), participant("PA_guest"), WORKER])
    assert room.avatar == WORKER
    assert subscriptions(requests) == [(True, ["TR_a", "TR_v"])]
    (size,) = [request.track_setting for request in requests if request.HasField("track_setting")]
    assert (list(size.track_sids), size.width, size.height) == (["TR_v"], 720, 1280)
    assert size.quality == models.VideoQuality.HIGH
    assert room.update([WORKER]) == []


@pytest.mark.parametrize(
    "choice, expected",
    [
        (Choice(identity="pa_b"), "PA_b"),
        (Choice(identity="pa_mute"), "PA_mute"),
        (Choice(kind="standard"), "PA_b"),
        (Choice(kind="agent"), "PA_on"),
        (Choice(), "PA_on"),
        (Choice(identity="nobody"), None),
    ],
)
def test_the_avatar_is_chosen_by_identity_or_kind(choice: Choice, expected: str | None) -> None:
    room = Room(choice)
    room.update(
        [
            participant("PA_mute", joined_at=9),
            participant("PA_a", track("TR_1"), kind=AGENT, joined_at=1),
            participant("PA_b", track("TR_2"), kind=STANDARD, joined_at=2),
            participant("PA_on", track("TR_3"), kind=AGENT, joined_at=1, attributes={ON_BEHALF: "agent"}),
        ]
    )
    assert (room.avatar.sid if room.avatar else None) == expected


def test_h264_goes_before_vp8_and_a_codec_that_nobody_here_knows_is_left_alone() -> None:
    room = Room(Choice())
    requests = room.update([participant("PA", track("TR_8", mime="video/VP8"), track("TR_4", mime="video/H264"))])
    assert subscriptions(requests) == [(True, ["TR_4"])]
    room = Room(Choice())
    assert room.update([participant("PA", track("TR_9", mime="video/VP9"))]) == []
    assert room.avatar is not None and not room.tracks and room.unusable == {"TR_9"}


def test_a_backup_codec_will_do() -> None:
    backup = models.SimulcastCodecInfo(mime_type="video/VP8")
    room = Room(Choice())
    room.update([participant("PA", track("TR_9", mime="video/AV1", codecs=[backup]))])
    assert room.tracks == {"video": "TR_9"}


def test_a_screen_is_no_face() -> None:
    room = Room(Choice())
    room.update([participant("PA", track("TR_s", source=models.TrackSource.SCREEN_SHARE), track("TR_c"))])
    assert room.tracks == {"video": "TR_c"}


def test_tracks_that_are_published_anew_replace_those_before() -> None:
    room = Room(Choice())
    room.update([WORKER])
    again = participant("PA_w", track("TR_v2"), track("TR_a2", AUDIO), kind=AGENT, version=2)
    assert subscriptions(room.update([again])) == [(False, ["TR_a", "TR_v"]), (True, ["TR_a2", "TR_v2"])]


def test_an_avatar_that_leaves_and_returns_is_found_again() -> None:
    room = Room(Choice())
    room.update([WORKER])
    gone = participant("PA_w", state=models.ParticipantInfo.State.DISCONNECTED)
    assert subscriptions(room.update([gone])) == [(False, ["TR_a", "TR_v"])]
    assert room.avatar is None and room.identities == []
    back = participant("PA_x", track("TR_n"), identity="pa_w")
    assert subscriptions(room.update([back])) == [(True, ["TR_n"])]


def test_news_that_were_overtaken_change_nothing() -> None:
    room = Room(Choice())
    room.update([participant("PA", track("TR_2"), version=2)])
    assert room.update([participant("PA", track("TR_1"), version=1)]) == []
    assert room.tracks == {"video": "TR_2"}


def test_an_identity_that_is_there_twice_is_the_newer_one() -> None:
    room = Room(Choice(identity="leo"))
    room.update([participant("PA_1", track("TR_1"), identity="leo", joined_at=1)])
    room.update([participant("PA_2", track("TR_2"), identity="leo", joined_at=2)])
    assert room.tracks == {"video": "TR_2"}


def test_a_track_that_proves_to_be_of_no_use_is_unsubscribed() -> None:
    room = Room(Choice())
    room.update([WORKER])
    assert subscriptions(room.reject(["TR_v", "TR_unknown"])) == [(False, ["TR_v"])]
    assert room.reject(["TR_v"]) == []
    assert room.tracks == {"audio": "TR_a"}


# ------------------------------------------------------------------------------------------- data


def test_packets_are_numbered_and_those_that_come_again_are_dropped() -> None:
    outbox, inbox = Outbox("leo", "PA_1"), Inbox()
    first, second = (outbox.pack(models.DataPacket(user=models.UserPacket(payload=b"x"))) for _ in range(2))
    assert inbox.take(first) is not None
    assert inbox.take(second) is not None
    assert inbox.take(first) is inbox.take(second) is None
    assert inbox.repeated == 2
    other = Outbox("mia", "PA_2").pack(models.DataPacket())
    assert inbox.take(other) is not None


def test_a_stream_is_cut_into_chunks_and_put_together_again() -> None:
    writer, reader = StreamWriter("s", ["worker"]), StreamReader()
    content = bytes(range(256)) * 120
    packets = [writer.header("lk.audio_stream", {"a": "b"}, 5), *writer.chunks(content), writer.trailer()]
    assert [len(packet.stream_chunk.content) for packet in packets[1:-1]] == [MAX_CHUNK_BYTES, MAX_CHUNK_BYTES, 720]
    assert all(list(packet.destination_identities) == ["worker"] for packet in packets)
    pieces = [piece for packet in packets for piece in reader.take(packet)]
    assert b"".join(piece.content for piece in pieces) == content
    assert [piece.is_end for piece in pieces] == [False, False, False, False, True]
    assert pieces[0].stream.topic == "lk.audio_stream" and pieces[0].stream.attributes == {"a": "b"}


def test_a_chunk_that_comes_again_is_dropped_and_one_that_is_missing_ends_the_stream() -> None:
    writer, reader = StreamWriter("s", []), StreamReader()
    header, chunks = writer.header("t", {}, 0), list(writer.chunks(bytes(4 * MAX_CHUNK_BYTES)))
    reader.take(header)
    assert len(reader.take(chunks[0])) == 1
    assert reader.take(chunks[0]) == []
    (ended,) = reader.take(chunks[2])
    assert ended.is_end and reader.broken == 1
    assert reader.take(chunks[3]) == reader.take(writer.trailer()) == []


def test_streams_that_nobody_ends_are_bounded() -> None:
    reader = StreamReader()
    for number in range(3 * MAX_STREAMS):
        reader.take(StreamWriter(str(number), []).header("t", {}, 0))
    assert reader.broken == 2 * MAX_STREAMS


def test_a_stream_in_one_packet_is_whole() -> None:
    header = models.DataStream.Header(stream_id="s", topic="t", inline_content=b"all")
    pieces = StreamReader().take(models.DataPacket(stream_header=header))
    assert [(piece.content, piece.is_end) for piece in pieces] == [(b"all", False), (b"", True)]


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"sample_rate": "24000"},
        {"sample_rate": "x", "num_channels": "1"},
        {"sample_rate": "1", "num_channels": "1"},
    ],
)
def test_speech_that_does_not_say_what_it_is_is_refused(attributes: dict[str, str]) -> None:
    with pytest.raises(RemoteProtocolError):
        read_audio_attributes(attributes)
