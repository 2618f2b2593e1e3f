"""Noise is what a client may pass over: no step of a hand-shake, no end, no description."""

import pytest

from bridge.errors import RemoteProtocolError
from bridge.local_avatar.faults import Fault, Faults
from bridge.local_avatar.noise import Noise
from bridge.protocols import navtalk
from bridge.protocols.navtalk_json import parse_event


def frames(*names: str, n_rounds: int = 20) -> list[list[str | bytes]]:
    noise = Noise(Faults(Fault(name) for name in names))
    return [noise.next_frames() for _ in range(n_rounds)]


def test_without_a_fault_there_is_silence() -> None:
    assert Noise(Faults([Fault("loss", 1.0)])).is_silent
    assert frames("loss") == [[]] * 20


def test_kinds_come_side_by_side_and_never_run_out() -> None:
    assert all(len(both) == 2 for both in frames("bad-json", "binary-frames"))


@pytest.mark.parametrize("name", ["bad-json", "unknown-events"])
def test_frames_that_mean_nothing_are_unknown(name: str) -> None:
    for [frame] in frames(name):
        assert isinstance(frame, str)
        assert isinstance(parse_event(frame), navtalk.Unknown)


def test_binary_frames_are_binary() -> None:
    assert all(isinstance(frame, bytes) for [frame] in frames("binary-frames"))


def test_malformed_events_are_of_known_types_and_lack_what_they_are_for() -> None:
    for [frame] in frames("malformed-events"):
        assert isinstance(frame, str)
        with pytest.raises(RemoteProtocolError):
            parse_event(frame)
