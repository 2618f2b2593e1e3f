"""A live session under fire: forged, random and truncated STUN, DTLS, SRTP and RTCP, from strangers and in its name."""

import logging

import pytest

from tests.net.siege import Siege

# What a run of 5 s may hold more at its end: a tenth of what it was fired at with.
MOST_GROWN_BYTES = 4 * 2**20
# Half a second without pictures would be a freeze.
LONGEST_GAP_S = 0.5


@pytest.mark.serial
async def test_a_live_session_does_not_notice_being_fired_at(caplog: pytest.LogCaptureFixture) -> None:
    siege = Siege(seconds=4.0)
    with caplog.at_level(logging.WARNING):
        await siege.run(seed=5)
    assert siege.is_up
    assert siege.fired.total() > 1_000
    # Whatever was not read has been counted.
    assert siege.fired.total() - siege.harmless <= siege.rejected.total() <= siege.fired.total()
    # All that was sent has come, and nothing of a forgery.
    assert siege.sent_packets == siege.received_packets
    assert siege.longest_gap_s < LONGEST_GAP_S
    assert siege.grown_bytes < MOST_GROWN_BYTES
    assert not [record for record in caplog.records if record.name != "asyncio"]  # which says how slow debug mode is
