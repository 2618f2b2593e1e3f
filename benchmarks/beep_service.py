"""The avatar service of `benchmarks.source`, which also listens: `python -m benchmarks.beep_service` prints its URL.

At SIGTERM it prints one JSON list: when each message came in which a beep begins.
"""

import asyncio
import json
import time

import numpy as np

from benchmarks.source import serve_until_stopped

# A quarter of a beep's amplitude: what a coder makes of silence is far below.
LOUD = 4_000


class Ear:
    """heard_ns: `time.monotonic_ns` of messages with a beep in them, behind one without."""

    def __init__(self) -> None:
        self.heard_ns: list[int] = []
        self._was_loud = False

    def hear(self, pcm16: bytes) -> None:
        now_ns = time.monotonic_ns()
        is_loud = int(np.abs(np.frombuffer(pcm16, "<i2").astype(np.int32)).max(initial=0)) > LOUD
        if is_loud and not self._was_loud:
            self.heard_ns.append(now_ns)
        self._was_loud = is_loud


if __name__ == "__main__":
    ear = Ear()
    asyncio.run(serve_until_stopped(ear.hear))
    print(json.dumps(ear.heard_ns))
