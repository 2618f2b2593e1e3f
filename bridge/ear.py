"""Whether the avatar is heard, for as long as somebody wants to know: its sound is decoded for that only, meanwhile."""

import numpy as np

from bridge.media.access_unit import AccessUnit
from bridge.media.opus_decoder import BrokenPacket, OpusDecoder, Samples
from bridge.media.opus_sound import open_decoder

# Below the soft end of a word, above what a decoder leaves of coded silence.
_SILENT_RMS = 10 ** (-50 / 20)


def sounds(sound: Samples) -> bool:
    """Whether decoded sound is more than silence."""
    return float(np.sqrt(np.mean(np.square(sound)))) > _SILENT_RMS


class Ear:
    """Hears the avatar's packets as they arrive, from `open` on, until `close` or for `patience_ns`."""

    def __init__(self, patience_ns: int) -> None:
        self._patience_ns = patience_ns
        self._decoder: OpusDecoder | None = None
        self.opened_ns = 0  # monotonic

    @property
    def is_open(self) -> bool:
        return self._decoder is not None

    def open(self, now_ns: int) -> None:
        self._decoder, self.opened_ns = open_decoder(), now_ns

    def close(self) -> None:
        self._decoder = None

    def hears(self, unit: AccessUnit) -> bool | None:
        """Whether a packet sounds; None: it is broken, or nobody listens."""
        if self._decoder is None:
            return None
        if unit.arrival_ns - self.opened_ns > self._patience_ns:
            self.close()
            return None
        try:
            return sounds(self._decoder.decode(unit.payload))
        except BrokenPacket:
            return None
