import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import RemoteProtocolError
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.media.h264 import decoder_configuration
from bridge.protocols import amf, flv

# 1280x720, High profile, from x264.
SPS = bytes.fromhex("6764001facd9405005ba1000000300100000030320f1831960")
PPS = bytes.fromhex("68ef8fcb")
AVC = decoder_configuration(SPS, PPS)
AAC = bytes.fromhex("1190")


def picture(pts_ns: int, *, is_keyframe: bool = False, codec_config: bytes = AVC) -> AccessUnit:
    config = codec_config if is_keyframe else b""
    return AccessUnit(Codec.H264, b"picture", pts_ns, is_keyframe=is_keyframe, codec_config=config)


def sound(pts_ns: int, codec_config: bytes = AAC) -> AccessUnit:
    return AccessUnit(Codec.AAC, b"sound", pts_ns, codec_config=codec_config)


def started(first_timestamp_ms: int = 0, pts_ns: int = 0) -> flv.TagSequence:
    sequence = flv.TagSequence(first_timestamp_ms)
    sequence.tags(picture(pts_ns, is_keyframe=True))
    sequence.tags(sound(pts_ns))
    return sequence


def test_bodies_have_the_bytes_of_the_specification() -> None:
    assert flv.avc_sequence_header(b"config") == bytes.fromhex("1700000000") + b"config"
    assert flv.avc_picture(b"nals", is_keyframe=True) == bytes.fromhex("1701000000") + b"nals"
    assert flv.avc_picture(b"nals", is_keyframe=False) == bytes.fromhex("2701000000") + b"nals"
    assert flv.aac_sequence_header(AAC) == bytes.fromhex("af00") + AAC
    assert flv.aac_frame(b"raw") == bytes.fromhex("af01") + b"raw"


def test_metadata_holds_the_picture_size_of_the_configuration() -> None:
    name, fields = amf.decode(flv.metadata(AVC))

    assert name == "onMetaData"
    assert isinstance(fields, dict)
    assert (fields["width"], fields["height"]) == (1280.0, 720.0)
    assert (fields["videocodecid"], fields["audiocodecid"]) == (7.0, 10.0)


@pytest.mark.parametrize("codec_config", [b"", AVC[:8], AVC[:20], bytes.fromhex("0164001fffe000")])
def test_metadata_of_a_broken_configuration_is_the_senders_mistake(codec_config: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        flv.metadata(codec_config)


def test_a_broadcast_begins_with_metadata_header_and_keyframe_at_the_first_timestamp() -> None:
    tags = flv.TagSequence(1000).tags(picture(7 * NS_PER_S, is_keyframe=True))

    assert tags == [
        ("script", 1000, flv.metadata(AVC)),
        ("video", 1000, flv.avc_sequence_header(AVC)),
        ("video", 1000, flv.avc_picture(b"picture", is_keyframe=True)),
    ]


def test_sound_and_pictures_before_the_first_keyframe_are_dropped() -> None:
    sequence = flv.TagSequence()

    assert sequence.tags(sound(0)) == []
    assert sequence.tags(picture(1)) == []
    assert sequence.tags(picture(NS_PER_S, is_keyframe=True))[-1].timestamp_ms == 0


def test_sound_that_lies_before_the_first_keyframe_is_dropped_even_if_it_comes_later() -> None:
    sequence = started(pts_ns=NS_PER_S)

    assert sequence.tags(sound(NS_PER_S - 1)) == []


def test_headers_go_out_again_only_when_the_configuration_changes() -> None:
    sequence = started()
    other = decoder_configuration(SPS, PPS[:-1] + b"\xcc")

    assert [t.kind for t in sequence.tags(sound(NS_PER_S))] == ["audio"]
    assert [t.kind for t in sequence.tags(picture(NS_PER_S, is_keyframe=True))] == ["video"]
    assert [t.kind for t in sequence.tags(sound(2 * NS_PER_S, b"\x12\x10"))] == ["audio", "audio"]
    changed = sequence.tags(picture(2 * NS_PER_S, is_keyframe=True, codec_config=other))
    assert [t.kind for t in changed] == ["video", "video"]
    assert changed[0].body == flv.avc_sequence_header(other)


def test_metadata_goes_out_again_when_the_picture_size_changes() -> None:
    sequence = started()
    small = decoder_configuration(bytes.fromhex("6742c01f8c8d40501ed00f08846a"), PPS)

    changed = sequence.tags(picture(NS_PER_S, is_keyframe=True, codec_config=small))

    assert [t.kind for t in changed] == ["script", "video", "video"]
    assert changed[0].body == flv.metadata(small) != flv.metadata(AVC)


def test_timestamps_are_converted_absolutely_so_that_thirds_of_a_second_do_not_drift() -> None:
    sequence = started()

    times = [sequence.tags(picture(n * NS_PER_S // 30))[-1].timestamp_ms for n in range(1, 91)]

    assert times == [round(n * 1000 / 30) for n in range(1, 91)]


def test_tracks_run_on_one_clock() -> None:
    sequence = started(pts_ns=5 * NS_PER_S)

    assert sequence.tags(sound(6 * NS_PER_S))[-1].timestamp_ms == 1000
    assert sequence.tags(picture(6 * NS_PER_S))[-1].timestamp_ms == 1000


@given(st.lists(st.integers(0, 20 * NS_PER_MS), max_size=30), st.sampled_from([0, 2**24 - 5, 2**32 - 5]))
def test_timestamps_increase_strictly_per_track(gaps_ns: list[int], first_timestamp_ms: int) -> None:
    sequence = started(first_timestamp_ms)
    times = [first_timestamp_ms]
    pts_ns = 0
    for gap_ns in gaps_ns:
        pts_ns += gap_ns
        times.append(sequence.tags(picture(pts_ns))[-1].timestamp_ms)

    assert all(a < b for a, b in itertools.pairwise(times))
