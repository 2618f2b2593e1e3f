"""HLS playlists, to the letter."""

from datetime import UTC, datetime, timedelta

import pytest

from bridge.errors import RemoteProtocolError
from bridge.protocols.hls import MediaPlaylist, Segment, master_playlist, parse

START = datetime(2026, 11, 20, 21, 5, 9, 250_000, tzinfo=UTC)


def segment(number: int, duration_s: float = 2.0, *, init: str = "a.mp4", is_discontinuity: bool = False) -> Segment:
    return Segment(f"{number}.m4s", init, duration_s, START + timedelta(seconds=2 * number), is_discontinuity)


def filled(n_segments: int, window_s: float = 8.0) -> MediaPlaylist:
    playlist = MediaPlaylist(window_s, 2.0)
    for number in range(n_segments):
        playlist.append(segment(number))
    return playlist


def test_a_media_playlist_names_header_time_and_every_joint() -> None:
    playlist = MediaPlaylist(30.0, 3.0, sequence=7)
    playlist.append(segment(0))
    playlist.append(segment(1, 1.96))
    playlist.append(segment(2, init="b.mp4", is_discontinuity=True))
    playlist.is_ended = True

    assert playlist.text().splitlines() == [
        "#EXTM3U",
        "#EXT-X-VERSION:7",
        "#EXT-X-TARGETDURATION:3",
        "#EXT-X-MEDIA-SEQUENCE:7",
        "#EXT-X-DISCONTINUITY-SEQUENCE:0",
        "#EXT-X-INDEPENDENT-SEGMENTS",
        '#EXT-X-MAP:URI="a.mp4"',
        "#EXT-X-PROGRAM-DATE-TIME:2026-11-20T21:05:09.250Z",
        "#EXTINF:2.00000,",
        "0.m4s",
        "#EXT-X-PROGRAM-DATE-TIME:2026-11-20T21:05:11.250Z",
        "#EXTINF:1.96000,",
        "1.m4s",
        "#EXT-X-DISCONTINUITY",
        '#EXT-X-MAP:URI="b.mp4"',
        "#EXT-X-PROGRAM-DATE-TIME:2026-11-20T21:05:13.250Z",
        "#EXTINF:2.00000,",
        "2.m4s",
        "#EXT-X-ENDLIST",
    ]


def test_the_window_moves_and_files_go_a_window_later() -> None:
    playlist = MediaPlaylist(8.0, 2.0)
    gone = [[old.uri for old in playlist.append(segment(number))] for number in range(12)]

    assert [shown.uri for shown in playlist.segments] == [f"{number}.m4s" for number in range(8, 12)]
    assert (playlist.sequence, playlist.next_sequence) == (8, 12)
    assert gone == [[]] * 8 + [["0.m4s"], ["1.m4s"], ["2.m4s"], ["3.m4s"]]


def test_a_joint_that_leaves_the_window_is_counted() -> None:
    playlist = MediaPlaylist(6.0, 2.0)
    for number in range(8):
        playlist.append(segment(number, is_discontinuity=number in (2, 6)))
    assert playlist.discontinuity_sequence == 1
    assert playlist.text().count("#EXT-X-DISCONTINUITY\n") == 1


def test_a_segment_that_is_longer_than_was_promised_raises_the_promise_and_the_window() -> None:
    playlist = filled(3)
    playlist.append(segment(3, 5.5))
    for number in range(4, 20):
        playlist.append(segment(number))
    assert "#EXT-X-TARGETDURATION:6\n" in playlist.text()
    assert len(playlist.segments) == 9  # three times six seconds


@pytest.mark.parametrize("duration_s, target_s", [(2.4, 2), (2.5, 3), (3.5, 4)])
def test_durations_are_rounded_as_players_round(duration_s: float, target_s: int) -> None:
    assert MediaPlaylist(30.0, duration_s).target_s == target_s


def test_what_was_written_is_read_back() -> None:
    playlist = filled(9)
    playlist.append(segment(9, init="b.mp4", is_discontinuity=True))
    again = parse(playlist.text(), 8.0, 2.0)

    assert again.text() == playlist.text()
    assert list(again.segments) == list(playlist.segments)
    assert again.ends == START + timedelta(seconds=20)
    assert not again.is_ended
    playlist.is_ended = True
    assert parse(playlist.text(), 8.0, 2.0).is_ended


def test_a_new_stream_goes_on_counting() -> None:
    playlist = filled(3)
    playlist.forget()
    assert (playlist.sequence, playlist.ends, len(playlist.segments)) == (3, None, 0)
    assert [old.uri for old in playlist.expired] == ["0.m4s", "1.m4s", "2.m4s"]


@pytest.mark.parametrize(
    "text",
    ["", "#EXTM3U\n", filled(2).text().replace("#EXT-X-MAP", "#EXT-X-MAD"), filled(2).text().replace("2.0000", "two")],
)
def test_what_is_no_playlist_of_ours_is_refused(text: str) -> None:
    with pytest.raises(RemoteProtocolError, match="no playlist of ours"):
        parse(text, 30.0, 2.0)


def test_a_master_playlist_says_what_must_be_decoded() -> None:
    text = master_playlist(
        "media.m3u8", peak_bps=1e6 + 0.5, codecs="avc1.42c01f,mp4a.40.2", width_px=720, height_px=1280, fps=25
    )
    assert text.splitlines()[-2:] == [
        '#EXT-X-STREAM-INF:BANDWIDTH=1000001,CODECS="avc1.42c01f,mp4a.40.2",RESOLUTION=720x1280,FRAME-RATE=25.000',
        "media.m3u8",
    ]
