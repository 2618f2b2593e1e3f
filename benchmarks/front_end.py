"""What one live input costs on its way to the provider: 48 kHz stereo in blocks of 20 ms, sent in messages of 20 ms."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import process_time

import av
import numpy as np
from numpy.typing import NDArray

from bridge.config import InputConfig
from bridge.desk import Desk, open_feed
from bridge.media.audio import AudioBlock
from bridge.redact import Secret
from bridge.samples import SPEECH

RATE_HZ, BLOCK_SAMPLES, MESSAGE_SAMPLES = 48_000, 960, 480
# The least of several is what the work costs; the rest is what else the machine did.
REPEATS = 10


def front_end_core() -> float:
    """CPU time in cores: resampling, waiting, concealment, meter, voice, ducking, mix."""
    return _least()


def front_end_full_core() -> float:
    """The same with all that is off by default: offset, loudness, and with them the limiter."""
    return _least(loudness_lufs=-23.0, dc_blocker=True)


def _least(**keys: float) -> float:
    blocks = _blocks(_speech())
    # One round for what is made once: filters, plans, buffers.
    return min(_spend(blocks, **keys) for _ in range(1 + REPEATS))


def _spend(blocks: list[AudioBlock], **keys: float) -> float:
    """CPU seconds per second of sound, without the event loop."""
    config = InputConfig(url=Secret.url("file:speech"), **keys)  # type: ignore[arg-type]
    feed = open_feed(_Source(), config, lambda feed: None)
    desk = Desk([feed])
    began_s = process_time()
    for block in blocks:
        with suppress(StopIteration):  # a live source's block never waits
            feed.take_block(block).send(None)
        desk.take(MESSAGE_SAMPLES)
    return (process_time() - began_s) / (len(blocks) * BLOCK_SAMPLES / RATE_HZ)


class _Source:
    name = "speech"
    is_live = True

    async def run(self, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        await asyncio.Event().wait()


def _speech() -> NDArray[np.int16]:
    with av.open(str(SPEECH)) as container:
        resampler = av.AudioResampler("s16", "stereo", RATE_HZ)
        pieces = [piece.to_ndarray() for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
    return np.concatenate(pieces, axis=1).reshape(-1, 2)


def _blocks(samples: NDArray[np.int16]) -> list[AudioBlock]:
    whole = len(samples) - len(samples) % BLOCK_SAMPLES
    return [AudioBlock(samples[start : start + BLOCK_SAMPLES], RATE_HZ, 0) for start in range(0, whole, BLOCK_SAMPLES)]
