import numpy as np

from benchmarks.beeper import BEEP_EVERY, coded_beeps
from benchmarks.ingest import pair_up
from bridge.media.clock import NS_PER_MS
from bridge.media.opus_sound import open_decoder


def test_each_beep_is_paired_with_the_first_one_heard_behind_it() -> None:
    sent = [0, 500 * NS_PER_MS, 1_000 * NS_PER_MS]
    # The second one is not heard: the third one's hearing is too late to be its own.
    assert pair_up(sent, [30 * NS_PER_MS, 1_042 * NS_PER_MS]) == [30.0, 42.0]
    assert pair_up(sent, []) == []


def test_a_beep_begins_in_the_last_packet_of_a_period() -> None:
    decoder = open_decoder()
    levels = [float(np.abs(decoder.decode(packet)).max()) for packet in 2 * coded_beeps()]
    # Opus decodes late: its end is in the packet behind.
    assert [n for n, level in enumerate(levels) if level > 0.1] == [BEEP_EVERY - 1, BEEP_EVERY, 2 * BEEP_EVERY - 1]
