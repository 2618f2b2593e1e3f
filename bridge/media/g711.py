"""G.711: one byte for each sample of 8 kHz, as telephones and old gateways send it (ITU-T G.711)."""

import numpy as np
from numpy.typing import NDArray

from bridge.media.access_unit import Codec
from bridge.media.clock import G711_RATE_HZ, ticks_to_ns


def _mu_law() -> NDArray[np.int16]:
    # Every bit is inverted on the line; a sign, three bits of segment, four of step (G.711 table 2).
    codes = ~np.arange(256) & 0xFF
    segment, step = codes >> 4 & 7, codes & 15
    magnitude = ((2 * step + 33) << segment) - 33  # of 14 bits
    return (np.where(codes & 0x80, -magnitude, magnitude) * 4).astype(np.int16)


def _a_law() -> NDArray[np.int16]:
    # Every other bit is inverted on the line; the sign is set for what is positive (G.711 table 1).
    codes = np.arange(256) ^ 0x55
    segment, step = codes >> 4 & 7, codes & 15
    magnitude = np.where(segment == 0, 2 * step + 1, (2 * step + 33) << np.maximum(segment - 1, 0))  # of 13 bits
    return (np.where(codes & 0x80, magnitude, -magnitude) * 8).astype(np.int16)


_LEVELS = {Codec.PCMU: _mu_law(), Codec.PCMA: _a_law()}


def decode(codec: Codec, payload: bytes) -> NDArray[np.int16]:
    """Samples of 8 kHz, shape (n_samples,), of `Codec.PCMU` or `Codec.PCMA`."""
    return _LEVELS[codec][np.frombuffer(payload, np.uint8)]


def duration_ns(payload: bytes) -> int:
    """How long one packet plays."""
    return ticks_to_ns(len(payload), G711_RATE_HZ)
