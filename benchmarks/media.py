"""Pre-encoded test media, made once per machine: 720p30 H.264 at 2.5 Mb/s and Opus at 64 kb/s, ten seconds long.

Speech, because encoders of sound take more or less time over other things; moving bars with noise, because copying a
picture costs by its bytes, and those are set.
"""

import fractions
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from bridge.media.h264 import split_annexb
from bridge.samples import SPEECH

WIDTH_PX, HEIGHT_PX, FPS = 1280, 720, 30
SECONDS = 10
BITRATE = 2_500_000
GOP_S = 2
SAMPLES_PER_PACKET = 960  # 20 ms at 48 kHz, what WebRTC senders use
SAMPLE_RATE_HZ = 48_000


@dataclass(frozen=True, slots=True)
class Media:
    """NAL units of each picture, parameter sets before the first of each GOP; Opus packets of 20 ms."""

    pictures: list[list[bytes]]
    packets: list[bytes]


def load_media(*, is_upright: bool = False) -> Media:
    """The media from the cache in the temporary directory; encodes them first if there is none.

    is_upright  720x1280 instead of 1280x720.
    """
    version = "v2-upright" if is_upright else "v2"
    cache = Path(tempfile.gettempdir()) / f"avatar-bridge-media-{os.getuid()}-{version}.mkv"
    if not cache.exists():
        partial = cache.with_suffix(f".{os.getpid()}.mkv")
        _encode(partial, *((HEIGHT_PX, WIDTH_PX) if is_upright else (WIDTH_PX, HEIGHT_PX)))
        partial.rename(cache)
    pictures: list[list[bytes]] = []
    packets: list[bytes] = []
    with av.open(str(cache)) as container:
        annexb = av.BitStreamFilterContext("h264_mp4toannexb", container.streams.video[0])
        for packet in container.demux():
            if not packet.size:
                continue
            if packet.stream.type == "video":
                pictures += [list(split_annexb(bytes(filtered))) for filtered in annexb.filter(packet)]
            else:
                packets.append(bytes(packet))
    # The Opus encoder's delay makes one packet more.
    return Media(pictures, packets[: SECONDS * SAMPLE_RATE_HZ // SAMPLES_PER_PACKET])


def _encode(path: Path, width_px: int, height_px: int) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = width_px, height_px, "yuv420p"
        video.bit_rate = BITRATE
        video.options = {
            "preset": "veryfast",
            "tune": "zerolatency",
            "profile": "baseline",
            "maxrate": str(BITRATE),
            "bufsize": str(BITRATE // 2),
            "x264-params": f"keyint={GOP_S * FPS}:min-keyint={GOP_S * FPS}:scenecut=0:slices=2",
        }
        audio = container.add_stream("libopus", rate=SAMPLE_RATE_HZ)
        audio.layout = "stereo"
        audio.bit_rate = 64_000
        audio.options = {"frame_duration": "20"}
        noise = [
            np.random.default_rng(seed).integers(0, 24, (height_px, width_px), dtype=np.uint8) for seed in range(7)
        ]
        columns, rows = np.arange(width_px)[None, :], np.arange(height_px)[:, None]
        planes = np.full((height_px * 3 // 2, width_px), 128, np.uint8)
        for number in range(SECONDS * FPS):
            bars = ((columns + rows // 2 + 5 * number) % 160 + 40).astype(np.uint8)
            planes[:height_px] = bars + noise[number % len(noise)]
            picture = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            picture.pts, picture.time_base = number, fractions.Fraction(1, FPS)
            container.mux(video.encode(picture))
        sound = _speech()
        for start in range(0, SECONDS * SAMPLE_RATE_HZ, SAMPLES_PER_PACKET):
            block = np.ascontiguousarray(sound[:, 2 * start : 2 * (start + SAMPLES_PER_PACKET)])
            samples = av.AudioFrame.from_ndarray(block, format="s16", layout="stereo")
            samples.sample_rate, samples.pts = SAMPLE_RATE_HZ, start
            container.mux(audio.encode(samples))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


def _speech() -> NDArray[np.int16]:
    """What an avatar sounds like, the same on both channels, packed: shape (1, 2 n_samples)."""
    resampler = av.AudioResampler(format="s16", layout="stereo", rate=SAMPLE_RATE_HZ)
    with av.open(str(SPEECH)) as container:
        blocks = [part.to_ndarray() for block in container.decode(audio=0) for part in resampler.resample(block)]
    return np.concatenate(blocks, axis=1)
