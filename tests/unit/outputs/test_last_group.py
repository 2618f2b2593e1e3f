"""What a viewer that comes now begins with."""

from bridge.media import h264
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS
from bridge.net.shared_track import SharedTrack
from bridge.outputs.last_group import MAX_GROUP_BYTES, MAX_GROUP_NS, LastGroup

CONFIG = h264.decoder_configuration(b"\x67\x42\xe0\x1fsps", b"\x68pps")


def picture(pts_ns: int, *, is_keyframe: bool = False, size: int = 100) -> AccessUnit:
    payload = h264.join_avcc([bytes([0x65 if is_keyframe else 0x41]) + bytes(size)])
    return AccessUnit(Codec.H264, payload, pts_ns, 0, is_keyframe, CONFIG if is_keyframe else b"")


def test_it_begins_at_the_last_keyframe_with_its_parameter_sets_in_band() -> None:
    group = LastGroup(SharedTrack("video"))
    group.add(picture(0))
    assert not group.is_whole and group.packetized() == []
    for index in range(6):
        group.add(picture(index * 40 * NS_PER_MS, is_keyframe=index % 3 == 0))
    units = group.packetized()
    assert [unit.pts_ns // NS_PER_MS for unit in units] == [120, 160, 200]
    assert [unit.is_keyframe for unit in units] == [True, False, False]
    assert b"sps" in units[0].payloads[0] and b"pps" in units[0].payloads[0]


def test_pictures_are_packetized_once_in_their_order() -> None:
    group = LastGroup(SharedTrack("video"))
    group.add(picture(0, is_keyframe=True))
    first = list(group.packetized())
    group.add(picture(1))
    group.add(picture(2))
    assert group.packetized()[:1] == first
    numbers = [unit.number for unit in group.packetized()]
    assert numbers == sorted(numbers) and len(numbers) == 3


def test_one_that_is_too_long_ago_or_too_large_is_nothing_to_begin_with() -> None:
    group = LastGroup(SharedTrack("video"))
    group.add(picture(0, is_keyframe=True))
    group.add(picture(MAX_GROUP_NS))
    assert group.is_whole
    group.add(picture(MAX_GROUP_NS + 1))
    assert not group.is_whole
    group.add(picture(0, is_keyframe=True))
    group.add(picture(1, size=MAX_GROUP_BYTES))
    assert not group.is_whole and group.packetized() == []
