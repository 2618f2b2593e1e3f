"""What a decoder of Opus owes those who listen: samples for every packet, and for those that did not come."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bridge.media.clock import OPUS_CLOCK_HZ

Samples = NDArray[np.float32]  # shape (2, n_samples), nominal range [-1, 1]

N_CHANNELS = 2
LONGEST_SAMPLES = OPUS_CLOCK_HZ * 120 // 1000  # RFC 6716 §3.2.5, rule R5: a packet holds at most 120 ms
# What is missing is made up in steps of Opus' shortest frame, 2.5 ms (opus.h, opus_decode).
STEP_SAMPLES = 120


class BrokenPacket(Exception):
    """A packet cannot be decoded; the decoder goes on with the next one as if it had been lost."""


class OpusDecoder(Protocol):
    """Decodes one sender's packets to 48 kHz stereo. Blocks; belongs to one thread at a time.

    What it gives follows each other without a joint, if it is asked for what is missing before it is given the next
    packet.

    name         for people: which one it is.
    can_restore  whether `restore` finds what a packet holds of the one before it (in-band FEC).
    """

    @property
    def name(self) -> str: ...

    @property
    def can_restore(self) -> bool: ...

    def decode(self, packet: bytes) -> Samples:
        """The next packet. Raises BrokenPacket."""
        ...

    def restore(self, packet: bytes, n_samples: int) -> Samples:
        """The end of what is missing right before this packet, as long as `media.opus.redundancy_ns` says.

        The packet itself is still to be decoded. Raises BrokenPacket.
        """
        ...

    def make_up(self, n_samples: int) -> Samples:
        """Sound that goes on as before, up to `LONGEST_SAMPLES` in whole `STEP_SAMPLES`, in place of what is lost."""
        ...

    def reset(self) -> None:
        """What comes next follows nothing."""
        ...


def from_pcm(pcm: NDArray[np.int16]) -> Samples:
    """Of interleaved 16-bit samples, shape (n_samples, 2). They are always finite and in range, whatever arrived:
    the AAC encoder refuses anything else."""
    return np.multiply(pcm.T, np.float32(1 / 32768), dtype=np.float32, order="C")
