"""What viewers hear: the avatar, and the inputs that are on air, which step back while it speaks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bridge.dsp.levels import PauseGate
from bridge.dsp.limiter import Limiter
from bridge.dsp.mix import Fader
from bridge.media.clock import OPUS_CLOCK_HZ
from bridge.media.opus_decoder import N_CHANNELS, Samples

# Below this an input gives nothing that anybody hears beside an avatar: 20 dB under the noise of a usable room.
_AUDIBLE = 10.0 ** ((PauseGate.THRESHOLD_DBFS - 20.0) / 20.0)
# An input that sounds does so until it was silent for as long: pauses of breath are no end.
_USED_SAMPLES = OPUS_CLOCK_HZ
# Sound as loud as speech is speech, and goes on over the closures of p, t and k and between words.
_LOUD = 10.0 ** (PauseGate.THRESHOLD_DBFS / 20.0)
_HANG_OVER_SAMPLES = OPUS_CLOCK_HZ * 3 // 10


@dataclass(frozen=True, slots=True, kw_only=True)
class AirSettings:
    """Of an input. priority: who speaks ducks those of lower priority, and the avatar all.  duck_db: at most 0."""

    priority: int = 0
    duck_db: float = -12.0


class Mixed(NamedTuple):
    """Sound from `look_ahead_samples` ago, and whether an input was used in what has come now."""

    samples: Samples
    is_used: bool


class AirMix:
    """Adds inputs to the avatar's sound, 48 kHz stereo in [-1, 1].

    While no input sounds, what comes out is what came in, bit for bit; else a limiter keeps the sum 1 dB below full
    scale.

    look_ahead_samples  how far the sound that comes out lies behind, always.
    """

    def __init__(self, inputs: Sequence[AirSettings]) -> None:
        self._inputs = inputs
        self._gates = [_Gate() for _ in inputs]
        self._avatar = _Gate()
        self._faders = [Fader(settings.duck_db, 1.0, OPUS_CLOCK_HZ) for settings in inputs]
        self._limiter = Limiter(OPUS_CLOCK_HZ, N_CHANNELS, 1.0, np.float32)
        self.look_ahead_samples = self._limiter.look_ahead_samples
        self._unused_samples = _USED_SAMPLES

    def push(self, avatar: Samples, pieces: Sequence[Samples | None], gains: Sequence[float]) -> Mixed:
        """Mix a piece of the avatar's sound and one of each input, all so long; None: there is nothing of it.

        gains  of the inputs, reached at the end of the piece; 0: viewers are not to hear it.
        """
        n_samples = avatar.shape[1]
        levels = [0.0 if piece is None else gain * _peak(piece) for piece, gain in zip(pieces, gains, strict=True)]
        self._unused_samples = 0 if max(levels, default=0.0) > _AUDIBLE else self._unused_samples + n_samples
        is_used = self._unused_samples < _USED_SAMPLES
        is_ducked = self._ducked(_peak(avatar), levels, n_samples)
        total = avatar
        if is_used:
            for fader, piece, gain, ducked in zip(self._faders, pieces, gains, is_ducked, strict=True):
                if piece is not None:
                    total = total + fader.push(piece, gain, is_ducked=ducked)
        mixed = self._limiter.push(total, is_limited=is_used)
        return Mixed(mixed.astype(np.float32, copy=False), is_used)

    def _ducked(self, avatar: float, levels: Sequence[float], n_samples: int) -> list[bool]:
        avatar_speaks = self._avatar.push(avatar, n_samples)
        speaking = [gate.push(level, n_samples) for gate, level in zip(self._gates, levels, strict=True)]
        priority = max(
            (each.priority for each, speaks in zip(self._inputs, speaking, strict=True) if speaks), default=0
        )
        return [avatar_speaks or each.priority < priority for each in self._inputs]


class _Gate:
    """Whether there is speech, told by its loudness: what is on air has been leveled by somebody."""

    def __init__(self) -> None:
        self._quiet_samples = _HANG_OVER_SAMPLES

    def push(self, peak: float, n_samples: int) -> bool:
        self._quiet_samples = 0 if peak > _LOUD else self._quiet_samples + n_samples
        return self._quiet_samples < _HANG_OVER_SAMPLES


def _peak(samples: Samples) -> float:
    return float(max(np.maximum.reduce(samples, axis=None), -np.minimum.reduce(samples, axis=None)))
