"""What a presenter does besides speaking: breathes, blinks, looks about, sways; nods while listening."""

import math
import random
from typing import Literal

from bridge.local_avatar.face import Pose

Mood = Literal["idle", "listening", "thinking"]

_BREATH_S = 4.2  # 14 breaths a minute: an adult at rest
_SETTLE_S = 0.35  # how fast the manner changes between idling, speaking and listening
# Lids during a blink, at 40 ms steps: closing is faster than opening (VanderWerf et al., 2003: 80 and 180 ms).
_BLINK = (0.4, 0.0, 0.0, 0.4, 0.72)
_BLINK_STEP_S = 0.04
_AHEAD = 0


class Gestures:
    """Poses over the time of one session; the same seed and inputs give the same poses."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._phases = [self._random.uniform(0, 2 * math.pi) for _ in range(5)]
        self._now_s = 0.0
        self._speaking = self._listening = self._stress = 0.0
        self._blink_s = self._random.uniform(1.0, 3.0)
        self._gaze = _AHEAD
        self._gaze_until_s = 2.0

    def pose(self, now_s: float, *, speaking: bool, mood: Mood, openness: float) -> Pose:
        """The pose at a media time, which must not go back. `openness` of the mouth stresses what is said; the mood
        shows while nothing is."""
        passed_s, self._now_s = now_s - self._now_s, now_s
        settle = 1 - math.exp(-passed_s / _SETTLE_S)
        self._speaking += settle * (speaking - self._speaking)
        self._listening += settle * ((mood == "listening" and not speaking) - self._listening)
        self._stress += (1 - math.exp(-passed_s / 0.18)) * (openness - self._stress)
        talk, hear = self._speaking, self._listening
        drift, turn = self._wave(9.1, 0) * 0.6 + self._wave(5.3, 1) * 0.4, self._wave(7.7, 2) * 0.7
        # A listener nods: two short ones every 3.4 s.
        beat = now_s % 3.4
        nods = math.sin(2 * math.pi * beat / 0.55) if beat < 1.1 else 0.0
        return Pose(
            sway=(0.55 + 0.35 * talk) * drift * (1 - hear) + hear * (0.75 + 0.1 * drift),
            turn=(0.5 + 0.5 * talk) * turn * (1 - hear) + hear * (0.15 + 0.1 * turn),
            nod=0.12 * self._wave(6.1, 3) + talk * (0.9 * self._stress - 0.3) + hear * (0.3 + 0.35 * max(0.0, nods)),
            breath=0.5 - 0.5 * math.cos(2 * math.pi * now_s / _BREATH_S),
            brows=min(1.0, max(0.0, 0.8 * hear + talk * (0.9 * self._stress + 0.25 * self._wave(3.7, 4)))),
            lids=self._lids(now_s),
            gaze=self._look(now_s, hear),
            smile=not speaking,
        )

    def _wave(self, period_s: float, index: int) -> float:
        return math.sin(2 * math.pi * self._now_s / period_s + self._phases[index])

    def _lids(self, now_s: float) -> float:
        step = int((now_s - self._blink_s) / _BLINK_STEP_S)
        if now_s < self._blink_s:
            return 1.0
        if step < len(_BLINK):
            return _BLINK[step]
        # People blink every 2 to 6 s, now and then twice.
        self._blink_s = now_s + (0.12 if self._random.random() < 0.12 else self._random.uniform(1.8, 5.5))
        return 1.0

    def _look(self, now_s: float, hear: float) -> int:
        if now_s >= self._gaze_until_s:
            wanders = self._gaze == _AHEAD and hear < 0.5
            self._gaze = self._random.randint(1, 4) if wanders else _AHEAD
            self._gaze_until_s = now_s + (self._random.uniform(0.4, 1.0) if wanders else self._random.uniform(2.0, 5.0))
        return self._gaze
