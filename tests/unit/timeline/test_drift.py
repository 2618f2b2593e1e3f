"""The drift meter on a sender whose crystal is known, behind a network that jitters and changes."""

import random

import pytest

from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.timeline.drift import N_SURE_SPANS, SPAN_NS, DriftMeter

UNIT_NS = 20 * NS_PER_MS


class Sender:
    """Gives a unit every 20 ms of its clock, which runs `ppm` fast. jitter_ms: the most that its network adds."""

    def __init__(self, ppm: float, jitter_ms: float = 0.0) -> None:
        self.ppm, self.jitter_ms = ppm, jitter_ms
        self.delay_ms = 25.0
        self.media_ns = 0
        self._random = random.Random(3)

    def send(self, meter: DriftMeter, duration_s: float) -> None:
        for _ in range(round(duration_s * NS_PER_S) // UNIT_NS):
            delay_ms = self.delay_ms + self._random.uniform(0, self.jitter_ms)
            meter.note(self.media_ns, round(self.media_ns / (1 + self.ppm / 1e6) + delay_ms * NS_PER_MS))
            self.media_ns += UNIT_NS


def test_nothing_is_said_in_the_first_minute() -> None:
    meter, sender = DriftMeter(), Sender(100)
    sender.send(meter, N_SURE_SPANS * SPAN_NS / NS_PER_S - 1)
    assert meter.ppm is None
    sender.send(meter, 11)
    assert meter.ppm == pytest.approx(100, abs=0.1)


@pytest.mark.parametrize("ppm", [-10_000, -200, 0, 35, 200, 10_000])
def test_the_clock_is_measured_behind_a_network_that_jitters(ppm: float) -> None:
    meter, sender = DriftMeter(), Sender(ppm, jitter_ms=40)
    sender.send(meter, 80)
    assert meter.ppm == pytest.approx(ppm, rel=0.03, abs=25)
    sender.send(meter, 620)
    assert meter.ppm == pytest.approx(ppm, rel=0.001, abs=3)


def test_a_path_that_changes_and_a_clock_that_leaps_are_no_drift() -> None:
    meter, sender = DriftMeter(), Sender(-50, jitter_ms=5)
    for delay_ms in (25, 105, 15, 15, 300, 60):
        sender.delay_ms = delay_ms
        sender.send(meter, 100)
    assert meter.ppm == pytest.approx(-50, abs=3)
    sender.delay_ms = 3_600_000
    sender.send(meter, 100)
    assert meter.ppm == pytest.approx(-50, abs=3)


def test_a_sender_that_pauses_for_an_hour_is_still_measured() -> None:
    meter, sender = DriftMeter(), Sender(80)
    sender.send(meter, 100)
    sender.media_ns += 3600 * NS_PER_S
    sender.send(meter, 100)
    assert meter.ppm == pytest.approx(80, abs=1)


def test_ten_minutes_count_and_what_was_before_is_forgotten() -> None:
    meter, sender = DriftMeter(), Sender(0)
    sender.send(meter, 600)
    sender.ppm, at_ns = 40, sender.media_ns
    sender.delay_ms += at_ns * (1 - 1 / (1 + 40e-6)) / NS_PER_MS  # continues where it was
    sender.send(meter, 640)
    assert meter.ppm == pytest.approx(40, abs=1)


@pytest.mark.parametrize("ppm", [-200, 200])
def test_it_tells_how_far_the_clock_has_moved_since_the_beginning(ppm: float) -> None:
    meter, sender = DriftMeter(), Sender(ppm, jitter_ms=5)
    assert meter.moved_ns == 0
    sender.send(meter, 3600)
    assert meter.moved_ns / NS_PER_MS == pytest.approx(-3600 * ppm / 1000, abs=4)
    sender.delay_ms += 100
    sender.send(meter, 30)
    assert meter.moved_ns / NS_PER_MS == pytest.approx(100 - 3630 * ppm / 1000, abs=4)
