"""Sound that did not come, as the last period of the voice repeated; and with it Opus where there is no libopus."""

import av
import numpy as np
from av.error import FFmpegError

from bridge.media.clock import OPUS_CLOCK_HZ
from bridge.media.opus_decoder import N_CHANNELS, BrokenPacket, Samples
from bridge.media.pitch import period_of, remembered_samples, repeatable

# Where made-up sound and what was decoded meet, one fades into the other: as long as CELT's own overlap.
_JOINT_HZ = 400


class PitchRepeat:
    """Makes up what is missing in one row of samples, float32 of shape (n_channels, n_samples).

    After ITU-T G.711 appendix I, but without its delay: what was given stays, and a step at the joint is spread.
    """

    def __init__(self, rate_hz: int, n_channels: int) -> None:
        self._rate_hz = rate_hz
        self._n_joint = rate_hz // _JOINT_HZ
        self._past: Samples = np.zeros((n_channels, remembered_samples(rate_hz)), np.float32)
        self._period: Samples | None = None  # what is repeated; None: nothing is missing
        self._position = 0
        self._step: Samples = self._past[:, :1]  # between what was given last and what would have followed it

    def follow(self, sound: Samples) -> Samples:
        """The next sound there is, its beginning joined to what was made up before it; remembered."""
        if self._period is not None:
            n = min(self._n_joint, sound.shape[1])
            rise = np.linspace(0, 1, n, dtype=np.float32)
            sound[:, :n] = self.make_up(n) * (1 - rise) + sound[:, :n] * rise
            self._period = None
        self._past = np.concatenate((self._past, sound), axis=1)[:, -self._past.shape[1] :]
        return sound

    def make_up(self, n_samples: int) -> Samples:
        """Sound that goes on as before."""
        if self._period is None:
            self._begin_repeating()
        assert self._period is not None
        at = self._position + np.arange(n_samples)
        self._position += n_samples
        spread = np.clip(1 - at / self._n_joint, 0, 1).astype(np.float32)
        return np.clip(self._period[:, at % self._period.shape[1]] + self._step * spread, -1, 1)

    def _begin_repeating(self) -> None:
        n = period_of(self._past.mean(axis=0), self._rate_hz)
        self._period, self._position = repeatable(self._past, n), 0
        self._step = self._past[:, -1:] - self._past[:, -n - 1 : -n]


class PitchRepeatDecoder:
    """An `OpusDecoder` for systems without libopus: FFmpeg's own, and `restore` knows no more than `make_up`."""

    name = "pitch repeat (no libopus)"
    can_restore = False

    def __init__(self) -> None:
        self.reset()

    def decode(self, packet: bytes) -> Samples:
        if not packet:
            raise BrokenPacket("it is empty")
        try:
            frames = self._decoder.decode(av.Packet(packet))
        except FFmpegError as error:
            raise BrokenPacket(str(error)) from error
        # Floats that nobody has checked: the encoder refuses what is not finite.
        parts = [np.nan_to_num(frame.to_ndarray().astype(np.float32)) for frame in frames]
        if not parts:
            raise BrokenPacket("it holds no sound")
        return self._repeat.follow(np.clip(np.concatenate(parts, axis=1), -1, 1))

    def restore(self, packet: bytes, n_samples: int) -> Samples:
        return self.make_up(n_samples)

    def make_up(self, n_samples: int) -> Samples:
        return self._repeat.make_up(n_samples)

    def reset(self) -> None:
        self._decoder = _open()
        self._repeat = PitchRepeat(OPUS_CLOCK_HZ, N_CHANNELS)


def _open() -> av.AudioCodecContext:
    decoder = av.AudioCodecContext.create("opus", "r")
    decoder.sample_rate = OPUS_CLOCK_HZ
    decoder.layout = "stereo"
    decoder.thread_count = 1
    return decoder
