"""The output for viewers that every session has: it is there, and decides nothing."""

import asyncio
from pathlib import Path

import pytest

from bridge.config import OutputConfig
from bridge.errors import OutputRejected
from bridge.media.live_queue import LiveQueue
from bridge.outputs.whep import WhepOutput
from bridge.ports import OutputListener
from bridge.redact import Secret
from bridge.reload import OutputChanges
from tests.unit.outputs.fakes import FakeOutput
from tests.unit.stage import Stage, ended, show, until


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stage:
    return Stage(monkeypatch, tmp_path)


async def test_it_waits_for_viewers_beside_the_outputs_and_costs_nothing(stage: Stage) -> None:
    session, _ = stage.session(show)
    running = asyncio.create_task(session.run())
    await until(lambda: len(stage.outputs[0].written) >= 4)
    status = session.status()
    assert [output.name for output in status.outputs] == ["archive"]
    assert status.preview is not None and status.preview.audience is not None
    assert (status.preview.state, status.preview.audience.viewers) == ("publishing", 0)
    assert isinstance(session.output("preview"), WhepOutput)
    assert not status.preview.bytes_total and not status.preview.queue_s
    await session.drain(within_s=5.0)
    await ended(running)


async def test_one_of_that_name_takes_its_place_and_gives_it_back(stage: Stage) -> None:
    session, _ = stage.session(show)
    running = asyncio.create_task(session.run())
    await until(lambda: len(stage.outputs[0].written) >= 2)
    own = OutputConfig(url=Secret.url("whep:"), max_viewers=3)
    await session.change_outputs(OutputChanges(frozenset(), {"preview": own}))
    assert [output.name for output in session.status().outputs] == ["archive", "preview"]
    assert session.status().preview is None
    await session.change_outputs(OutputChanges(frozenset({"preview"}), {}))
    assert [output.name for output in session.status().outputs] == ["archive"]
    await until(lambda: (preview := session.status().preview) and preview.state == "publishing")
    await session.drain(within_s=5.0)
    await ended(running)


async def test_it_keeps_no_session_whose_outputs_are_all_refused(stage: Stage) -> None:
    async def refuse(output: FakeOutput, units: LiveQueue, listener: OutputListener) -> None:
        raise OutputRejected("the key is wrong")

    session, _ = stage.session(show, output=refuse)
    with pytest.raises(OutputRejected, match="no output is left: the key is wrong"):
        async with asyncio.timeout(10):
            await session.run()
    assert not session.has_been_on_air
