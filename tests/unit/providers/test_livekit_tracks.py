"""Which of several tracks of one kind is heard."""

from bridge.media.access_unit import Codec, Kind
from bridge.media.clock import NS_PER_MS
from bridge.media.rtp import RtpPacket
from bridge.ports import RemoteTrack, TrackSink
from bridge.providers.livekit_tracks import QUIET_NS, Tracks
from tests.unit.providers.fakes import Feedback, Listener


def track(kind: Kind) -> RemoteTrack:
    return RemoteTrack(kind, {96: Codec.H264}, Feedback())


def send(sink: TrackSink, payload: bytes, at_ns: int) -> None:
    sink.on_packet(RtpPacket(1, 96, 1, 1, True, payload, at_ns, False))


def heard(listener: Listener) -> list[tuple[Kind, list[bytes]]]:
    return [(kind, sink.payloads) for kind, sink in listener.tracks]


def test_each_kind_is_announced_once() -> None:
    listener = Listener()
    tracks = Tracks(listener.on_track)
    send(tracks.on_track(track("audio")), b"a", 1)
    send(tracks.on_track(track("video")), b"v", 1)
    assert heard(listener) == [("audio", [b"a"]), ("video", [b"v"])]


def test_a_new_track_ends_the_one_before_and_the_other_kind_follows_it() -> None:
    listener = Listener()
    tracks = Tracks(listener.on_track)
    sound, picture = tracks.on_track(track("audio")), tracks.on_track(track("video"))
    send(picture, b"old", 1)
    newer = tracks.on_track(track("video"))
    send(newer, b"new", 2)
    send(sound, b"sound", 2)
    send(picture, b"late", 2)
    assert listener.kinds == ["audio", "video", "video", "audio"]
    assert heard(listener)[2:] == [("video", [b"new"]), ("audio", [b"sound"])]


def test_a_section_that_is_used_again_is_heard_again_once_the_other_is_quiet() -> None:
    listener = Listener()
    tracks = Tracks(listener.on_track)
    first = tracks.on_track(track("video"))
    second = tracks.on_track(track("video"))
    send(second, b"2", 5 * NS_PER_MS)
    send(first, b"too early", 5 * NS_PER_MS + QUIET_NS - 1)
    send(first, b"again", 5 * NS_PER_MS + QUIET_NS)
    assert [payloads for _, payloads in heard(listener)] == [[], [b"2"], [b"again"]]
