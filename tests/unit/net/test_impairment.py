from collections.abc import Sequence

import pytest

from bridge.net.impairment import MAX_PLACES_LATE, Impairment, RandomLoss, Reordering, in_turn

PACKETS = [index.to_bytes(2, "big") for index in range(10_000)]


def through(impairment: Impairment, packets: Sequence[bytes] = PACKETS) -> list[int]:
    return [int.from_bytes(sent, "big") for packet in packets for sent in impairment(packet)]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_as_many_packets_are_lost_as_were_asked_for(share: float) -> None:
    assert abs(1 - len(through(RandomLoss(share))) / len(PACKETS) - share) < 0.015


@pytest.mark.parametrize("kind", [RandomLoss, Reordering])
def test_the_seed_decides(kind: type[RandomLoss] | type[Reordering]) -> None:
    assert through(kind(0.1, 7)) == through(kind(0.1, 7)) != through(kind(0.1, 8))


def test_reordering_loses_and_repeats_nothing() -> None:
    sent = through(Reordering(0.1))
    assert sorted(sent) == sorted(set(sent)) and len(PACKETS) - len(sent) <= MAX_PLACES_LATE
    assert sent != sorted(sent)


def test_a_packet_is_held_back_for_one_to_three_others() -> None:
    sent = through(Reordering(0.1))
    late = set()
    for place, index in enumerate(sent):
        overtaken_by = [other for other in sent[max(0, place - 20) : place] if other > index]
        if overtaken_by:
            late.add(len(overtaken_by))
    assert {1, 2, 3} <= late and max(late) <= 2 * MAX_PLACES_LATE


def test_nothing_is_reordered_without_a_share() -> None:
    assert through(Reordering(0.0)) == list(range(len(PACKETS)))


def test_faults_add_up() -> None:
    both = through(in_turn(RandomLoss(0.1, 1), Reordering(0.1, 2)))
    assert both != sorted(both) and abs(len(both) / len(PACKETS) - 0.9) < 0.015
    assert through(in_turn()) == list(range(len(PACKETS)))
