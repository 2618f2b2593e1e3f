"""From the end of a turn to the avatar's first sound."""

import numpy as np
import pytest
from numpy.typing import NDArray

from bridge.media.clock import NS_PER_MS
from bridge.reply import Reply
from tests.unit.dsp.voices import silence, voice
from tests.unit.test_hush import packets


def heard(samples: NDArray[np.int16], begins_ms: int, cancelled_ms: int | None = None) -> list[float]:
    """Speech has ended 100 ms before `begins_ms`, when the service says so."""
    found: list[float] = []
    reply = Reply(found.append)
    for unit in packets(samples):
        if unit.arrival_ns == begins_ms * NS_PER_MS:
            reply.begin(unit.arrival_ns - 100 * NS_PER_MS)
        if cancelled_ms is not None and unit.arrival_ns == cancelled_ms * NS_PER_MS:
            reply.cancel()
        reply.on_sound(unit)
    return found


def test_a_reply_counts_from_the_end_of_speech_to_its_first_sound() -> None:
    assert heard(np.concatenate((silence(1.0), voice())), 400) == [pytest.approx(0.7, abs=0.061)]


def test_a_turn_that_goes_on_has_no_reply() -> None:
    assert heard(np.concatenate((silence(1.0), voice())), 400, cancelled_ms=600) == []


def test_what_sounded_when_the_turn_was_over_is_no_reply_to_it() -> None:
    assert heard(voice(), 400) == []


def test_what_is_said_half_a_minute_later_is_no_reply() -> None:
    assert heard(np.concatenate((silence(31.0), voice())), 400) == []


def test_each_turn_has_its_own_reply() -> None:
    found: list[float] = []
    reply = Reply(found.append)
    for unit in packets(np.concatenate((silence(1.0), voice()[:12_000], silence(1.0), voice()[:12_000]))):
        if unit.arrival_ns in (400 * NS_PER_MS, 1_800 * NS_PER_MS):
            reply.begin(unit.arrival_ns)
        reply.on_sound(unit)
    assert found == [pytest.approx(0.6, abs=0.061), pytest.approx(0.7, abs=0.061)]
