"""Our resampler and what else there is, each as a function from int16 to int16: 24 kHz mono, in chunks of any size.

Peers do the equal job: float inside, rounded and clipped by numpy, the same bits for every chunking. libswresample is
reached by way of PyAV, whose frames cost more than its arithmetic.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import av
import numpy as np
import samplerate
import soxr
from numpy.typing import NDArray

from bridge.dsp.resample import StreamResampler

RATE_OUT_HZ = 24_000

Push: TypeAlias = Callable[[NDArray[np.int16]], NDArray[np.int16]]


def ours(rate_hz: int) -> Push:
    resampler = StreamResampler(rate_hz)
    return lambda samples: resampler.push(samples[:, None])


def soxr_hq(rate_hz: int) -> Push:
    stream = soxr.ResampleStream(rate_hz, RATE_OUT_HZ, 1, dtype="float32", quality="HQ")
    return lambda samples: _to_int16(stream.resample_chunk(_to_float(samples)))


def soxr_hq_int16(rate_hz: int) -> Push:
    """Its own int16, to which it adds noise that depends on the chunking: less work, another result each time."""
    return soxr.ResampleStream(rate_hz, RATE_OUT_HZ, 1, dtype="int16", quality="HQ").resample_chunk


def libsamplerate(rate_hz: int) -> Push:
    stream, ratio = samplerate.Resampler("sinc_medium"), RATE_OUT_HZ / rate_hz
    return lambda samples: _to_int16(stream.process(_to_float(samples), ratio))


def libswresample(rate_hz: int) -> Push:
    stream = av.AudioResampler(format="s16", layout="mono", rate=RATE_OUT_HZ)

    def push(samples: NDArray[np.int16]) -> NDArray[np.int16]:
        frame = av.AudioFrame.from_ndarray(samples[None, :], format="s16", layout="mono")
        frame.sample_rate = rate_hz
        frames = [out.to_ndarray()[0] for out in stream.resample(frame)]
        return np.concatenate(frames) if frames else np.empty(0, np.int16)

    return push


PEERS: Mapping[str, Callable[[int], Push]] = {
    "soxr": soxr_hq,
    "libsamplerate": libsamplerate,
    "libswresample": libswresample,
}


def _to_float(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    return np.multiply(samples, 1 / 32_768, dtype=np.float32)


def _to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    samples *= 32_768
    np.rint(samples, out=samples)
    samples.clip(-32_768, 32_767, out=samples)
    return samples.astype(np.int16)
