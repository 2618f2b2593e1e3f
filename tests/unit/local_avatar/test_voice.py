"""What is to be said comes out whole, in order and on time."""

import numpy as np

from bridge.local_avatar.coding import PACKET_SAMPLES
from bridge.local_avatar.visemes import WINDOW_SAMPLES
from bridge.local_avatar.voice import CUSHION_NS, CUSHION_SAMPLES, MAX_QUEUED_SAMPLES, Voice


def ramp(n_samples: int, first: int = 1) -> np.ndarray:
    return (np.arange(first, first + n_samples) % 30_000 + 1).astype(np.int16)


def test_speech_comes_out_in_packets_filled_up_with_silence() -> None:
    voice, said = Voice(), ramp(5 * PACKET_SAMPLES + 100)
    voice.add(said, 0)
    packets = [voice.take(index, 0) for index in range(7)]
    spoken = np.concatenate(packets)
    assert np.array_equal(spoken[: len(said)], said)
    assert not spoken[len(said) :].any()
    assert not voice.is_speaking


def test_blocks_of_any_size_join_without_a_seam() -> None:
    voice, said = Voice(), ramp(8000)
    for start in range(0, 8000, 1536):
        voice.add(said[start : start + 1536], 0)
    spoken = np.concatenate([voice.take(index, 0) for index in range(17)])
    assert np.array_equal(spoken[:8000], said)


def test_the_first_message_of_live_speech_waits_for_the_second() -> None:
    voice = Voice()
    voice.add(ramp(1536), 0)
    assert not voice.take(0, 0).any()
    voice.add(ramp(1536), 64_000_000)
    assert voice.take(1, 64_000_000).any()


def test_a_single_short_message_is_said_after_the_cushion_has_passed() -> None:
    voice = Voice()
    voice.add(ramp(CUSHION_SAMPLES - 1), 0)
    assert not voice.take(0, CUSHION_NS - 1).any()
    assert voice.take(1, CUSHION_NS).any()


def test_live_speech_in_messages_of_64_ms_has_no_gap() -> None:
    voice, said = Voice(), ramp(1536 * 20)
    packets = []
    for index in range(64 * 20 // 20 + 10):
        now_ms = 20 * index
        for message in range(20):
            # Every other message is 15 ms late.
            if now_ms - 20 < 64 * message + 15 * (message % 2) <= now_ms:
                voice.add(said[1536 * message : 1536 * (message + 1)], now_ms * 10**6)
        packets.append(voice.take(index, now_ms * 10**6))
    spoken = np.concatenate(packets)
    start = int(np.flatnonzero(spoken)[0])
    assert np.array_equal(spoken[start : start + len(said)], said)


def test_what_waits_too_long_is_dropped_and_counted() -> None:
    voice = Voice()
    voice.add(np.ones(MAX_QUEUED_SAMPLES + 7, np.int16), 0)
    voice.add(np.ones(3, np.int16), 0)
    assert (voice.queued_samples, voice.dropped_samples) == (MAX_QUEUED_SAMPLES, 10)


def test_clearing_stops_at_once() -> None:
    voice = Voice()
    voice.add(ramp(24_000), 0)
    voice.take(0, 0)
    voice.clear()
    assert not voice.take(1, 0).any()
    assert not voice.is_speaking


def test_the_window_around_a_sample_has_it_in_the_middle_said_or_to_come() -> None:
    voice, said = Voice(), ramp(24_000)
    voice.add(said, 0)
    for index in range(10):
        voice.take(index, 0)
        for sample in (index * PACKET_SAMPLES, (index + 1) * PACKET_SAMPLES - 1):
            window = voice.around(sample)
            assert len(window) == WINDOW_SAMPLES
            assert window[WINDOW_SAMPLES // 2] == said[sample]
            if sample >= WINDOW_SAMPLES:
                start = sample - WINDOW_SAMPLES // 2
                assert np.array_equal(window, said[start : start + WINDOW_SAMPLES])


def test_the_window_is_silent_when_nothing_is_said() -> None:
    assert not Voice().around(0).any()
    assert not Voice().around(480_000).any()
