"""Faults are read from NAME[:VALUE], and happen when their time has come."""

import pytest
from structlog.testing import capture_logs

from bridge.local_avatar.faults import FAULTS, OPEN_TIMEOUT_S, Fault, Faults, NoSuchFault, describe_faults


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("ws-drop", Fault("ws-drop", 5.0)),
        ("ws-drop:2.5", Fault("ws-drop", 2.5)),
        ("media-stall:0", Fault("media-stall", 0.0)),
        ("balance", Fault("balance", 0.0)),
        ("loss:.5", Fault("loss", 0.5)),
        ("clock-drift:-50", Fault("clock-drift", -50.0)),
        ("ignore-pli", Fault("ignore-pli")),
        ("close-at:offer", Fault("close-at", choice="offer")),
        ("nesting:double", Fault("nesting", choice="double")),
    ],
)
def test_a_fault_is_a_name_and_what_it_takes(text: str, fault: Fault) -> None:
    assert Fault.parse(text) == fault


def test_an_unknown_fault_is_named() -> None:
    with pytest.raises(NoSuchFault, match=r"^ws-crash:5: there is no such fault$"):
        Fault.parse("ws-crash:5")


def test_the_list_of_faults_shows_how_each_is_written() -> None:
    listed = describe_faults()
    assert all(f"  {name}{kind.usage} " in listed for name, kind in FAULTS.items())
    assert "(2 percent)" in listed


@pytest.mark.parametrize(
    "text",
    ["ws-drop:", "ws-drop:soon", "ws-drop:nan", "ws-drop:1e3", "ws-drop:٣", "ignore-pli:1", "close-at", "close-at:x"],
)
def test_a_value_that_does_not_fit_shows_how_it_is_written(text: str) -> None:
    with pytest.raises(ValueError, match="it is written"):
        Fault.parse(text)


@pytest.mark.parametrize(
    "text", ["ws-drop:-1", "loss:101", "clock-drift:20000", "late-offer:99999999", f"slow-accept:{OPEN_TIMEOUT_S:g}"]
)
def test_a_value_out_of_range_shows_the_range(text: str) -> None:
    with pytest.raises(ValueError, match="lie between"):
        Fault.parse(text)


def test_of_several_faults_with_one_name_the_last_counts() -> None:
    faults = Faults([Fault("loss", 1.0), Fault("loss", 3.0), Fault("close-at", choice="offer")])
    assert faults.value("loss") == 3.0
    assert faults.choice("close-at") == "offer"
    assert "loss" in faults and "reorder" not in faults
    assert (faults.value("reorder", 7.0), faults.choice("nesting", "wrapped")) == (7.0, "wrapped")


def test_a_fault_is_logged_once_where_it_strikes() -> None:
    faults = Faults([Fault("loss", 5.0), Fault("nesting", choice="raw")])
    with capture_logs() as logged:
        assert [faults.strikes(name) for name in ("loss", "loss", "reorder", "nesting")] == [True, True, False, True]
    assert [(line["event"], line["fault"], line["value"]) for line in logged] == [
        ("avatar_fault", "loss", 5.0),
        ("avatar_fault", "nesting", "raw"),
    ]


async def test_faults_happen_in_the_order_of_their_times_and_others_never() -> None:
    happened = []

    async def act(name: str) -> None:
        happened.append(name)

    actions = {name: lambda name=name: act(name) for name in ("ws-drop", "balance", "points")}
    await Faults([Fault("ws-drop", 0.001), Fault("balance", 0.0), Fault("loss", 0.0)]).commit(actions)
    assert happened == ["balance", "ws-drop"]


async def test_faults_of_one_time_happen_in_the_order_in_which_they_were_asked_for() -> None:
    names = list(FAULTS)[:20]
    happened: list[str] = []

    async def act(name: str) -> None:
        happened.append(name)

    actions = {name: lambda name=name: act(name) for name in reversed(names)}
    await Faults([Fault(name) for name in names]).commit(actions)
    assert happened == names
