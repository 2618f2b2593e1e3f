"""Three minutes of the six hours: the simulation runs, and measures what it is made to have."""

import pytest

from benchmarks.six_hours import simulate


def test_a_few_simulated_minutes_are_in_sync_and_their_drift_is_measured() -> None:
    found = simulate(hours=0.052)
    assert len(found.offsets_ms) == 3
    assert max(abs(offset_ms) for _, offset_ms in found.offsets_ms) < 4
    assert found.ppm == pytest.approx(200, abs=20)
    assert found.rtp_wraps == 0 and 186_000 < found.last_ms < 188_000
