"""Events of a session: in order, resumable, bounded."""

import asyncio

from bridge.events import KEPT_EVENTS, MAX_TEXT, Event, EventLog


async def follow(events: EventLog, after: str | None = None) -> list[Event]:
    return [event async for event in events.follow(after)]


async def test_a_follower_gets_what_comes_in_order_until_the_end() -> None:
    events = EventLog()
    events.note("state", state="connecting")
    following = asyncio.create_task(follow(events))
    await asyncio.sleep(0)
    for number in range(5):
        events.note("user_transcript", text=str(number))
    await asyncio.sleep(0)
    events.note("ended")
    events.close()
    assert [event.data.get("text") for event in await following] == ["0", "1", "2", "3", "4", None]


async def test_who_was_cut_off_goes_on_after_the_last_one_that_is_known() -> None:
    events = EventLog()
    for number in range(5):
        events.note("user_transcript", text=str(number))
    events.close()
    everything = await follow(events, "of-another-life")
    assert len(everything) == 5
    assert await follow(events, everything[2].id) == everything[3:]
    assert await follow(events, everything[-1].id) == []


async def test_who_lags_is_told_how_much_is_lost() -> None:
    events = EventLog()
    events.note("state", state="live")
    following = events.follow()
    first = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0)
    for number in range(KEPT_EVENTS + 10):
        events.note("user_transcript", text=str(number))
    events.close()
    lost = await first
    assert (lost.type, lost.data) == ("lost", {"n_events": 10})
    rest = [event async for event in following]
    assert [event.data["text"] for event in rest] == [str(number) for number in range(10, KEPT_EVENTS + 10)]
    assert await follow(events, lost.id) == rest


async def test_a_follower_that_leaves_is_counted_out_and_a_long_text_is_cut() -> None:
    events = EventLog()
    following = asyncio.create_task(follow(events))
    await asyncio.sleep(0)
    assert events.n_followers == 1
    following.cancel()
    await asyncio.wait((following,))
    assert events.n_followers == 0
    events.note("user_transcript", text="x" * (MAX_TEXT + 1))
    events.close()
    (event,) = await follow(events, "")
    assert event.data["text"] == "x" * MAX_TEXT


async def test_events_of_two_sessions_that_began_together_have_ids_of_their_own() -> None:
    ids = set()
    for events in (EventLog(lambda: 5.0), EventLog(lambda: 5.0)):
        events.note("state", state="live")
        events.close()
        ids.update(event.id for event in await follow(events, ""))
    # A webhook's server takes an id that it has seen for the same message once more.
    assert len(ids) == 2


async def test_a_clock_that_is_set_back_loses_no_event_and_changes_no_order() -> None:
    times_s = iter((1000.0, 1001.0, 400.0, 401.0))
    events = EventLog(lambda: next(times_s))
    for number in range(4):
        events.note("user_transcript", text=str(number))
    events.close()
    everything = await follow(events, "of-another-life")
    assert [(event.data["text"], event.at_s) for event in everything] == [
        *(("0", 1000.0), ("1", 1001.0), ("2", 400.0), ("3", 401.0))
    ]
    assert await follow(events, everything[1].id) == everything[2:]
