"""Where viewers hear an input: each sample when it was heard here, whatever the network makes of its blocks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from bridge.dsp.air_track import AirTrack
from bridge.media.audio import AudioBlock
from bridge.media.clock import NS_PER_MS, NS_PER_S, ticks_to_ns

RATE_HZ = 48_000
BLOCK, BLOCK_MS = 960, 20
HOLD_MS = 60


@dataclass(frozen=True)
class Sent:
    """A block of a live source, made from `made_ms` to 20 ms later, and how long it was under way."""

    made_ms: float
    samples: NDArray[np.float32]
    under_way_ms: float = 0.0


def hear(
    sent: Iterable[Sent], until_ms: int, *, delay_ms: int = 0, ppm: float = 0.0
) -> tuple[NDArray[np.float32], AirTrack]:
    """One channel of what is read until then, 20 ms at a time and 60 ms behind the clock.

    ppm  how much faster than ours the source's clock runs.
    """
    track = AirTrack(HOLD_MS * NS_PER_MS, delay_ms * NS_PER_MS)
    coming = sorted(sent, key=lambda each: each.made_ms + BLOCK_MS + each.under_way_ms)
    heard: list[NDArray[np.float32]] = []
    for now_ms in range(HOLD_MS + BLOCK_MS, until_ms + HOLD_MS + 1, BLOCK_MS):
        while coming and (at_ms := coming[0].made_ms + BLOCK_MS + coming[0].under_way_ms) <= now_ms:
            block = coming.pop(0)
            source_ns = round(block.made_ms * NS_PER_MS * (1 + ppm * 1e-6))
            at_ns = round(at_ms * NS_PER_MS)
            track.push(AudioBlock(block.samples[:, None], RATE_HZ, source_ns), at_ns, at_ns)
        read = track.read((now_ms - HOLD_MS - BLOCK_MS) * RATE_HZ // 1000, BLOCK)
        heard.append(np.zeros((2, BLOCK), np.float32) if read is None else read)
    return np.concatenate(heard, axis=1)[0], track


def ramp(duration_ms: int, starts_ms: int = 0) -> NDArray[np.float32]:
    """No sample like another: tells where it came from."""
    first, end = starts_ms * RATE_HZ // 1000, (starts_ms + duration_ms) * RATE_HZ // 1000
    return (0.1 + 0.8 * np.arange(first, end) / (60 * RATE_HZ)).astype(np.float32)


def blocks(samples: NDArray[np.float32], starts_ms: float = 0.0) -> Iterator[Sent]:
    for start in range(0, len(samples), BLOCK):
        yield Sent(starts_ms + start * 1000 / RATE_HZ, samples[start : start + BLOCK])


def held_up(sent: Iterable[Sent], late_ms: Iterable[float]) -> Iterator[Sent]:
    """By so much, or with the block before: the order is kept."""
    at_ms = 0.0
    for each, late in zip(sent, late_ms, strict=True):
        at_ms = max(at_ms, each.made_ms + late)
        yield Sent(each.made_ms, each.samples, at_ms - each.made_ms)


def place_ms(heard: NDArray[np.float32], at_ms: int) -> float:
    """How much later than at its time the sample is heard that is heard there."""
    value = float(heard[at_ms * RATE_HZ // 1000])
    return at_ms - (value - 0.1) / 0.8 * 60_000


def test_a_sample_is_heard_when_it_was_heard_here() -> None:
    heard, track = hear(blocks(ramp(1_000)), 980)
    assert [place_ms(heard, at_ms) for at_ms in (100, 500, 900)] == pytest.approx([0.0] * 3, abs=0.05)
    assert track.lost_samples == 0


def test_a_delay_moves_all_of_it() -> None:
    heard, _ = hear(blocks(ramp(1_000)), 1_900, delay_ms=800)
    assert place_ms(heard, 1_500) == pytest.approx(800, abs=0.05)
    assert not heard[: 800 * 48].any()


def test_what_a_network_holds_up_by_less_than_there_is_time_for_stays_in_its_place() -> None:
    jitter = np.random.default_rng(3).uniform(0, 40, 250)
    heard, track = hear(held_up(blocks(ramp(5_000)), jitter), 4_900)
    assert [place_ms(heard, at_ms) for at_ms in range(2_500, 4_900, 100)] == pytest.approx([0.0] * 24, abs=2.0)
    assert np.count_nonzero(heard[4_800:] == 0) == 0 and track.lost_samples == 0


def test_what_is_held_up_by_more_moves_so_much_later_and_is_whole() -> None:
    late = [100.0 if number % 5 == 4 else 0.0 for number in range(250)]
    heard, track = hear(held_up(blocks(ramp(5_000)), late), 4_900)
    assert 55 <= place_ms(heard, 4_500) <= 100
    assert np.count_nonzero(heard[3 * RATE_HZ :] == 0) == 0 and track.lost_samples == 0


def test_a_source_that_was_silent_is_heard_at_once_where_it_goes_on() -> None:
    first, second = ramp(400), ramp(600, starts_ms=400)
    # A pipe: its samples are counted on, whenever they come.
    track = AirTrack(HOLD_MS * NS_PER_MS)
    heard: list[NDArray[np.float32]] = []
    pending = [(ms + 20, block) for ms, block in ((each.made_ms, each.samples) for each in blocks(first))]
    pending += [(ms + 20, block) for ms, block in ((each.made_ms, each.samples) for each in blocks(second, 3_000))]
    n_pushed = 0
    for now_ms in range(80, 3_660, 20):
        while pending and pending[0][0] <= now_ms:
            at_ms, samples = pending.pop(0)
            at_ns = round(at_ms * NS_PER_MS)
            track.push(AudioBlock(samples[:, None], RATE_HZ, ticks_to_ns(n_pushed, RATE_HZ)), at_ns, at_ns)
            n_pushed += len(samples)
        read = track.read((now_ms - 80) * 48, BLOCK)
        heard.append(np.zeros((2, BLOCK), np.float32) if read is None else read)
    found = np.concatenate(heard, axis=1)[0]
    assert place_ms(found, 300) == pytest.approx(0.0, abs=0.05)
    assert not found[400 * 48 : 3_000 * 48].any()
    assert place_ms(found, 3_300) == pytest.approx(2_600.0, abs=0.05)


@pytest.mark.parametrize("ppm", [-200.0, 200.0])
def test_a_clock_that_drifts_is_followed_without_a_crack(ppm: float) -> None:
    samples = ramp(30_000)
    sent = [Sent(each.made_ms / (1 + ppm * 1e-6), each.samples) for each in blocks(samples)]
    heard, track = hear(sent, 29_900, ppm=ppm)
    assert place_ms(heard, 29_000) == pytest.approx(29_000 * ppm * -1e-6, abs=2.5)
    assert np.abs(np.diff(heard[480:-480])).max() < 1e-4
    assert track.lost_samples == 0


def test_sound_that_breaks_off_and_sets_in_fades() -> None:
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE_HZ) / RATE_HZ)).astype(np.float32)
    sent = [*blocks(tone[: BLOCK * 13]), *blocks(tone[BLOCK * 20 :], 400)]
    heard, _ = hear(sent, 900)
    assert np.abs(np.diff(heard)).max() < 0.04, "by itself 0.029; a break is a step of up to 0.5"


def test_an_input_that_is_not_there_is_silence() -> None:
    assert AirTrack(HOLD_MS * NS_PER_MS).read(0, BLOCK) is None


def test_what_comes_twice_for_one_time_is_heard_once_and_counted() -> None:
    track = AirTrack(HOLD_MS * NS_PER_MS)
    block = AudioBlock(ramp(100)[:, None], RATE_HZ, 0)
    track.push(block, NS_PER_S, NS_PER_S)
    track.push(block, NS_PER_S, NS_PER_S)
    assert track.lost_samples == len(block.samples)


def test_what_is_taken_ahead_of_its_time_lies_from_then_on() -> None:
    track = AirTrack(HOLD_MS * NS_PER_MS)
    for start_ms in range(0, 640, 64):
        block = AudioBlock(ramp(64, start_ms)[:, None], RATE_HZ, start_ms * NS_PER_MS)
        track.push(block, start_ms * NS_PER_MS + NS_PER_S, (start_ms + 64) * NS_PER_MS + NS_PER_S)
    read = track.read(RATE_HZ, BLOCK * 20)
    assert read is not None
    assert place_ms(read[0], 300) == pytest.approx(0.0, abs=0.05)
