"""What all viewers get of one track: numbers, layouts for the kernel, and the fast way into the present."""

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.net.shared_track import HISTORY_NS, SharedTrack
from bridge.net.viewer_sender import HASTE, Haste
from bridge.net.wire import MAX_RUN_BYTES, MAX_SEGMENTS, Format, lay_out

SIZES = st.lists(st.integers(1, 1300), min_size=1, max_size=150)
FORMAT = Format(payload_type=96, extension=b"", flipped=0, tag_bytes=16)


@settings(max_examples=50)
@given(
    st.lists(st.integers(1, 1300), min_size=1, max_size=150), st.integers(0, 0xFFFF), st.sampled_from([b"", b"abcd"])
)
def test_a_layout_holds_every_packet_and_runs_are_what_the_kernel_cuts(
    sizes: list[int], number: int, extension: bytes
) -> None:
    payloads = [bytes([index % 256]) * size for index, size in enumerate(sizes)]
    format = FORMAT._replace(extension=extension)
    runs = lay_out(payloads, number, 0x12345678, 7, format, marks_end=True)
    packets = [run.layout[start : start + n] for run in runs for start, n in run.packets]
    for index, (packet, payload) in enumerate(zip(packets, payloads, strict=True)):
        first, second, sequence_number, timestamp, ssrc = struct.unpack("!BBHII", packet[:12])
        assert (first, timestamp, ssrc) == (0x90 if extension else 0x80, 0x12345678, 7)
        assert sequence_number == (number + index) % 65536
        assert second == (96 | 0x80 if index == len(payloads) - 1 else 96)
        assert packet[12:] == extension + payload
    for run in runs:
        assert len(run.packets) <= MAX_SEGMENTS and len(run.layout) <= MAX_RUN_BYTES
        wholes = [n + FORMAT.tag_bytes for _, n in run.packets]
        assert [start for start, _ in run.packets] == [sum(wholes[:index]) for index in range(len(wholes))]
        assert set(wholes[:-1]) <= {wholes[0]} and wholes[-1] <= wholes[0]
        cuts = [struct.unpack("=H", size)[0] for _, _, size in run.ancillary]
        assert cuts == ([wholes[0]] if len(wholes) > 1 else [])


def test_the_packets_of_a_picture_leave_in_as_few_runs_as_they_have_lengths() -> None:
    runs = lay_out([b"s" * 40, *[b"a" * 1200] * 70, b"a" * 500, *[b"b" * 1100] * 3], 0, 0, 0, FORMAT, marks_end=True)
    assert [len(run.packets) for run in runs] == [1, 52, 19, 3]


def test_a_packet_is_found_by_the_number_that_the_far_end_knows_it_by() -> None:
    track = SharedTrack("video")
    units = [track.add([bytes([index])] * 3, index * 40 * NS_PER_MS, is_keyframe=index == 0) for index in range(20)]
    for flipped in (0, 0x8000):
        format = FORMAT._replace(flipped=flipped)
        for unit in units:
            number = (unit.number + 2 ^ flipped) & 0xFFFF
            assert track.find(number, format) == (unit, 2)
            packet = track.packet(unit, 2, format, unit.pts_ns)
            (run,) = track.runs(unit, format, unit.pts_ns)
            assert packet == run.layout[run.packets[2][0] :][: len(packet)]
        assert track.find((units[0].number - 1 ^ flipped) & 0xFFFF, format) is None
        assert track.find((units[-1].number + 3 ^ flipped) & 0xFFFF, format) is None


def test_history_is_bounded_by_media_time() -> None:
    track = SharedTrack("audio")
    first = track.add([b"x"], 0, is_keyframe=True)
    track.add([b"x"], HISTORY_NS, is_keyframe=True)
    assert track.find(first.number & 0xFFFF, FORMAT) is not None
    track.add([b"x"], HISTORY_NS + 1, is_keyframe=True)
    assert track.find(first.number & 0xFFFF, FORMAT) is None


def test_viewers_of_one_format_share_a_layout_and_the_next_unit_frees_it() -> None:
    track = SharedTrack("video")
    unit = track.add([b"x" * 1000], 0, is_keyframe=True)
    assert track.runs(unit, FORMAT, 0) is track.runs(unit, FORMAT, 0)
    assert track.runs(unit, FORMAT, 5) is not track.runs(unit, FORMAT, 0), "a viewer that is in haste has its own times"
    track.add([b"y"], 1, is_keyframe=False)
    assert not unit.runs


@given(st.integers(0, 4 * NS_PER_S), st.integers(0, 10**15))
def test_the_past_is_shown_fast_and_ends_in_the_present(past_ns: int, first_ns: int) -> None:
    haste = Haste.from_past(first_ns, first_ns + past_ns)
    newest_ns = first_ns + past_ns
    # The first is sent now, stamped as if it were made now.
    assert abs(haste.shown_ns(first_ns) - newest_ns) <= HASTE
    # While a picture is on its way, as much time passes as has been made meanwhile.
    spent_ns = haste.shown_ns(haste.ends_ns) - haste.shown_ns(first_ns)
    assert abs(newest_ns + spent_ns - haste.ends_ns) <= HASTE
    times = [haste.shown_ns(first_ns + index * 40 * NS_PER_MS) for index in range(150)]
    assert times == sorted(set(times))
    assert haste.shown_ns(haste.ends_ns + 5) == haste.ends_ns + 5
