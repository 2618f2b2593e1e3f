import av
import numpy as np
import pytest

from bridge.media.access_unit import Codec
from bridge.media.g711 import decode, duration_ns

EVERY_BYTE = bytes(range(256))


@pytest.mark.parametrize("codec", [Codec.PCMU, Codec.PCMA])
def test_every_byte_decodes_as_ffmpeg_decodes_it(codec: Codec) -> None:
    decoder = av.AudioCodecContext.create(codec, "r")
    decoder.sample_rate, decoder.layout = 8_000, "mono"
    (frame,) = decoder.decode(av.Packet(EVERY_BYTE))
    assert np.array_equal(decode(codec, EVERY_BYTE), frame.to_ndarray()[0])


def test_a_byte_plays_for_an_eighth_of_a_millisecond() -> None:
    assert duration_ns(bytes(160)) == 20_000_000
    assert (duration_ns(b""), len(decode(Codec.PCMU, b""))) == (0, 0)
