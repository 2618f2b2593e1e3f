import numpy as np
import pytest

from bridge.errors import ConfigError
from bridge.protocols.pcm import FrameCutter
from bridge.protocols.pcm_url import PcmFormat, PcmUrl, parse_url

# Two channels of three samples: silence, full scale down, and the smallest step that has 24 bits.
STEPS = np.array([[0, 0], [-(2**31), -(2**31)], [256, -256]])


def coded(encoding: str) -> bytes:
    match encoding:
        case "s16le":
            return (STEPS >> 16).astype("<i2").tobytes()
        case "s24le":
            return b"".join(int(step >> 8).to_bytes(3, "little", signed=True) for step in STEPS.reshape(-1))
        case "s32le":
            return STEPS.astype("<i4").tobytes()
    return (STEPS / 2**31).astype("<f4").tobytes()


@pytest.mark.parametrize("encoding", ["s16le", "s24le", "s32le", "f32le"])
def test_samples_keep_all_their_bits_wherever_the_stream_is_cut(encoding: str) -> None:
    format = PcmFormat(48_000, 2, encoding)  # type: ignore[arg-type]
    cutter = FrameCutter(format)
    pieces = [cutter.push(bytes([byte])) for byte in coded(encoding)]
    assert {len(piece) for piece in pieces} == {0, 1}
    samples = np.concatenate(pieces)
    if encoding == "s16le":
        assert np.array_equal(samples, STEPS >> 16) and samples.dtype == np.int16
    else:
        assert np.array_equal(samples.astype(np.float64) * 2**31, STEPS) and samples.dtype == np.float32


def test_url_says_where_and_what() -> None:
    assert parse_url("pcm:-") == PcmUrl(None, PcmFormat(16_000, 1, "s16le"), False)
    url = "pcm:/run/tts?rate=44100&channels=2&format=f32le&live=yes"
    assert parse_url(url) == PcmUrl("/run/tts", PcmFormat(44_100, 2, "f32le"), True)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("pcm:", "needs - for standard input"),
        ("pcm:?rate=8000", "needs - for standard input"),
        ("pcm:-?rate=7999", "rate=7999 is no number from 8000 to 192000"),
        ("pcm:-?rate=16k", "rate=16k is no number"),
        ("pcm:-?channels=9", "channels=9 is no number from 1 to 8"),
        ("pcm:-?format=s16", "format=s16 is none of s16le, s24le, s32le, f32le"),
        ("pcm:-?chanels=1", r"did you mean channels="),
        ("pcm:-?live=1", "yes or no"),
    ],
)
def test_what_nobody_can_mean_is_refused(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_url(url)
