"""What the avatar has been given to say: a bounded queue that becomes packets, and sound around a moment."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from bridge.local_avatar.coding import PACKET_SAMPLES
from bridge.local_avatar.visemes import WINDOW_SAMPLES
from bridge.media.clock import AVATAR_RATE_HZ, NS_PER_MS

Pcm = NDArray[np.int16]

# The longest utterance that is answered; more is forgotten from its end.
MAX_QUEUED_SAMPLES = 60 * AVATAR_RATE_HZ
# Speech that comes in real time comes in messages of up to 64 ms: it starts with one of them in hand, so that the
# wait for the next one is never heard.
CUSHION_SAMPLES = AVATAR_RATE_HZ * 80 // 1000
CUSHION_NS = 80 * NS_PER_MS


class Voice:
    """What waits to be said, and what has just been said; sample numbers count from media time 0.

    Speech begins when 80 ms of it are there, or 80 ms after it came. Of more than 60 s the newest is dropped and
    counted in `dropped_samples`.
    """

    def __init__(self) -> None:
        self._waiting: deque[Pcm] = deque()
        self._first_came_ns = 0
        self._said = np.zeros(WINDOW_SAMPLES, np.int16)
        self._n_said = 0
        self.queued_samples = 0
        self.dropped_samples = 0
        self._is_flowing = False

    @property
    def is_speaking(self) -> bool:
        """Whether something waits to be said or the last packet held speech."""
        return self._is_flowing or self.queued_samples > 0

    def add(self, pcm: Pcm, now_ns: int) -> None:
        """Queue whole samples that came now."""
        kept = pcm[: max(0, MAX_QUEUED_SAMPLES - self.queued_samples)]
        self.dropped_samples += len(pcm) - len(kept)
        if not len(kept):
            return
        if not self.queued_samples:
            self._first_came_ns = now_ns
        self._waiting.append(kept)
        self.queued_samples += len(kept)

    def clear(self) -> None:
        """Forget what has not been said yet."""
        self._waiting.clear()
        self.queued_samples = 0

    def take(self, packet_index: int, now_ns: int) -> Pcm:
        """The next packet to say, filled up with silence."""
        pcm = np.zeros(PACKET_SAMPLES, np.int16)
        waited_ns = now_ns - self._first_came_ns
        if not self._is_flowing:
            self._is_flowing = self.queued_samples >= CUSHION_SAMPLES or (
                self.queued_samples > 0 and waited_ns >= CUSHION_NS
            )
        if self._is_flowing:
            taken = self._peek(PACKET_SAMPLES)
            pcm[: len(taken)] = taken
            self._drop(len(taken))
            self._is_flowing = len(taken) > 0
        self._said = np.concatenate([self._said[PACKET_SAMPLES:], pcm])
        self._n_said = (packet_index + 1) * PACKET_SAMPLES
        return pcm

    def around(self, sample: int) -> Pcm:
        """`WINDOW_SAMPLES` samples with that one in the middle: said, about to be said, or silence."""
        window = np.zeros(WINDOW_SAMPLES, np.int16)
        to_come = self._peek(WINDOW_SAMPLES) if self._is_flowing else window[:0]
        known = np.concatenate([self._said, to_come])
        start = sample - WINDOW_SAMPLES // 2 - (self._n_said - len(self._said))
        part = known[max(start, 0) : max(start + WINDOW_SAMPLES, 0)]
        window[max(-start, 0) : max(-start, 0) + len(part)] = part
        return window

    def _peek(self, n_samples: int) -> Pcm:
        parts: list[Pcm] = []
        for block in self._waiting:
            if n_samples <= 0:
                break
            parts.append(block[:n_samples])
            n_samples -= len(block)
        return np.concatenate(parts) if parts else np.zeros(0, np.int16)

    def _drop(self, n_samples: int) -> None:
        self.queued_samples -= n_samples
        while n_samples:
            block = self._waiting.popleft()
            if len(block) > n_samples:
                self._waiting.appendleft(block[n_samples:])
            n_samples -= min(n_samples, len(block))
