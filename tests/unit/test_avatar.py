"""One session of the service after another, as viewers and the service see it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bridge import programme as programme_module
from bridge import renewal as renewal_module
from bridge.errors import ProviderRejected, ProviderUnavailable
from bridge.ports import AvatarEvent, AvatarListener
from bridge.reception import Reception
from bridge.status import SessionState
from bridge.timeline import splice as splice_module
from bridge.timeline.splice import OnAir
from bridge.uplink import Uplink
from tests.unit.stage import FakeProvider, FakeSource, Stage, ended, limited, refusing, saying, show, until


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stage:
    # The shortest limit that a configuration takes is 30 s: a session of it is renewed after 0.1 s.
    monkeypatch.setattr(renewal_module, "OPEN_AHEAD_S", 29.9)
    monkeypatch.setattr(renewal_module, "PAUSE_AHEAD_S", 29.5)
    return Stage(monkeypatch, tmp_path)


async def leave_after_a_picture(provider: FakeProvider, listener: AvatarListener) -> None:
    try:
        async with asyncio.timeout(0.05):
            await show(provider, listener)
    except TimeoutError:
        raise ProviderUnavailable("away") from None


def strictly_increasing(stage: Stage) -> bool:
    times_ns = [unit.pts_ns for unit in stage.outputs[0].written if unit.codec.kind == "video"]
    return times_ns == sorted(set(times_ns))


async def test_before_its_limit_a_session_is_replaced_by_one_that_is_ready(stage: Stage) -> None:
    session, provider = stage.session(show, max_session_s=30.0)
    running = asyncio.create_task(session.run())
    await until(lambda: provider.n_connections == 2)
    assert not stage.story, "the first one is closed only when the second one is on air"
    await until(lambda: stage.story)
    assert stage.story == ["avatar closed"] and session.state is SessionState.LIVE
    assert session.status().on_air is OnAir.LIVE
    assert strictly_increasing(stage)
    assert stage.registry.get_sample_value("avatar_bridge_freezes_total", {"session": "leo"}) in (0, None)
    await session.drain(within_s=0.0)
    await ended(running)


@pytest.mark.parametrize(
    ("limits_s", "max_session_s"),
    [
        pytest.param([30.0], None, id="the service's alone"),
        pytest.param([30.0], 3600.0, id="the service's is earlier"),
        pytest.param([3600.0], 30.0, id="the operator's is earlier"),
        pytest.param([3600.0, 30.0], None, id="the service's is told late"),
    ],
)
async def test_a_limit_of_the_services_own_counts_where_it_is_the_earlier_one(
    stage: Stage, limits_s: list[float], max_session_s: float | None
) -> None:
    session, provider = stage.session(limited(*limits_s), show, max_session_s=max_session_s)
    running = asyncio.create_task(session.run())
    await until(lambda: provider.n_connections == 2)
    assert not stage.story, "the first one is closed only when the second one is on air"
    await until(lambda: stage.story)
    assert session.state is SessionState.LIVE and session.status().on_air is OnAir.LIVE
    assert stage.registry.get_sample_value("avatar_bridge_freezes_total", {"session": "leo"}) in (0, None)
    await session.drain(within_s=0.0)
    await ended(running)


async def test_a_limit_that_is_put_off_is_not_renewed_for(stage: Stage) -> None:
    session, provider = stage.session(limited(30.1, 3600.0), show)
    running = asyncio.create_task(session.run())
    await until(lambda: session.state is SessionState.LIVE)
    await asyncio.sleep(0.4)
    assert provider.n_connections == 1
    await session.drain(within_s=0.0)
    await ended(running)


async def test_where_there_is_no_room_for_a_second_session_the_first_is_closed_before(stage: Stage) -> None:
    full = refusing(ProviderUnavailable("5 are open", reason="connection_limit_exceeded"))
    session, provider = stage.session(show, full, show, max_session_s=30.0)
    running = asyncio.create_task(session.run())
    await until(lambda: provider.n_connections == 3)
    assert stage.story[:2] == ["avatar closed", "avatar closed"]
    await until(lambda: session.state is SessionState.LIVE)
    await until(lambda: provider.n_connections == 4)
    assert provider.n_connections == 4, "that there is no room is remembered: the third was closed before the fourth"
    assert strictly_increasing(stage)
    await session.drain(within_s=0.0)
    await ended(running)


async def test_a_successor_that_fails_is_tried_again_while_the_first_stays_on_air(stage: Stage) -> None:
    session, provider = stage.session(show, refusing(ProviderUnavailable("hiccup")), show, max_session_s=30.0)
    running = asyncio.create_task(session.run())
    await until(lambda: provider.n_connections == 3)
    assert session.state is SessionState.LIVE
    await session.drain(within_s=0.0)
    await ended(running)


async def test_what_an_operator_must_change_after_having_been_live_leaves_the_slate_on_air(stage: Stage) -> None:
    session, provider = stage.session(leave_after_a_picture, refusing(ProviderRejected("the balance is spent")))
    running = asyncio.create_task(session.run())
    await until(lambda: session.state is SessionState.FAILED)
    assert "balance" in session.status().error
    await until(lambda: session.status().on_air is OnAir.SLATE)
    assert provider.n_connections == 2
    assert session.status().outputs[0].state == "publishing"
    await session.drain(within_s=0.0)
    with pytest.raises(ProviderRejected):
        await ended(running)
    assert not stage.outputs[0].was_cancelled


async def test_a_budget_of_starts_keeps_a_flapping_service_from_running_up_a_bill(stage: Stage) -> None:
    session, provider = stage.session(leave_after_a_picture, max_starts_per_hour=2)
    running = asyncio.create_task(session.run())
    await until(lambda: "max_starts_per_hour" in session.status().error)
    await asyncio.sleep(0.1)
    assert provider.n_connections == 2
    await session.drain(within_s=0.0)
    await ended(running)


async def test_whoever_comes_next_begins_where_the_clock_of_the_one_before_has_led(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    origins_ns: list[int] = []

    class Drifted(Reception):
        origin_ns = property(lambda self: 4_320_000_000)  # type: ignore[assignment]

        def __init__(self, origin_ns: int, *arguments: Any) -> None:
            origins_ns.append(origin_ns)
            super().__init__(origin_ns, *arguments)

    monkeypatch.setattr("bridge.connection.Reception", Drifted)
    session, provider = stage.session(leave_after_a_picture, show, show, max_session_s=30.0)
    running = asyncio.create_task(session.run())
    await until(lambda: provider.n_connections == 3)
    assert origins_ns[1:] == [4_320_000_000] * 2  # after a loss, and for a renewal
    await session.drain(within_s=0.0)
    await ended(running)


async def test_refusals_cost_no_budget(stage: Stage) -> None:
    session, provider = stage.session(refusing(ProviderUnavailable("full")), max_starts_per_hour=1)
    running = asyncio.create_task(session.run())
    await until(lambda: provider.n_connections == 4)
    await session.drain(within_s=0.0)
    await ended(running)


async def test_viewers_are_greeted_once(stage: Stage) -> None:
    greeting, sentence = AvatarEvent("response_started", "t"), FakeSource(n_blocks=100)
    session, provider = stage.session(leave_after_a_picture, saying(greeting), source=sentence, role="conversation")
    running = asyncio.create_task(session.run())
    await until(lambda: provider.link.n_interrupts)
    await session.drain(within_s=0.0)
    await ended(running)


async def test_what_follows_a_sentence_of_ours_is_no_greeting(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Uplink, "is_pausing", property(lambda uplink: True))
    has_answered = asyncio.Event()

    async def answer(provider: FakeProvider, listener: AvatarListener) -> None:
        showing = asyncio.create_task(show(provider, listener))
        try:
            await until(lambda: session.status().spoken_s >= 0.3)
            listener.on_event(AvatarEvent("response_started", "t"))
            has_answered.set()
            await showing
        finally:
            showing.cancel()

    session, provider = stage.session(leave_after_a_picture, answer, role="conversation")
    running = asyncio.create_task(session.run())
    await has_answered.wait()
    await session.drain(within_s=0.0)
    await ended(running)
    assert not provider.link.n_interrupts


async def test_the_first_greeting_is_heard(stage: Stage) -> None:
    session, provider = stage.session(saying(AvatarEvent("response_started", "t")), role="conversation")
    running = asyncio.create_task(session.run())
    await until(lambda: len(stage.outputs[0].written) > 20)
    assert not provider.link.n_interrupts
    await session.drain(within_s=0.0)
    await ended(running)


async def die_soon(provider: FakeProvider, listener: AvatarListener) -> None:
    try:
        async with asyncio.timeout(0.3):
            await show(provider, listener)
    except TimeoutError:
        raise ProviderUnavailable("the service has ended it early") from None


@pytest.fixture
def never_pausing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody speaks without a pause."""
    monkeypatch.setattr(Uplink, "is_pausing", property(lambda uplink: False))


async def test_a_session_that_ends_before_its_time_leaves_the_air_to_the_successor(
    stage: Stage, never_pausing: None
) -> None:
    session, _ = stage.session(die_soon, show, max_session_s=30.0)
    running = asyncio.create_task(session.run())
    await until(lambda: stage.story)
    await asyncio.sleep(0.1)
    assert stage.story == ["avatar closed"] and session.state is SessionState.LIVE
    assert stage.registry.get_sample_value("avatar_bridge_freezes_total", {"session": "leo"}) in (0, None)
    await session.drain(within_s=0.0)
    await ended(running)


async def test_a_successor_that_dies_before_its_turn_is_replaced(stage: Stage, never_pausing: None) -> None:
    session, provider = stage.session(show, die_soon, show, max_session_s=30.0)
    running = asyncio.create_task(session.run())
    await until(lambda: provider.n_connections == 3)
    assert session.state is SessionState.LIVE and session.status().on_air is OnAir.LIVE
    await session.drain(within_s=0.0)
    await ended(running)


async def test_renewals_spend_the_budget_and_are_limited_by_it(stage: Stage) -> None:
    session, provider = stage.session(show, max_session_s=30.0, max_starts_per_hour=3)
    running = asyncio.create_task(session.run())
    await until(lambda: provider.n_connections == 3)
    await asyncio.sleep(0.5)
    assert provider.n_connections == 3 and session.state is SessionState.LIVE
    await session.drain(within_s=0.0)
    await ended(running)


async def test_a_rejection_while_the_slate_is_on_air_keeps_it_there(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splice_module, "START_NS", 1)

    async def refuse_late(provider: FakeProvider, listener: AvatarListener) -> None:
        await asyncio.sleep(0.3)
        raise ProviderRejected("the balance is spent")

    monkeypatch.setattr(programme_module, "UNLIKE_S", 0.01)
    session, _ = stage.session(refuse_late)
    running = asyncio.create_task(session.run())
    await until(lambda: session.state is SessionState.FAILED)
    assert session.status().on_air is OnAir.SLATE and not running.done()
    await session.drain(within_s=0.0)
    with pytest.raises(ProviderRejected):
        await ended(running)


async def test_a_mirror_that_comes_back_is_not_taken_for_one_that_greets(stage: Stage) -> None:
    session, provider = stage.session(leave_after_a_picture, saying(AvatarEvent("response_started", "t")), role="speak")
    running = asyncio.create_task(session.run())
    await until(lambda: provider.n_connections == 2)
    await asyncio.sleep(0.2)
    assert not provider.link.n_interrupts
    await session.drain(within_s=0.0)
    await ended(running)


async def test_an_operator_s_wish_that_it_listens_outlives_its_session_and_a_speakers_pause(stage: Stage) -> None:
    session, provider = stage.session(leave_after_a_picture, show)
    provider.capabilities = frozenset({"listening"})
    with pytest.raises(ProviderUnavailable):
        await session.listen(True)
    running = asyncio.create_task(session.run())
    await until(lambda: provider.n_connections == 1 and session.state is SessionState.LIVE)
    await session.listen(True)
    await until(lambda: provider.n_connections == 2 and len(provider.link.listens) == 2)
    session._avatar.attend(True)
    session._avatar.attend(False)
    await until(lambda: len(provider.link.listens) == 4)
    assert provider.link.listens == [True, True, True, True]
    await session.listen(False)
    assert provider.link.listens[-1] is False
    await session.drain(within_s=0.0)
    await ended(running)


async def test_what_a_user_said_before_is_told_now_and_to_sessions_to_come(stage: Stage) -> None:
    session, provider = stage.session(show)
    with pytest.raises(ProviderUnavailable):
        await session.remember("too early")
    running = asyncio.create_task(session.run())
    await until(lambda: session.state is SessionState.LIVE)
    await session.remember("I am Ann.")
    assert provider.link.remembered == ["I am Ann."]
    assert session._dialogue.history.users == ["I am Ann."]
    await session.drain(within_s=0.0)
    await ended(running)
