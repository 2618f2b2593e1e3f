import pytest

from bridge.media.clock import NS_PER_MS
from bridge.media.opus import packet_duration_ns


def toc(configuration: int, code: int = 0) -> int:
    return configuration << 3 | code


@pytest.mark.parametrize(
    ("configuration", "duration_ms"),
    [
        pytest.param(0, 10, id="SILK narrowband"),
        pytest.param(9, 20, id="SILK wideband"),
        pytest.param(11, 60, id="SILK wideband, longest"),
        pytest.param(12, 10, id="hybrid"),
        pytest.param(15, 20, id="hybrid fullband"),
        pytest.param(16, 2.5, id="CELT narrowband, shortest"),
        pytest.param(31, 20, id="CELT fullband"),
    ],
)
def test_the_first_byte_tells_how_long_a_frame_plays(configuration: int, duration_ms: float) -> None:
    assert packet_duration_ns(bytes([toc(configuration), 1, 2])) == duration_ms * NS_PER_MS


@pytest.mark.parametrize("code", [1, 2])
def test_two_frames_play_twice_as_long(code: int) -> None:
    assert packet_duration_ns(bytes([toc(31, code), 1, 2])) == 40 * NS_PER_MS


def test_a_counted_number_of_frames_is_read_from_the_second_byte() -> None:
    assert packet_duration_ns(bytes([toc(31, 3), 0x80 | 0x40 | 3])) == 60 * NS_PER_MS


def test_a_packet_without_frames_is_the_silence_of_dtx() -> None:
    assert packet_duration_ns(bytes([toc(9)])) == 20 * NS_PER_MS


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"", id="empty"),
        pytest.param(bytes([toc(31, 3)]), id="frame count missing"),
        pytest.param(bytes([toc(31, 3), 0]), id="no frames"),
        pytest.param(bytes([toc(31, 3), 7]), id="more than 120 ms"),
        pytest.param(bytes([toc(11, 3), 3]), id="more than 120 ms of long frames"),
    ],
)
def test_a_packet_that_breaks_the_rules_has_no_duration(packet: bytes) -> None:
    assert packet_duration_ns(packet) == 0
