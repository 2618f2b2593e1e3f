"""When somebody speaks in the sound that reaches the local avatar: energy, counted in samples, never in arrival times.

Browsers send microphone sound in bursts of 341 ms, so the clock of the wall says nothing about pauses.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

RATE_HZ = 24_000
_WINDOW_SAMPLES = 480  # 20 ms: shorter windows follow single periods of a low voice
_WINDOW_BYTES = 2 * _WINDOW_SAMPLES
# Spoken vowels lie 20 to 30 dB, fricatives some 40 dB below full scale; a quiet room's microphone below -55 dBFS.
_SPEECH_RMS = 32768 * 10 ** (-46 / 20)
# A door or a click is over in 60 ms, a syllable is not.
_ONSET_WINDOWS = 4
# The vendor's legacy page configures server_vad with 500 ms of silence at the end and 300 ms of sound kept before it.
_END_WINDOWS = 25
_LEAD_WINDOWS = 15
# Somebody who never pauses gets an answer too, and memory stays bounded (1.4 MB).
_MAX_WINDOWS = 30 * RATE_HZ // _WINDOW_SAMPLES


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """Somebody began to speak."""


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """Somebody has spoken: the sound from 300 ms before its beginning to the end of its last syllable."""

    pcm16: bytes

    @property
    def duration_s(self) -> float:
        return len(self.pcm16) / 2 / RATE_HZ


class TurnDetector:
    """Cuts a stream of PCM16, 24 kHz, mono, into turns.

    A turn begins with 80 ms of sound without a gap, and ends with 500 ms of silence or after 30 s.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._windows: deque[bytes] = deque(maxlen=_LEAD_WINDOWS + _ONSET_WINDOWS)
        self._is_speech = False
        self._run = 0  # windows that in a row speak against the present state

    def push(self, pcm16: bytes) -> list[TurnStarted | TurnEnded]:
        """Take whole samples; the same events come for every way of cutting the stream."""
        events: list[TurnStarted | TurnEnded] = []
        data = self._rest + pcm16
        whole = len(data) - len(data) % _WINDOW_BYTES
        self._rest = data[whole:]
        for start in range(0, whole, _WINDOW_BYTES):
            event = self._push_window(data[start : start + _WINDOW_BYTES])
            if event is not None:
                events.append(event)
        return events

    def _push_window(self, window: bytes) -> TurnStarted | TurnEnded | None:
        self._windows.append(window)
        self._run = self._run + 1 if is_loud(window) != self._is_speech else 0
        if not self._is_speech:
            if self._run < _ONSET_WINDOWS:
                return None
            self._windows = deque(self._windows)
            self._is_speech, self._run = True, 0
            return TurnStarted()
        if self._run < _END_WINDOWS and len(self._windows) < _MAX_WINDOWS:
            return None
        spoken = list(self._windows)[: len(self._windows) - self._run]
        self._windows = deque(self._windows, maxlen=_LEAD_WINDOWS + _ONSET_WINDOWS)
        self._is_speech, self._run = False, 0
        return TurnEnded(b"".join(spoken))


class SilenceGate:
    """Lets sound through, and with it pauses of up to 500 ms; longer silence stops at the gate.

    A service is fed with silence while nobody speaks. Said like speech, it would queue up behind every stall of the
    network, and the avatar would fall behind for good.
    """

    def __init__(self) -> None:
        self._silent_bytes = _END_WINDOWS * _WINDOW_BYTES

    def passes(self, pcm16: bytes) -> bool:
        self._silent_bytes = 0 if is_loud(pcm16) else self._silent_bytes + len(pcm16)
        return self._silent_bytes < _END_WINDOWS * _WINDOW_BYTES


def is_loud(pcm16: bytes) -> bool:
    """Whether whole samples are as loud as speech."""
    if not pcm16:
        return False
    samples = np.frombuffer(pcm16, "<i2").astype(np.float64)
    return bool(np.mean(samples * samples) >= _SPEECH_RMS**2)
