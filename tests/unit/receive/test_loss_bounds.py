"""The bounds of `benchmarks.loss` in simulated time: the constants of `bridge.receive` keep them whatever the machine.

Pictures come every 33 ms: a freeze of 133 ms is one packet that had to be asked for twice at a round trip of 50 ms.
"""

from statistics import median

from tests.net.conditions import Conditions
from tests.unit.receive.simulation import CLEAR_S, Simulation, longest_gaps_ms


def test_one_per_cent_of_loss_both_ways_at_50_ms() -> None:
    gaps_ms = longest_gaps_ms(Conditions(delay_ms=25, loss=0.01, clear_s=CLEAR_S), range(10), 30)
    assert median(gaps_ms) <= 150 and gaps_ms[-1] <= 260


def test_five_per_cent_in_bursts_of_five_both_ways_at_80_ms() -> None:
    gaps_ms = longest_gaps_ms(Conditions(delay_ms=40, loss=0.05, burst=5, clear_s=CLEAR_S), range(10), 30)
    assert median(gaps_ms) <= 450 and gaps_ms[-1] <= 700


def test_an_outage_costs_little_more_than_its_length() -> None:
    outages_s = tuple((2.0 + 3 * index + index / 70, 0.6) for index in range(8))
    (gap_ms,) = longest_gaps_ms(Conditions(delay_ms=25, outages_s=outages_s), range(1), 28)
    assert gap_ms <= 600 + 150


def test_one_request_for_each_loss_is_nearly_enough() -> None:
    path = Conditions(delay_ms=25, loss=0.01, clear_s=CLEAR_S)
    simulation = Simulation(path, path, seed=3)
    simulation.run(30)
    stats = simulation.receiver.stats
    assert stats.lost <= 1 and stats.recovered > 50
    assert simulation.requests <= 1.15 * stats.recovered


def test_reordering_alone_costs_no_picture_and_few_requests() -> None:
    path = Conditions(delay_ms=25, reorder=0.05, reorder_ms=4, clear_s=CLEAR_S)
    simulation = Simulation(path, path, seed=3)
    simulation.run(20)
    assert simulation.longest_gap_ms() <= 34 + 4 + 1
    assert simulation.requests <= 20 and simulation.keyframe_requests == 0


def test_jitter_and_duplicates_cost_neither() -> None:
    path = Conditions(delay_ms=25, jitter_ms=10, duplicate=0.05, clear_s=CLEAR_S)
    simulation = Simulation(path, path, seed=3)
    simulation.run(10)
    assert simulation.longest_gap_ms() <= 34 + 20 + 1
    assert (simulation.requests, simulation.keyframe_requests, simulation.receiver.stats.lost) == (0, 0, 0)
    assert simulation.receiver.stats.late > 50
