"""What a presenter does besides speaking: breathes, blinks, looks about, sways; attends to who speaks, and thinks."""

import math
import random
from typing import Literal

from bridge.local_avatar.face import Pose

Mood = Literal["idle", "listening", "thinking"]

_BREATH_S = 4.2  # 14 breaths a minute: an adult at rest
# Lids close in 80 ms and open in 180 (VanderWerf et al., 2003); shut for one picture, so that one shows it.
_CLOSING_S, _SHUT_S, _OPENING_S = 0.08, 0.045, 0.18
_BLINK_S = _CLOSING_S + _SHUT_S + _OPENING_S
_NOD_S = 0.55
_SACCADE_S = 0.025  # a glance takes 30 to 80 ms: one or two pictures


class _Eased:
    """A value that follows another without a jerk: two lags in a row."""

    def __init__(self, time_s: float) -> None:
        self._time_s = time_s
        self._aim = self.value = 0.0

    def follow(self, wanted: float, passed_s: float) -> float:
        rate = 1 - math.exp(-passed_s / self._time_s)
        self._aim += rate * (wanted - self._aim)
        self.value += rate * (self._aim - self.value)
        return self.value


class Gestures:
    """Poses over the time of one session; the same seed and inputs give the same poses."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._phases = [self._random.uniform(0, 2 * math.pi) for _ in range(5)]
        self._now_s = 0.0
        self._talk, self._hear, self._think = (_Eased(0.22) for _ in range(3))
        self._stress = _Eased(0.09)
        self._was_speaking, self._was_thinking = False, False
        self._blink_s, self._blink_pace = self._random.uniform(1.0, 3.0), 1.0
        self._glance, self._gaze = (0.0, 0.0), (0.0, 0.0)
        self._glance_until_s, self._fixed_until_s = 2.0, 0.0
        self._nod_s, self._nods = 0.0, 0
        self._side = 1.0  # where a thought takes the eyes

    def pose(self, now_s: float, *, speaking: bool, mood: Mood, openness: float) -> Pose:
        """The pose at a media time, which must not go back. `openness` of the mouth stresses what is said; the mood
        shows while nothing is."""
        passed_s, self._now_s = now_s - self._now_s, now_s
        thinking = mood == "thinking" and not speaking
        listening = mood == "listening" and not speaking
        talk = self._talk.follow(speaking, passed_s)
        hear = self._hear.follow(listening, passed_s)
        think = self._think.follow(thinking, passed_s)
        stress = talk * self._stress.follow(openness, passed_s)
        if thinking and not self._was_thinking:
            self._side = self._random.choice((-1.0, 1.0))
            self._glance_until_s = now_s
        if self._was_thinking and not thinking:
            self._glance_until_s = now_s
        if self._was_speaking and not speaking:
            self._may_blink(0.6)
        self._was_speaking, self._was_thinking = speaking, thinking

        loose = 1 - hear - think
        drift, wander = self._wave(9.1, 0) * 0.6 + self._wave(5.3, 1) * 0.4, self._wave(7.7, 2) * 0.7
        side = self._side
        turn = (0.4 + 0.4 * talk) * wander * loose + hear * (0.15 + 0.1 * wander) + think * side * (0.7 + 0.1 * wander)
        nod = 0.1 * self._wave(6.1, 3) + 0.8 * stress - 0.25 * talk + hear * (0.2 + 0.5 * self._nodding(hear))
        nod -= 0.3 * think
        self._look(thinking, listening, passed_s)
        # While the head moves the eyes stay with whom they look at.
        gaze_x, gaze_y = self._gaze[0] - 0.3 * turn * (1 - think), self._gaze[1] - 0.25 * nod * (1 - think)
        raised = 0.45 * hear + 0.8 * stress + 0.2 * talk * max(0.0, self._wave(3.7, 4))
        # Lids go with the eyes: lower where they look down.
        open_part = 1.0 + 0.06 * hear - 0.07 * think - 0.3 * max(0.0, gaze_y) - 0.05 * min(0.0, gaze_y)
        return Pose(
            sway=(0.4 + 0.25 * talk) * drift * loose + hear * (0.7 + 0.1 * drift) - think * 0.35 * side,
            turn=_within(turn),
            nod=_within(nod),
            breath=0.5 - 0.5 * math.cos(2 * math.pi * now_s / _BREATH_S),
            gaze_x=_within(gaze_x),
            gaze_y=_within(gaze_y),
            lids=min(1.1, open_part) * self._lids(1 + 0.5 * think),
            brow_left=_within(raised + think * (0.75 if side < 0 else 0.1)),
            brow_right=_within(raised + think * (0.75 if side > 0 else 0.1)),
            frown=think,
            smile=max(0.0, 0.75 - 0.2 * hear - 0.75 * think - 0.5 * talk),
            press=0.9 * think,
        )

    def _wave(self, period_s: float, index: int) -> float:
        return math.sin(2 * math.pi * self._now_s / period_s + self._phases[index])

    def _lids(self, pace: float) -> float:
        """0 .. 1 of a blink; the next one begins 2 to 6 s later, now and then at once. pace: how much slower."""
        since_s = (self._now_s - self._blink_s) / self._blink_pace
        if since_s < 0:
            return 1.0
        if since_s < _BLINK_S:
            closing, opening = 1 - since_s / _CLOSING_S, (since_s - _CLOSING_S - _SHUT_S) / _OPENING_S
            return max(0.0, closing, math.sin(math.pi / 2 * max(0.0, opening)))
        twice = self._random.random() < 0.12
        self._blink_s = self._now_s + (0.08 if twice else pace * self._random.triangular(1.8, 5.6, 3.0))
        self._blink_pace = pace
        return 1.0

    def _may_blink(self, chance: float) -> None:
        """Bring the next blink forward, unless the last one was just now."""
        if self._blink_s - self._now_s < 4.0 and self._now_s < self._blink_s and self._random.random() < chance:
            self._blink_s = self._now_s

    def _nodding(self, hear: float) -> float:
        """0 .. 1: one to three nods, each smaller than the one before, every 2.5 to 5.5 s."""
        since_s = self._now_s - self._nod_s
        if since_s >= self._nods * _NOD_S:
            pause_s = self._random.uniform(2.5, 5.5) if hear > 0.5 else 0.8
            self._nod_s, self._nods = self._now_s + pause_s, self._random.choice((1, 2, 2, 3))
            return 0.0
        if since_s < 0:
            return 0.0
        index = int(since_s / _NOD_S)
        return 0.7**index * math.sin(math.pi * (since_s / _NOD_S - index)) ** 2

    def _look(self, thinking: bool, listening: bool, passed_s: float) -> None:
        """Move the eyes: glances between long looks ahead, and the small jumps that no eye is without."""
        chance = self._random
        if self._now_s >= self._glance_until_s:
            before = self._glance
            away = before != (0.0, 0.0)
            if thinking:
                self._glance = self._side * chance.uniform(0.55, 0.9), chance.uniform(-0.9, -0.6)
                stay_s = chance.uniform(0.9, 2.2)
            elif listening or away:
                self._glance, stay_s = (0.0, 0.0), chance.uniform(1.8, 4.5)
            else:
                far = chance.random() < 0.4
                angle, reach = chance.uniform(-0.3, 0.6), chance.uniform(0.5, 0.8) if far else chance.uniform(0.15, 0.3)
                self._glance = chance.choice((-1, 1)) * reach * math.cos(angle), reach * math.sin(angle)
                stay_s = chance.uniform(0.35, 0.9)
            self._glance_until_s = self._now_s + stay_s
            if math.dist(before, self._glance) > 0.4:
                self._may_blink(0.35)
        if self._now_s >= self._fixed_until_s:
            self._jitter = chance.uniform(-0.05, 0.05), chance.uniform(-0.04, 0.04)
            self._fixed_until_s = self._now_s + chance.uniform(0.3, 1.2)
        rate = 1 - math.exp(-passed_s / _SACCADE_S)
        x, y = (
            at + rate * (aim + small - at)
            for at, aim, small in zip(self._gaze, self._glance, self._jitter, strict=True)
        )
        self._gaze = x, y


def _within(value: float) -> float:
    return max(-1.0, min(1.0, value))
