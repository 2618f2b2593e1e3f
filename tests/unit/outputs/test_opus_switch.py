"""When packets of the avatar's pass and when ours take their place, packet by packet."""

from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np
import pytest

from bridge.media.access_unit import AccessUnit
from bridge.media.clock import NS_PER_MS, OPUS_CLOCK_HZ, ns_to_ticks
from bridge.media.opus_decoder import N_CHANNELS, Samples
from bridge.media.opus_encoder import FRAME_SAMPLES
from bridge.outputs.opus_switch import Mark, OpusSwitch
from tests.unit.outputs.coded_media import opus_units

RATES = (64_000, 128_000)
FRAME_NS = 20 * NS_PER_MS


def packets(n: int, starts_ns: int = 0) -> list[AccessUnit]:
    """The avatar's, 20 ms each."""
    samples = (3_000 * np.sin(np.arange(n * FRAME_SAMPLES) / 20)).astype(np.int16)
    return opus_units(np.stack([samples, samples], axis=1), starts_ns=starts_ns)


def mix(n_samples: int = FRAME_SAMPLES) -> Samples:
    return np.random.default_rng(1).uniform(-0.1, 0.1, (N_CHANNELS, n_samples)).astype(np.float32)


def passed(
    units: Iterable[AccessUnit],
    *,
    used: Collection[int] = (),
    quiet: Collection[int] = (),
    bit_rates: Collection[int] = RATES[:1],
) -> list[tuple[int, AccessUnit]]:
    """What comes out of a switch, frame by frame of 20 ms: an input is heard in those of `used`, and the avatar is not
    in those of `quiet`.
    """
    switch, made = OpusSwitch(), []
    for number, unit in enumerate(units):
        switch.put(unit)
        end = (number + 1) * FRAME_SAMPLES
        made += switch.push(mix(), end, Mark(end, number in used, number in quiet), bit_rates)
    return made + switch.flush(bit_rates)


def own(made: Iterable[tuple[int, AccessUnit]], units: Iterable[AccessUnit]) -> list[int]:
    """Which places of the avatar's row our packets have, by the beginning of each."""
    theirs = [id(unit) for unit in units]
    return [round(unit.pts_ns / FRAME_NS) for _, unit in made if id(unit) not in theirs]


def test_without_an_input_every_packet_passes_for_every_bit_rate() -> None:
    units = packets(10)
    made = passed(units, bit_rates=RATES)
    for bit_rate in RATES:
        assert [unit for rate, unit in made if rate == bit_rate] == units
    assert not own(made, units)


def test_what_stands_for_sound_that_did_not_come_is_no_packet() -> None:
    units = packets(10)
    units[4] = replace(units[4], payload=b"")
    assert [unit for _, unit in passed(units)] == units[:4] + units[5:]


def test_packets_are_ours_from_where_an_input_sets_in_until_the_avatar_pauses() -> None:
    units = packets(20)
    made = passed(units, used=range(5, 8), quiet=range(12, 20))
    assert own(made, units) == list(range(5, 13))
    starts = [unit.pts_ns for _, unit in made]
    assert starts == [n * FRAME_NS for n in range(20)]
    assert {unit.duration_ns for _, unit in made} == {FRAME_NS}


def test_an_input_that_is_heard_again_in_the_pause_keeps_the_avatar_s_packets_away() -> None:
    units = packets(20)
    made = passed(units, used=[5, 13, 14], quiet=range(12, 20))
    assert own(made, units) == list(range(5, 16))


def test_while_the_avatar_speaks_its_packets_do_not_come_back() -> None:
    units = packets(20)
    assert own(passed(units, used=[5]), units) == list(range(5, 20))


def test_each_bit_rate_has_an_encoder_of_its_own() -> None:
    units = packets(12)
    made = passed(units, used=range(4, 12), bit_rates=RATES)
    sizes = [sum(len(unit.payload) for rate, unit in made[8:] if rate == bit_rate) for bit_rate in RATES]
    assert 1.4 < sizes[1] / sizes[0] < 2.2


def test_nothing_is_decided_before_the_mix_of_all_of_a_packet_is_there() -> None:
    switch = OpusSwitch()
    (unit,) = packets(1)
    switch.put(unit)
    half = FRAME_SAMPLES // 2
    assert switch.push(mix(half), half, Mark(half, False, False), RATES[:1]) == []
    # An input that sets in in its second half takes all of it.
    (made,) = switch.push(mix(half), FRAME_SAMPLES, Mark(FRAME_SAMPLES, True, False), RATES[:1])
    assert made[1].pts_ns == 0 and made[1].payload != unit.payload


@pytest.mark.parametrize("is_used", [False, True])
def test_at_the_end_comes_what_waits_and_a_frame_that_is_not_full_is_filled_up(is_used: bool) -> None:
    switch = OpusSwitch()
    units = packets(2)
    for unit in units:
        switch.put(unit)
    n_samples = FRAME_SAMPLES + 100
    made = switch.push(mix(n_samples), n_samples, Mark(n_samples, is_used, False), RATES[:1])
    assert len(made) == 1
    made += switch.flush(RATES[:1])
    assert [unit.pts_ns for _, unit in made] == [0, FRAME_NS]
    assert len(own(made, units)) == (2 if is_used else 0)


def test_packets_whose_places_ours_have_taken_do_not_come_late() -> None:
    # Half a frame beside ours: the avatar's timeline has moved.
    units = packets(8) + packets(8, starts_ns=8 * FRAME_NS + 8 * NS_PER_MS)
    made = passed(units, used=[2], quiet=range(10, 16))
    ends = [ns_to_ticks(unit.pts_ns + unit.duration_ns, OPUS_CLOCK_HZ) for _, unit in made]
    starts = [ns_to_ticks(unit.pts_ns, OPUS_CLOCK_HZ) for _, unit in made]
    assert all(start >= end - FRAME_SAMPLES // 2 for start, end in zip(starts[1:], ends, strict=False))
    assert starts == sorted(set(starts))
