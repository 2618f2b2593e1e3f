"""The runner: what ends an attempt, what follows, and what it says about it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from bridge.errors import InternalError, OutputLost, OutputRejected, RemoteProtocolError
from bridge.media.live_queue import LiveQueue
from bridge.outputs.runner import BELIEVED_AFTER_S, LONGEST_RETRY_S, PROVEN_LOOKS, WEDGED_LOOKS, reconnect_reason
from bridge.outputs.status import OutputState
from bridge.ports import OutputListener
from tests.unit.outputs.fakes import FakeOutput, Rig, fail, picture, publish, settle, wedge

LOST = OutputLost("server closed the connection")
REFUSED = OutputRejected("server refused the stream key")


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(rig.runner.run())
    await settle()
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_output_publishes_until_its_queue_is_finished() -> None:
    rig = Rig(publish)
    async with running(rig) as task:
        rig.queue.put(picture(0, keyframe=True))
        rig.runner.finish()
        await task

    assert rig.states == ["publishing", "closed"]
    assert [unit.pts_ns for unit in rig.written] == [0]
    assert rig.runner.status().bytes_total == 5


async def test_a_lost_far_end_is_tried_again_and_the_new_connection_starts_at_a_keyframe() -> None:
    rig = Rig(fail(LOST, after=1), publish)
    async with running(rig):
        rig.queue.put(picture(0, keyframe=True))
        await settle()
        rig.queue.put(picture(40))
        await rig.time.pass_s(0.5)
        rig.queue.put(picture(80))
        rig.queue.put(picture(120, keyframe=True))
        await settle()
        status = rig.runner.status()

    assert rig.states[:4] == ["publishing", "backing_off", "connecting", "publishing"]
    assert [unit.pts_ns for unit in rig.outputs[1].written] == [120_000_000]
    assert status.last_error == "server closed the connection"
    assert status.accepted == 2
    assert status.reconnects == {"lost": 1}
    assert status.bytes_total == 10
    assert status.dropped_units == {"offline": 1, "no_keyframe": 1}


async def test_every_attempt_asks_for_a_keyframe_and_again_once_accepted_if_none_has_come() -> None:
    rig = Rig(publish)
    async with running(rig):
        assert rig.keyframe_requests == 2


async def test_a_queue_that_forgot_its_pictures_gets_a_keyframe_within_a_second() -> None:
    rig = Rig(wedge)
    async with running(rig):
        rig.queue.put(picture(0, keyframe=True))
        await rig.time.pass_s(1.0)
        asked = rig.keyframe_requests
        for pts_ms in range(40, 2_500, 40):
            rig.queue.put(picture(pts_ms))
        assert rig.queue.is_awaiting_keyframe
        await rig.time.pass_s(1.0)
        assert rig.keyframe_requests == asked + 1

        rig.queue.put(picture(2_500, keyframe=True))
        await rig.time.pass_s(1.0)
        assert rig.keyframe_requests == asked + 1


async def test_delays_grow_to_their_limit_while_the_far_end_is_away() -> None:
    rig = Rig(fail(LOST))
    async with running(rig):
        await rig.time.pass_s(120)

    delays = [status.retry_in_s for status in rig.changes if status.state is OutputState.BACKING_OFF]
    assert delays[:6] == [0.5, 1.0, 2.0, 4.0, 8.0, LONGEST_RETRY_S]
    assert set(delays[5:]) == {LONGEST_RETRY_S}


async def test_a_far_end_that_names_a_time_is_left_alone_so_long() -> None:
    rig = Rig(fail(OutputLost("busy", retry_after_s=7.0)), fail(OutputLost("busy", retry_after_s=0.1)), publish)
    async with running(rig):
        await rig.time.pass_s(10)
        status = rig.runner.status()

    delays = [change.retry_in_s for change in rig.changes if change.state is OutputState.BACKING_OFF]
    assert delays == [7.0, 1.0]
    assert (status.retries, status.last_retry_s) == (2, 1_008.0)


async def test_a_keyframe_that_the_far_end_wants_is_asked_for() -> None:
    rig = Rig(publish)
    async with running(rig):
        asked = rig.keyframe_requests
        rig.runner.on_keyframe_request()
        assert rig.keyframe_requests == asked + 1


async def test_a_far_end_that_accepts_and_drops_at_once_is_not_hammered() -> None:
    rig = Rig(fail(LOST, after=0))
    async with running(rig):
        await rig.time.pass_s(60)

    assert len(rig.outputs) < 10


@pytest.mark.parametrize("seconds, expected_delay_s", [(PROVEN_LOOKS - 2, 1.0), (PROVEN_LOOKS + 1, 0.5)])
async def test_only_proven_progress_makes_delays_short_again(seconds: int, expected_delay_s: float) -> None:
    ends = asyncio.Event()

    async def publish_and_end(output: FakeOutput, units: LiveQueue, listener: OutputListener) -> None:
        pump = asyncio.create_task(publish(output, units, listener))
        await ends.wait()
        pump.cancel()
        raise LOST

    rig = Rig(fail(LOST), publish_and_end)
    async with running(rig):
        await rig.time.pass_s(0.5)
        await rig.pass_s(seconds)
        ends.set()
        await settle()

    assert rig.changes[-2].retry_in_s == expected_delay_s


async def test_a_refused_output_stops_with_one_error_and_the_far_end_s_words() -> None:
    rig = Rig(fail(REFUSED))
    with capture_logs() as logs:
        async with running(rig) as task:
            await task

    assert rig.states == ["rejected"]
    assert rig.runner.status().last_error == "server refused the stream key"
    assert [entry["log_level"] for entry in logs if entry["log_level"] != "info"] == ["error"]
    assert len(rig.outputs) == 1


async def test_an_output_that_is_refused_while_it_publishes_stops() -> None:
    rig = Rig(publish, fail(OutputRejected("disk full"), after=1))
    rig.outputs[0].behaviour = fail(OutputRejected("disk full"), after=1)
    async with running(rig) as task:
        rig.queue.put(picture(0, keyframe=True))
        await task

    assert rig.states == ["publishing", "rejected"]


async def test_a_refusal_after_success_is_believed_only_when_it_lasts() -> None:
    rig = Rig(fail(LOST, after=0), fail(REFUSED))
    with capture_logs() as logs:
        async with running(rig) as task:
            await rig.time.pass_s(BELIEVED_AFTER_S)
            assert not task.done()
            assert rig.runner.status().state is OutputState.BACKING_OFF

            await rig.time.pass_s(2 * LONGEST_RETRY_S)
            assert task.done()

    assert rig.states[-1] == "rejected"
    # Meanwhile it is tried as often as any lost far end, and each time a warning.
    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert len(warnings) >= BELIEVED_AFTER_S / LONGEST_RETRY_S
    assert max(entry["retry_in_s"] for entry in warnings) == LONGEST_RETRY_S


async def test_only_refusals_in_a_row_are_believed() -> None:
    half = [fail(REFUSED)] * round(0.8 * BELIEVED_AFTER_S / LONGEST_RETRY_S)
    rig = Rig(fail(LOST, after=0), *half, fail(LOST), *half, publish)
    async with running(rig):
        await rig.time.pass_s(2 * BELIEVED_AFTER_S)

        assert rig.runner.status().state is OutputState.PUBLISHING


async def test_a_refusal_that_passes_leaves_a_running_broadcast() -> None:
    rig = Rig(fail(LOST, after=0), fail(REFUSED), fail(REFUSED), publish)
    async with running(rig):
        await rig.time.pass_s(10)

        assert rig.runner.status().state is OutputState.PUBLISHING


async def test_an_output_that_moves_nothing_while_media_waits_is_given_up() -> None:
    rig = Rig(wedge, publish)
    async with running(rig):
        await rig.pass_s(WEDGED_LOOKS + 3)
        status = rig.runner.status()

    assert rig.outputs[0].was_cancelled
    assert status.state is OutputState.PUBLISHING
    assert status.reconnects == {"wedged": 1}


async def test_an_output_without_media_to_write_is_not_wedged() -> None:
    rig = Rig(publish)
    async with running(rig):
        await rig.pass_s(3 * WEDGED_LOOKS, media=False)

        assert rig.states == ["publishing"]


async def test_finishing_while_backing_off_ends_at_once() -> None:
    rig = Rig(fail(LOST))
    async with running(rig) as task:
        rig.runner.finish()
        await task

    assert rig.states == ["backing_off", "closed"]
    assert len(rig.outputs) == 1


async def test_a_loss_after_the_finish_is_not_retried() -> None:
    rig = Rig(fail(LOST, after=1))
    async with running(rig) as task:
        rig.queue.put(picture(0, keyframe=True))
        rig.runner.finish()
        await task

    assert rig.states == ["publishing", "closed"]
    assert rig.runner.status().last_error == str(LOST)


async def test_cancelling_closes_the_output_and_waits_for_it() -> None:
    closed = asyncio.Event()

    async def slow_to_close(output: FakeOutput, units: LiveQueue, listener: OutputListener) -> None:
        listener.on_published()
        try:
            await asyncio.Event().wait()
        finally:
            await settle()
            closed.set()

    rig = Rig(slow_to_close)
    async with running(rig) as task:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert closed.is_set()

    assert rig.states == ["publishing", "closed"]


async def test_a_bug_is_raised_and_not_retried() -> None:
    rig = Rig(fail(ZeroDivisionError("bug")))
    async with running(rig) as task:
        with pytest.raises(ZeroDivisionError):
            await task

    assert rig.states == ["closed"]


async def test_an_output_that_is_accepted_twice_is_a_bug() -> None:
    async def twice(output: FakeOutput, units: LiveQueue, listener: OutputListener) -> None:
        listener.on_published()
        listener.on_published()

    rig = Rig(twice)
    async with running(rig) as task:
        with pytest.raises(InternalError, match="publishing while publishing"):
            await task


async def test_each_change_is_one_log_line_with_output_and_protocol() -> None:
    rig = Rig(fail(LOST), publish)
    with capture_logs() as logs:
        async with running(rig) as task:
            await rig.time.pass_s(0.5)
            rig.runner.finish()
            await task

    assert [entry["event"] for entry in logs] == [
        "output_connecting",
        "output_lost",
        "output_connecting",
        "output_publishing",
        "output_closed",
    ]
    assert all(entry["output"] == "twitch" and entry["protocol"] == "fake" for entry in logs)
    assert logs[1]["retry_in_s"] == 0.5


def caused(cause: Exception) -> OutputLost:
    error = OutputLost("lost")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error, reason",
    [
        (LOST, "lost"),
        (OSError("disk"), "lost"),
        (RemoteProtocolError("nonsense"), "protocol"),
        (TimeoutError(), "timeout"),
        (caused(TimeoutError()), "timeout"),
        (caused(ConnectionRefusedError()), "refused"),
        (caused(BrokenPipeError()), "reset"),
        (REFUSED, "rejected"),
    ],
)
def test_reasons_are_few_and_come_from_the_error_or_its_cause(error: Exception, reason: str) -> None:
    assert reconnect_reason(error) == reason
