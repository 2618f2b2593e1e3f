"""The AAC that outputs take: 48 kHz stereo."""

from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np

from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import OPUS_CLOCK_HZ, ticks_to_ns
from bridge.media.opus_decoder import N_CHANNELS, Samples

AAC_FRAME_SAMPLES = 1024  # AAC-LC: ISO 14496-3 §4.5.2.1.1


class AacEncoder:
    """Samples of 48 kHz stereo in, AAC-LC frames on session time out. Blocks.

    The first frame decodes to the time before the first sample: its timestamp lies 1024 samples before `anchor_ns`, and
    it is left out where that is negative.
    """

    def __init__(self, bit_rate: int, anchor_ns: int) -> None:
        self._anchor_ns = anchor_ns  # session time of the first sample
        self._n_encoded = 0  # samples since then
        self._pending: Samples = np.zeros((N_CHANNELS, 0), np.float32)
        self._encoder = LibavEncoder(bit_rate)

    def push(self, samples: Samples, arrival_ns: int) -> list[AccessUnit]:
        """The frames that these complete; `arrival_ns` is when what they were made of arrived."""
        self._pending = np.concatenate((self._pending, samples), axis=1)
        n_whole = self._pending.shape[1] // AAC_FRAME_SAMPLES * AAC_FRAME_SAMPLES
        whole, self._pending = self._pending[:, :n_whole], self._pending[:, n_whole:]
        frames: list[Frame] = []
        for start in range(0, n_whole, AAC_FRAME_SAMPLES):
            frames += self._encoder.encode(whole[:, start : start + AAC_FRAME_SAMPLES], self._n_encoded)
            self._n_encoded += AAC_FRAME_SAMPLES
        return self._units_of(frames, arrival_ns)

    def flush(self, arrival_ns: int) -> list[AccessUnit]:
        """What was waiting for more, filled up with silence; nothing can be pushed afterwards."""
        silence = np.zeros((N_CHANNELS, -self._pending.shape[1] % AAC_FRAME_SAMPLES), np.float32)
        return self.push(silence, arrival_ns) + self._units_of(self._encoder.encode(None), arrival_ns)

    def _units_of(self, frames: "Iterable[Frame]", arrival_ns: int) -> list[AccessUnit]:
        units = []
        for at, data in frames:
            pts_ns = self._anchor_ns + ticks_to_ns(at, OPUS_CLOCK_HZ)
            ends_ns = self._anchor_ns + ticks_to_ns(at + AAC_FRAME_SAMPLES, OPUS_CLOCK_HZ)
            if pts_ns >= 0:
                units.append(
                    AccessUnit(
                        Codec.AAC,
                        data,
                        pts_ns,
                        ends_ns - pts_ns,
                        codec_config=self._encoder.codec_config,
                        arrival_ns=arrival_ns,
                    )
                )
        return units


class Frame(NamedTuple):
    """at: samples since the anchor, 1024 before the block whose encoding made it; the encoder counts its own delay."""

    at: int
    data: bytes


class LibavEncoder:
    """libav's own, at its fastest."""

    def __init__(self, bit_rate: int) -> None:
        context = self._context = av.AudioCodecContext.create("aac", "w")
        context.sample_rate = OPUS_CLOCK_HZ
        context.layout = "stereo"
        context.format = "fltp"
        context.bit_rate = bit_rate
        context.time_base = Fraction(1, OPUS_CLOCK_HZ)
        context.thread_count = 1
        # Less than half the CPU of the default search (0.006 of a core against 0.013).
        # Its search for mid/side stereo is dear (0.009 of a core against 0.005) exactly where both channels are the
        # same, as an avatar's are; at 128 kb/s each has 64 kb/s to itself, 33 dB above its noise on speech.
        context.options = {"aac_coder": "fast", "aac_ms": "0", "aac_tns": "0", "aac_pns": "0"}
        context.open()
        self.codec_config = bytes(context.extradata or b"")

    def encode(self, block: Samples | None, at: int = 0) -> list[Frame]:
        """None: what waits."""
        frame = None
        if block is not None:
            # from_ndarray fills every plane: a frame made otherwise holds NaN, which the encoder refuses.
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="stereo")
            frame.sample_rate = OPUS_CLOCK_HZ
            frame.pts = at
        frames = []
        for packet in self._context.encode(frame):
            assert packet.pts is not None
            frames.append(Frame(packet.pts, bytes(packet)))
        return frames
