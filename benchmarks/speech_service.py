"""The local avatar, which notes how it speaks: `python -m benchmarks.speech_service SERVICE` prints its URLs.

At SIGTERM it prints one JSON list: for each utterance, when its first sound came and when the first packet that holds
some of it was ready to be sent, by `time.monotonic_ns`.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bridge.local_avatar import transmission
from bridge.local_avatar.options import LocalAvatarOptions
from bridge.local_avatar.performer import Performer
from bridge.local_avatar.server import LocalAvatar
from bridge.media.access_unit import AccessUnit
from bridge.media.clock import NS_PER_MS
from bridge.signals import STOP_SIGNALS, on_signals

# Of full scale 32768: silence that was resampled is far below, the first syllable of the sample above.
LOUD = 500
# Opus of silence has a handful of bytes, of speech several dozens.
VOICED_BYTES = 60
# Between utterances, and not within words.
PAUSE_NS = 500 * NS_PER_MS

# Each utterance: when it came, and when it was first sent.
noted: list[tuple[int, int]] = []


class NotingPerformer(Performer):
    """One that is told of what is said, and tells of its first packet."""

    def __init__(self, options: Any, on_picture: Any, on_sound: Callable[[AccessUnit], None], **more: Any) -> None:
        super().__init__(options, on_picture, self._send, **more)
        self._pass_on = on_sound
        self._came_ns: int | None = None
        self._loud_ns = 0

    def speak(self, pcm16: bytes) -> None:
        now_ns = time.monotonic_ns()
        if np.abs(np.frombuffer(pcm16, "<i2").astype(int)).max(initial=0) > LOUD:
            if now_ns - self._loud_ns > PAUSE_NS:
                self._came_ns = now_ns
            self._loud_ns = now_ns
        super().speak(pcm16)

    def _send(self, unit: AccessUnit) -> None:
        if self._came_ns is not None and len(unit.payload) >= VOICED_BYTES:
            noted.append((self._came_ns, time.monotonic_ns()))
            self._came_ns = None
        self._pass_on(unit)


async def serve_until_stopped(service: str) -> None:
    stopped = asyncio.Event()
    options = LocalAvatarOptions(services=(service,), size_px=(180, 320))  # type: ignore[arg-type]
    serving = asyncio.create_task(LocalAvatar(options, lambda urls: print(urls, flush=True)).run())
    with on_signals(STOP_SIGNALS, stopped.set):
        await stopped.wait()
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


if __name__ == "__main__":
    transmission.Performer = NotingPerformer  # type: ignore[misc]
    asyncio.run(serve_until_stopped(sys.argv[1]))
    print(json.dumps(noted))
