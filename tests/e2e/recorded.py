"""What a recording holds, read back by FFmpeg."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

SPEECH_RATE_HZ = 24_000


@dataclass(frozen=True)
class Packet:
    pts_s: float
    is_keyframe: bool
    payload: bytes


@dataclass(frozen=True)
class Track:
    """codec: FFmpeg's name.  packets in the file's order."""

    codec: str
    packets: list[Packet]

    @property
    def start_s(self) -> float:
        return self.packets[0].pts_s

    @property
    def end_s(self) -> float:
        return self.packets[-1].pts_s

    @property
    def longest_gap_s(self) -> float:
        return max(later.pts_s - earlier.pts_s for earlier, later in itertools.pairwise(self.packets))

    @property
    def shortest_gap_s(self) -> float:
        return min(later.pts_s - earlier.pts_s for earlier, later in itertools.pairwise(self.packets))

    @property
    def keyframe_spacings_s(self) -> list[float]:
        times_s = [packet.pts_s for packet in self.packets if packet.is_keyframe]
        return [later_s - earlier_s for earlier_s, later_s in itertools.pairwise(times_s)]


def tracks(path: Path) -> tuple[Track, Track]:
    """Picture and sound, as coded."""
    with av.open(str(path)) as container:
        found = {stream.type: Track(stream.codec_context.codec.canonical_name, []) for stream in container.streams}
        assert set(found) == {"audio", "video"}, f"{path} has {sorted(found)}"
        for packet in container.demux():
            if packet.pts is not None and packet.size:
                taken = Packet(float(packet.pts * packet.time_base), packet.is_keyframe, bytes(packet))
                found[packet.stream.type].packets.append(taken)
    return found["video"], found["audio"]


def n_pictures(path: Path) -> int:
    """How many pictures decode. Raises av.FFmpegError at the first that is damaged."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"err_detect": "explode"}
        return sum(1 for _ in container.decode(stream))


def sound(path: Path) -> NDArray[np.float64]:
    """The first channel at 24 kHz, full scale 1: FFmpeg's downmix to mono would add 3 dB."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("fltp", rate=SPEECH_RATE_HZ)
        frames = [*container.decode(audio=0), None]
        pieces = [piece.to_ndarray()[0] for frame in frames for piece in resampler.resample(frame)]
    return np.concatenate(pieces).astype(np.float64)


def likeness(heard: NDArray[np.float64], spoken: NDArray[np.float64], latest_s: float = 1.0) -> float:
    """How well `spoken` is found again in `heard`, at most `latest_s` behind its time: 1 is the same, chance 0.4.

    It is the median over pieces of 0.1 s, each with its best correlation: to come into step with the picture sound
    may be stretched by a percent, which over seconds leaves nothing of the correlation of the whole.
    """
    n = SPEECH_RATE_HZ // 10
    found = []
    for start in range(0, len(spoken) - n, n):
        piece = spoken[start : start + n]
        near = heard[start : start + n + round(latest_s * SPEECH_RATE_HZ)]
        if rms_dbfs(piece) > -40 and len(near) >= n:
            sums = np.cumsum(np.concatenate(([0.0], near**2)))
            energy = (sums[n:] - sums[:-n]) * np.sum(piece**2)
            found.append(np.max(np.correlate(near, piece, "valid") / np.sqrt(np.maximum(energy, 1e-9))))
    return float(np.median(found))


def rms_dbfs(samples: NDArray[np.float64]) -> float:
    return float(10 * np.log10(np.mean(samples**2) + 1e-12))
