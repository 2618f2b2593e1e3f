"""The live queue forgets rather than waits."""

import asyncio

import pytest

from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS
from bridge.media.live_queue import LiveQueue


def picture(pts_ms: int, *, keyframe: bool = False) -> AccessUnit:
    return AccessUnit(Codec.H264, b"", pts_ms * NS_PER_MS, is_keyframe=keyframe)


def sound(pts_ms: int) -> AccessUnit:
    return AccessUnit(Codec.OPUS, b"", pts_ms * NS_PER_MS, 20 * NS_PER_MS)


def fill(queue: LiveQueue, until_ms: int, *, keyframe_every_ms: int, from_ms: int = 0) -> None:
    """Pictures every 40 ms, each with its sound."""
    for pts_ms in range(from_ms, until_ms, 40):
        queue.put(picture(pts_ms, keyframe=pts_ms % keyframe_every_ms == 0))
        queue.put(sound(pts_ms))
        queue.put(sound(pts_ms + 20))


async def read(queue: LiveQueue) -> list[AccessUnit]:
    """All that waits; finishes the queue."""
    queue.finish()
    units: list[AccessUnit] = []
    while (unit := await queue.get()) is not None:
        units.append(unit)
    return units


def starts_ms(units: list[AccessUnit], kind: str) -> list[int]:
    return [unit.pts_ns // NS_PER_MS for unit in units if unit.codec.kind == kind]


async def test_units_come_out_in_the_order_they_went_in() -> None:
    queue = LiveQueue(2.0)
    units = [picture(0, keyframe=True), sound(0), sound(20), picture(40)]
    for unit in units:
        queue.put(unit)

    assert await read(queue) == units
    assert queue.dropped.total() == 0


async def test_pictures_before_the_first_keyframe_are_dropped_and_sound_is_not() -> None:
    queue = LiveQueue(2.0)
    for unit in (picture(0), sound(0), picture(40), picture(80, keyframe=True), picture(120)):
        queue.put(unit)

    units = await read(queue)

    assert starts_ms(units, "video") == [80, 120]
    assert starts_ms(units, "audio") == [0]
    assert queue.dropped == {"no_keyframe": 2}


async def test_a_slow_reader_continues_at_the_newest_keyframe() -> None:
    queue = LiveQueue(2.0)
    fill(queue, 2_200, keyframe_every_ms=1_000)

    units = await read(queue)

    assert units[0].is_keyframe and units[0].pts_ns == 2_000 * NS_PER_MS
    assert starts_ms(units, "audio")[0] == 2_000
    assert queue.dropped == {"lagging": 150}


async def test_without_a_newer_keyframe_pictures_wait_for_the_next_one_and_sound_goes_on() -> None:
    queue = LiveQueue(2.0)
    fill(queue, 4_040, keyframe_every_ms=4_000)
    units = await read(queue)

    assert starts_ms(units, "video") == [4_000]
    # All sound of the last two seconds.
    assert starts_ms(units, "audio") == list(range(2_020, 4_040, 20))


async def test_what_waits_is_bounded_however_long_nobody_reads() -> None:
    queue = LiveQueue(2.0)
    for start_ms in range(0, 60_000, 1_000):
        fill(queue, start_ms + 1_000, keyframe_every_ms=3_000, from_ms=start_ms)
        assert queue.lag_s <= 2.04

    assert len(await read(queue)) <= 160


async def test_old_sound_in_a_burst_costs_no_picture() -> None:
    queue = LiveQueue(2.0)
    queue.put(picture(8_000, keyframe=True))
    queue.put(picture(8_040))
    for pts_ms in range(0, 8_000, 20):
        queue.put(sound(pts_ms))
    assert (await queue.get()) == picture(8_000, keyframe=True)
    assert (await queue.get()) == picture(8_040)
    queue.put(sound(8_000))
    queue.put(picture(8_080))

    units = await read(queue)

    assert starts_ms(units, "video") == [8_080]
    assert starts_ms(units, "audio")[0] == 6_080


async def test_a_new_reader_starts_at_the_next_keyframe() -> None:
    queue = LiveQueue(2.0)
    fill(queue, 80, keyframe_every_ms=1_000)
    queue.restart()
    assert queue.is_awaiting_keyframe
    queue.put(picture(80))
    queue.put(picture(120, keyframe=True))

    assert starts_ms(await read(queue), "video") == [120]
    assert queue.dropped == {"offline": 6, "no_keyframe": 1}


async def test_a_suspended_queue_keeps_nothing() -> None:
    queue = LiveQueue(2.0)
    fill(queue, 80, keyframe_every_ms=1_000)
    queue.suspend()
    fill(queue, 80, keyframe_every_ms=1_000)

    assert await read(queue) == []
    assert queue.dropped == {"offline": 12}


async def test_a_waiting_reader_gets_a_unit_as_soon_as_it_is_put() -> None:
    queue = LiveQueue(2.0)
    reader = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.put(sound(0))

    assert await reader == sound(0)


async def test_a_waiting_reader_is_told_of_the_end() -> None:
    queue = LiveQueue(2.0)
    reader = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.finish()

    assert await reader is None


async def test_the_lag_is_the_media_time_that_waits() -> None:
    queue = LiveQueue(2.0)
    assert queue.lag_s == 0.0
    fill(queue, 1_000, keyframe_every_ms=1_000)

    assert queue.lag_s == 0.98


async def test_what_is_wanted_and_before_which_nothing_waits_goes_at_once_and_all_else_in_its_turn() -> None:
    queue, taken, is_ready = LiveQueue(2.0), [], True

    def express(unit: AccessUnit) -> bool:
        is_taken = is_ready and unit.pts_ns < 10 * NS_PER_MS
        if is_taken:
            taken.append(unit)
        return is_taken

    queue.express = express
    queue.put(picture(0, keyframe=True))
    queue.put(sound(0))
    assert [unit.codec for unit in taken] == [Codec.H264, Codec.OPUS]
    queue.put(sound(20))
    queue.put(picture(40))
    assert [unit.codec for unit in (await queue.get(), await queue.get()) if unit] == [Codec.OPUS, Codec.H264]
    is_ready = False
    queue.put(picture(80))
    is_ready = True
    queue.put(picture(120))
    assert starts_ms(await read(queue), "video") == [80, 120]
    assert starts_ms(taken, "video") == [0]


async def test_an_error_at_once_is_the_reader_s_and_not_the_session_s() -> None:
    queue = LiveQueue(2.0)

    def express(unit: AccessUnit) -> bool:
        raise ZeroDivisionError

    queue.express = express
    queue.put(picture(0, keyframe=True))
    queue.put(picture(40))
    with pytest.raises(ZeroDivisionError):
        await queue.get()
