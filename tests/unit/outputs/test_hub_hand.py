"""The operator's hand on outputs: added, removed, started, stopped and restarted while the others are on air."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import structlog
from structlog.testing import capture_logs

from bridge.errors import ConfigError, OutputLost, OutputRejected
from bridge.media.access_unit import Codec
from bridge.media.live_queue import LiveQueue
from bridge.outputs import hub as hub_module
from bridge.outputs.hub import Hub, UnknownOutput
from bridge.outputs.status import OutputState
from bridge.ports import OutputListener
from tests.unit.outputs.coded_media import clicks, opus_units, without
from tests.unit.outputs.fakes import FakeOutput, Rig, fail, opus, picture, publish, settle, wedge

LOST = OutputLost("away")
REFUSED = OutputRejected("no such key")


@contextlib.asynccontextmanager
async def running(*rigs: Rig) -> AsyncIterator[tuple[Hub, "asyncio.Task[None]"]]:
    hub = Hub([rig.runner for rig in rigs])
    task = asyncio.create_task(hub.run())
    await settle()
    try:
        yield hub, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def put(hub: Hub, *pts_ms: int) -> None:
    """Pictures at these times; those at whole seconds are keyframes."""
    for time_ms in pts_ms:
        hub.put(picture(time_ms, keyframe=time_ms % 1000 == 0))


def written_ms(rig: Rig) -> list[int]:
    return [unit.pts_ns // 1_000_000 for unit in rig.written]


async def test_a_stopped_output_publishes_what_waits_and_what_comes_later_is_not_for_it() -> None:
    rig, other = Rig(publish), Rig(publish, name="archive")
    async with running(rig, other) as (hub, task):
        put(hub, 0, 40)
        await asyncio.gather(hub.stop("twitch"), settle())
        put(hub, 80)
        await settle()

        assert (written_ms(rig), written_ms(other)) == ([0, 40], [0, 40, 80])
        assert (rig.states[-1], other.states[-1]) == ("stopped", "publishing")
        assert not rig.outputs[0].was_cancelled
        # It was told to stop: nothing is lost by it.
        assert not sum(rig.runner.status().dropped_units.values())
        assert not task.done()


async def test_an_output_that_does_not_take_what_waits_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "CLOSE_S", 0.01)
    rig = Rig(wedge)
    async with running(rig) as (hub, _):
        put(hub, 0, 40)
        await hub.stop("twitch")

        assert rig.outputs[0].was_cancelled
        assert rig.states[-1] == "stopped"


@pytest.mark.parametrize("behaviour, state", [(fail(LOST), "backing_off"), (None, "connecting")])
async def test_an_output_that_does_not_publish_is_stopped_at_once(behaviour: object, state: str) -> None:
    async def mute(output: FakeOutput, units: LiveQueue, listener: OutputListener) -> None:
        await asyncio.Event().wait()

    rig = Rig(behaviour or mute)  # type: ignore[arg-type]
    async with running(rig) as (hub, task):
        assert rig.runner.status().state.value == state
        await hub.stop("twitch")

        assert rig.runner.status().state is OutputState.STOPPED
        assert not task.done()


async def test_a_stopped_output_that_is_started_publishes_from_the_next_keyframe() -> None:
    rig = Rig(publish)
    async with running(rig) as (hub, _):
        put(hub, 0)
        await settle()
        await hub.stop("twitch")
        asked = rig.keyframe_requests
        put(hub, 40)
        hub.start("twitch")
        assert rig.runner.status().state is OutputState.CONNECTING
        await settle()
        put(hub, 80, 1000, 1040)
        await settle()

    assert [unit.pts_ns // 1_000_000 for unit in rig.outputs[1].written] == [1000, 1040]
    assert rig.keyframe_requests > asked
    assert rig.states == ["publishing", "stopped", "connecting", "publishing", "closed"]
    assert rig.runner.status().bytes_total == 15
    assert rig.runner.status().retries == 0


async def test_an_output_without_autostart_waits_for_the_operator() -> None:
    rig, other = Rig(publish, autostart=False), Rig(publish, name="archive")
    async with running(rig, other) as (hub, _):
        put(hub, 0)
        await settle()
        assert rig.runner.status().state is OutputState.STOPPED
        assert not sum(rig.runner.status().dropped_units.values())
        hub.start("twitch")
        await settle()
        put(hub, 1000)
        await settle()

    assert (written_ms(rig), written_ms(other)) == ([1000], [0, 1000])


async def test_what_was_said_before_the_hub_runs_holds_once_it_does() -> None:
    started, stopped = Rig(publish, autostart=False), Rig(publish, name="archive")
    hub = Hub([started.runner, stopped.runner])
    hub.start("twitch")
    await hub.stop("archive")
    task = asyncio.create_task(hub.run())
    await settle()
    assert (started.runner.state, stopped.runner.state) == (OutputState.PUBLISHING, OutputState.STOPPED)

    hub.finish()
    await task


async def test_an_output_is_restarted_only_when_its_connection_before_is_closed() -> None:
    open_connections: list[int] = []
    most = 0

    async def slow_to_close(output: FakeOutput, units: LiveQueue, listener: OutputListener) -> None:
        nonlocal most
        open_connections.append(1)
        most = max(most, len(open_connections))
        await publish(output, units, listener)
        await settle()
        open_connections.pop()

    rig = Rig(slow_to_close)
    async with running(rig) as (hub, _):
        put(hub, 0)
        await asyncio.gather(hub.restart("twitch"), hub.restart("twitch"))
        hub.start("twitch")
        await settle()

        assert most == 1
        assert rig.states == ["publishing", "stopped", "connecting", "publishing"]


async def test_the_last_word_counts_when_an_output_is_stopped_while_it_restarts_and_the_other_way_round() -> None:
    restarted, stopped = Rig(publish, name="restarted"), Rig(publish, name="stopped")
    async with running(restarted, stopped) as (hub, _):

        async def start_meanwhile() -> None:
            hub.start("restarted")

        await asyncio.gather(hub.restart("stopped"), hub.stop("stopped"))
        await asyncio.gather(hub.stop("restarted"), start_meanwhile())
        await settle()

        assert (restarted.runner.state, stopped.runner.state) == (OutputState.PUBLISHING, OutputState.STOPPED)


async def test_a_stop_that_nobody_waits_for_any_more_happens_all_the_same() -> None:
    rig = Rig(wedge)
    async with running(rig) as (hub, _):
        put(hub, 0)
        stopping = asyncio.create_task(hub.stop("twitch"))
        await settle()
        stopping.cancel()
        await settle()

        assert rig.runner.state is OutputState.STOPPED


async def test_a_refused_output_can_be_started_again() -> None:
    rig, other = Rig(fail(REFUSED), publish), Rig(publish, name="archive")
    async with running(rig, other) as (hub, _):
        assert rig.runner.state is OutputState.REJECTED
        hub.start("twitch")
        await settle()

        assert rig.runner.state is OutputState.PUBLISHING
        assert rig.states == ["rejected", "connecting", "publishing"]


async def test_an_output_that_failed_by_a_bug_can_be_started_again_and_the_bug_is_told_at_the_end() -> None:
    rig, other = Rig(fail(ZeroDivisionError("bug")), publish), Rig(publish, name="archive")
    async with running(rig, other) as (hub, task):
        hub.start("twitch")
        await settle()
        assert rig.runner.state is OutputState.PUBLISHING

        hub.finish()
        with pytest.raises(ExceptionGroup, match="a bug ended an output"):
            await task


async def test_an_output_is_added_and_removed_on_air_and_its_name_is_free_again() -> None:
    rig, added, again = Rig(publish, name="archive"), Rig(publish), Rig(publish)
    async with running(rig) as (hub, task):
        put(hub, 0)
        hub.add(added.runner)
        await settle()
        put(hub, 1000)
        await settle()
        assert [runner.name for runner in hub.runners] == ["archive", "twitch"]
        await hub.remove("twitch")
        hub.add(again.runner)
        await settle()
        put(hub, 2000)
        hub.finish()
        await task

    assert [written_ms(each) for each in (rig, added, again)] == [[0, 1000, 2000], [1000], [2000]]
    assert added.states[-1] == "stopped"


async def test_a_name_that_is_taken_or_unknown_is_refused_with_the_names_there_are() -> None:
    hub = Hub([Rig(publish).runner])
    with pytest.raises(ConfigError, match="there is an output twitch already"):
        hub.add(Rig(publish).runner)
    with pytest.raises(UnknownOutput, match="there is no output youtube; there is twitch"):
        hub.runner("youtube")
    with pytest.raises(UnknownOutput):
        await hub.stop("youtube")
    assert hub.runner("twitch").name == "twitch"


async def test_a_hub_with_all_outputs_stopped_or_removed_goes_on() -> None:
    stopped, removed = Rig(publish), Rig(publish, name="archive")
    async with running(stopped, removed) as (hub, task):
        await hub.stop("twitch")
        await hub.remove("archive")
        await settle()
        assert not task.done()

        hub.finish()
        await task


async def test_refusals_end_the_hub_only_before_anything_was_on_air_and_with_nobody_stopped() -> None:
    accepted = Rig(fail(REFUSED, after=0))
    async with running(accepted) as (hub, task):
        assert accepted.runner.state is OutputState.REJECTED
        assert not task.done()

    refused, waiting = Rig(fail(REFUSED)), Rig(fail(REFUSED), name="archive", autostart=False)
    async with running(refused, waiting) as (hub, task):
        assert not task.done()
        hub.start("archive")
        await settle()
        assert task.done()


async def test_transcoders_come_and_go_with_the_outputs_that_want_their_bit_rate() -> None:
    def transcoders() -> set[str]:
        return {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("aac")}

    async def there_are(expected: set[str]) -> None:
        async with asyncio.timeout(5):  # they end with what their thread is doing
            while transcoders() != expected:  # noqa: ASYNC110  a thread at work has no event for tests
                await asyncio.sleep(0.001)

    rig = Rig(publish, audio_codec=Codec.AAC)
    same, thin = (
        Rig(publish, name=name, audio_codec=Codec.AAC, audio_bitrate=rate)
        for name, rate in (("same", 128_000), ("thin", 64_000))
    )
    async with running(Rig(publish, name="archive")) as (hub, _):
        assert transcoders() == set()
        for each in (rig, same, thin):
            hub.add(each.runner)
        assert transcoders() == {"aac 128000", "aac 64000"}
        await hub.stop("twitch")
        await hub.stop("thin")
        await there_are({"aac 128000"})
        await hub.remove("same")
        await there_are(set())
        hub.start("thin")
        assert transcoders() == {"aac 64000"}


async def test_sound_that_was_concealed_stays_counted_when_its_transcoder_goes() -> None:
    rig = Rig(publish, audio_codec=Codec.AAC)
    async with running(rig, Rig(publish, name="archive")) as (hub, _):
        sound = opus_units(clicks(1.0, []))
        for unit in without(sound, range(30, 35)):
            hub.put(unit)
        while hub.repairs.concealed_s == 0.0:  # noqa: ASYNC110  a thread at work has no event for tests
            await asyncio.sleep(0.001)
        assert hub.concealment
        before_s = hub.repairs.concealed_s
        await hub.restart("twitch")
        assert hub.repairs.concealed_s == before_s > 0.0


async def test_what_is_done_to_one_output_delays_no_unit_to_another() -> None:
    rigs = [Rig(wedge), Rig(fail(LOST), name="away"), Rig(fail(REFUSED), name="refused")]
    healthy = Rig(publish, name="healthy")
    async with running(*rigs, healthy) as (hub, _):
        stopping = [asyncio.create_task(hub.stop(rig.runner.name)) for rig in rigs]
        for pts_ms in range(0, 4_000, 40):
            put(hub, pts_ms)
            hub.put(opus(pts_ms))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert healthy.queue.lag_s == 0.0
        for task in stopping:
            task.cancel()
        await asyncio.gather(*stopping, return_exceptions=True)

    assert len(healthy.written) == 200


async def test_what_is_started_by_another_task_logs_in_the_session_s_name() -> None:
    async def session(hub: Hub) -> None:
        structlog.contextvars.bind_contextvars(session="leo")
        await hub.run()

    rig = Rig(publish, autostart=False)
    hub = Hub([rig.runner])
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
        task = asyncio.create_task(session(hub))
        await settle()
        hub.start("twitch")
        await settle()
        hub.finish()
        await task

    assert {entry.get("session") for entry in logs if entry["event"] in ("output_publishing", "output_closed")} == {
        "leo"
    }
