"""Whether somebody speaks: WebRTC's voice activity detector, with an onset and a hang-over."""

import numpy as np
import webrtcvad
from numpy.typing import NDArray

from bridge.dsp.levels import FULL_SCALE
from bridge.media.clock import AVATAR_RATE_HZ

# The detector itself works at 8 kHz, whatever it is given (vad_core.c: CalcVad16khz to CalcVad48khz decimate first), so
# one tap of what every source becomes serves all of them, and is in step with what is sent.
_TAP_RATE_HZ = 8_000
_STEP = AVATAR_RATE_HZ // _TAP_RATE_HZ
# The mean of three samples: what folds back is mostly what hisses, and counts as voice anyhow, so that 6 to 10 dB less
# of it, from 5 kHz on, are enough. A detector that is fed 48 kHz spends 18 µs a frame on its own decimation, this 2.
# 10, 20 or 30 ms (webrtcvad.h); 20 ms are what live sources come in.
FRAME_SAMPLES = AVATAR_RATE_HZ // 50
_TAP_SAMPLES = FRAME_SAMPLES // _STEP
# 0 to 3: how sure it has to be. 3 misses the ends of words.
_MODE = 2
# The detector takes the first noise it hears for a voice, and a click for a while after it. Speech into a usable
# microphone lies 15 dB above this even at the end of a word, a quiet room below it.
_FLOOR_ENERGY = _TAP_SAMPLES * (32_768 * 10 ** (-55 / 20)) ** 2
# A door or a click is over in 60 ms, a syllable is not. The frame in between may be a stop's closure.
_ONSET_FRAMES, _ONSET_WINDOW = 4, 5


class VoiceDetector:
    """Follows 24 kHz mono in units of an int16 step, in pieces of any length; decides for frames of 20 ms.

    Speech begins with 80 ms of voice within 100, and ends `hang_over_s` after the last frame with a voice in it.

    ONSET_S      how much of a voice is heard until speech begins, at least.
    is_speaking  at the end of what it was given.  onsets: how often speech has begun.
    """

    ONSET_S = _ONSET_FRAMES * FRAME_SAMPLES / AVATAR_RATE_HZ

    def __init__(self, hang_over_s: float, gain: float = 1.0) -> None:
        """`gain`: what it hears the sound with."""
        self.is_speaking = False
        self.onsets = 0
        self._taps = np.full(_STEP, gain / _STEP)
        self._may_exceed_full_scale = gain > 1.0
        self._detector = webrtcvad.Vad(_MODE)
        self._hang_over_frames = max(1, round(hang_over_s * AVATAR_RATE_HZ / FRAME_SAMPLES))
        self._rest: NDArray[np.float64] = np.empty(0)  # what fills no frame
        self._recent = 0  # the newest frames, a bit each; 1: voice
        self._silent_frames = 0

    @property
    def may_be_speaking(self) -> bool:
        """Whether there is a voice in one of the last 100 ms: speech, or a click that is taken for it."""
        return self.is_speaking or self._recent != 0

    def push(self, sound: NDArray[np.float64]) -> None:
        if len(self._rest):
            sound = np.concatenate((self._rest, sound))
        used = len(sound) - len(sound) % FRAME_SAMPLES
        self._rest = sound[used:]
        if not used:
            return
        tap = sound[:used].reshape(-1, _STEP) @ self._taps
        if self._may_exceed_full_scale:
            np.minimum(np.maximum(tap, -FULL_SCALE, out=tap), FULL_SCALE - 1, out=tap)
        pcm16 = tap.astype(np.int16).tobytes()
        for start in range(0, len(tap), _TAP_SAMPLES):
            frame = tap[start : start + _TAP_SAMPLES]
            is_voice = self._detector.is_speech(pcm16[2 * start : 2 * (start + _TAP_SAMPLES)], _TAP_RATE_HZ)
            self._take(is_voice and float(frame @ frame) > _FLOOR_ENERGY)

    @property
    def silent_s(self) -> float:
        """Since the last frame with a voice in it."""
        return self._silent_frames * FRAME_SAMPLES / AVATAR_RATE_HZ

    def begin(self) -> None:
        """Somebody is known to speak."""
        self.onsets += not self.is_speaking
        self.is_speaking, self._silent_frames = True, 0

    def end(self) -> None:
        """Nobody is known to speak any more: the hang-over is not waited for."""
        self.is_speaking, self._recent = False, 0

    def _take(self, is_voice: bool) -> None:
        self._recent = (self._recent << 1 | is_voice) & ((1 << _ONSET_WINDOW) - 1)
        self._silent_frames = 0 if is_voice else self._silent_frames + 1
        if not self.is_speaking and is_voice and self._recent.bit_count() >= _ONSET_FRAMES:
            self.begin()
        elif self.is_speaking and self._silent_frames >= self._hang_over_frames:
            self.end()
