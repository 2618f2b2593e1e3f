"""Faults are read from NAME[:VALUE]."""

import pytest

from bridge.errors import ConfigError
from bridge.local_avatar.options import Fault, LocalAvatarOptions


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("ws-drop", Fault("ws-drop", after_s=5.0)),
        ("ws-drop:2.5", Fault("ws-drop", after_s=2.5)),
        ("media-stall:0", Fault("media-stall", after_s=0.0)),
        ("ignore-pli", Fault("ignore-pli")),
        ("close-at:offer", Fault("close-at", step="offer")),
    ],
)
def test_a_fault_is_a_name_and_what_it_takes(text: str, fault: Fault) -> None:
    assert Fault.parse(text) == fault


def test_an_unknown_fault_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"--fault ws-crash:5: .*ws-drop\[:SECONDS\].*close-at:success\|offer"):
        Fault.parse("ws-crash:5")


@pytest.mark.parametrize(
    "text", ["ws-drop:", "ws-drop:soon", "ws-drop:-1", "ws-drop:nan", "ignore-pli:1", "close-at", "close-at:x"]
)
def test_a_value_that_does_not_fit_shows_how_it_is_written(text: str) -> None:
    with pytest.raises(ConfigError, match="it is written"):
        Fault.parse(text)


def test_options_find_a_fault_by_its_name() -> None:
    options = LocalAvatarOptions(faults=[Fault("ignore-pli")])
    assert options.fault("ignore-pli") == Fault("ignore-pli")
    assert options.fault("ws-drop") is None
