import numpy as np

from benchmarks.speech import BLOCK_SAMPLES, SPOKEN_BLOCKS, speech, waits
from benchmarks.speech_service import LOUD
from bridge.media.clock import NS_PER_MS


def ms(*times_ms: float) -> list[int]:
    return [round(time_ms * NS_PER_MS) for time_ms in times_ms]


def test_what_passes_at_the_service_is_taken_off() -> None:
    said = ms(0, 2_000, 4_000)
    noted = [(30 * NS_PER_MS, 130 * NS_PER_MS), (2_020 * NS_PER_MS, 2_090 * NS_PER_MS)]
    # The third utterance never came, and of what is heard without having been sent nothing is known.
    assert waits(said, noted, ms(10, 135, 2_092, 4_100)) == [35.0, 22.0]
    assert waits(said, noted, []) == waits([], [], []) == []


def test_the_voice_sets_in_at_once() -> None:
    voice = speech()
    assert len(voice) == SPOKEN_BLOCKS * BLOCK_SAMPLES
    assert np.abs(voice[:BLOCK_SAMPLES].astype(int)).max() > LOUD
