"""The counter in the picture and the stamp beside it are read back as they were written."""

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.local_avatar.drawing import Canvas
from bridge.local_avatar.timecode import draw_counter, insert_stamp, read_counter, read_stamp
from bridge.media.h264 import avcc_to_annexb, join_avcc, nal_type, split_avcc

SLICE = b"\x65\x88\x84\x00\x33\xff"


def grey(width_px: int, height_px: int) -> Canvas:
    canvas = Canvas(width_px, height_px)
    canvas.data[...] = 128
    return canvas


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1))
def test_a_stamp_is_read_from_avcc_and_from_annex_b(number: int, time_ns: int) -> None:
    stamped = insert_stamp(join_avcc([SLICE]), number, time_ns)
    assert read_stamp(stamped) == (number, time_ns)
    assert read_stamp(avcc_to_annexb(stamped)) == (number, time_ns)


def test_a_stamp_stands_before_the_slice_and_needs_no_emulation_prevention() -> None:
    sei, coded = split_avcc(insert_stamp(join_avcc([SLICE]), 0, 0))
    assert (nal_type(sei), coded) == (6, SLICE)
    assert b"\0\0" not in sei


@pytest.mark.parametrize("cut", [3, 20, 30, 45])
def test_a_truncated_stamp_is_none(cut: int) -> None:
    assert read_stamp(insert_stamp(b"", 7, 1)[:cut]) is None


def test_a_stamp_with_other_digits_is_none() -> None:
    stamped = bytearray(insert_stamp(b"", 7, 1))
    stamped[-3] = ord("z")
    assert read_stamp(bytes(stamped)) is None


@pytest.mark.parametrize("size", [(720, 1280), (1280, 720), (360, 640), (426, 240)])
@pytest.mark.parametrize("number", [0, 1, 90_000, 2**32 - 1])
def test_a_counter_is_read_in_the_size_it_was_drawn_in(size: tuple[int, int], number: int) -> None:
    canvas = grey(*size)
    draw_counter(canvas.luma, canvas.chroma, number)
    assert read_counter(canvas.luma) == number


def test_a_counter_survives_scaling() -> None:
    canvas = grey(720, 1280)
    draw_counter(canvas.luma, canvas.chroma, 123_456)
    frame = av.VideoFrame.from_ndarray(canvas.data, format="yuv420p")
    for width_px, height_px in ((360, 640), (540, 960), (1080, 1920)):
        scaled = frame.reformat(width=width_px, height=height_px, format="gray").to_ndarray()
        assert read_counter(scaled) == 123_456


def test_a_counter_survives_coarse_coding() -> None:
    canvas = grey(360, 640)
    draw_counter(canvas.luma, canvas.chroma, 4_294_967)
    encoder = av.VideoCodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.thread_count = 360, 640, "yuv420p", 1
    encoder.framerate = 25
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "qp": "45"}
    decoder = av.VideoCodecContext.create("h264", "r")
    packets = encoder.encode(av.VideoFrame.from_ndarray(canvas.data, format="yuv420p"))
    frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    assert read_counter(frames[0].to_ndarray()[:640]) == 4_294_967


@pytest.mark.parametrize("level", [16, 90, 128, 235])
def test_an_empty_picture_holds_no_counter(level: int) -> None:
    assert read_counter(np.full((640, 360), level, np.uint8)) is None


def test_two_pictures_in_one_hold_no_counter() -> None:
    first, second = grey(360, 640), grey(360, 640)
    draw_counter(first.luma, first.chroma, 5)
    draw_counter(second.luma, second.chroma, 6)
    assert read_counter((first.luma // 2 + second.luma // 2).astype(np.uint8)) is None
