from fractions import Fraction

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from bridge.hush import Hush
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS
from tests.unit.dsp.voices import silence, voice

PACKET_NS = 20 * NS_PER_MS


def packets(samples: NDArray[np.int16]) -> list[AccessUnit]:
    """Opus packets of 24 kHz mono, one every 20 ms from 0 on."""
    encoder = av.AudioCodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 24_000, "mono", "s16"
    encoder.time_base = Fraction(1, 24_000)
    frame = av.AudioFrame.from_ndarray(samples[None, :], format="s16", layout="mono")
    frame.sample_rate, frame.pts = 24_000, 0
    fifo = av.AudioFifo()
    fifo.write(frame)
    coded = [bytes(packet) for piece in fifo.read_many(480) for packet in encoder.encode(piece)]
    return [
        AccessUnit(Codec.OPUS, packet, index * PACKET_NS, PACKET_NS, arrival_ns=index * PACKET_NS)
        for index, packet in enumerate(coded)
    ]


def heard(samples: NDArray[np.int16], begins_ms: int) -> list[float]:
    found: list[float] = []
    hush = Hush(found.append)
    for unit in packets(samples):
        if unit.arrival_ns == begins_ms * NS_PER_MS:
            hush.begin(unit.arrival_ns)
        hush.on_sound(unit)
    return found


def test_silence_counts_from_the_interruption_to_its_first_packet() -> None:
    assert heard(np.concatenate((voice()[:24_000], silence(1.0))), 900) == [pytest.approx(0.12, abs=0.041)]


def test_who_was_silent_already_is_not_counted() -> None:
    assert heard(np.concatenate((voice()[:24_000], silence(1.0))), 1_200) == []


def test_who_speaks_on_is_not_counted() -> None:
    assert heard(np.tile(voice(), 3), 500) == []
