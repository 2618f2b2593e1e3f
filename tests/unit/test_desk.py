"""Several inputs at once: what becomes of one is nothing to the others."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from structlog.testing import capture_logs

from bridge.desk import Desk
from bridge.dsp.limiter import LOOK_AHEAD_SAMPLES
from bridge.dsp.strip import StripSettings
from bridge.errors import SourceLost, SourceRejected
from bridge.feed import Feed
from bridge.media.audio import AudioBlock
from bridge.media.clock import AVATAR_RATE_HZ
from bridge.ports import SourceListener
from tests.unit.dsp.voices import noise, voice
from tests.unit.upward import CLEAN_PACING, QUIET_PACING, FakeLink, FakeSource, VirtualTime, ramp, running, silence

SECOND = AVATAR_RATE_HZ


async def heard(
    *sources: FakeSource, for_s: float = 3.0, settings: dict[str, StripSettings] | None = None
) -> np.ndarray:
    """What a link gets within this time; what the limiter of several adds before it is taken off."""
    time = VirtualTime()
    link = FakeLink(time)
    async with running(*sources, time=time, settings=settings) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        await time.pass_until(for_s)
    return link.sound[LOOK_AHEAD_SAMPLES if len(sources) > 1 else 0 :]


async def test_two_inputs_are_heard_together() -> None:
    playlist = ramp(2.0) // 4
    both = await heard(FakeSource(voice()), FakeSource(playlist, name="playlist"))
    assert np.array_equal(both[: 2 * SECOND], voice() + playlist)


async def test_who_speaks_with_priority_is_heard_before_the_others() -> None:
    host = FakeSource(np.concatenate((silence(0.5), voice())), name="host")
    both = await heard(host, FakeSource(ramp(3.0) // 4), settings={"host": StripSettings(priority=1, duck_db=-100)})
    assert np.array_equal(both[: SECOND // 2], ramp(0.5) // 4)
    rest = both[SECOND : 2 * SECOND] - voice()[SECOND // 2 : 3 * SECOND // 2]
    assert np.abs(rest).max() < 0.11 * (ramp(3.0) // 4).max()


async def test_an_input_that_ends_leaves_the_other() -> None:
    both = await heard(FakeSource(voice()[: SECOND // 2]), FakeSource(ramp(2.0), name="playlist"))
    assert np.array_equal(both[SECOND : 2 * SECOND], ramp(2.0)[SECOND:])


@pytest.mark.parametrize("error", [SourceRejected("no such file"), SourceLost("reset")])
async def test_an_input_that_fails_leaves_the_other(error: Exception) -> None:
    with capture_logs() as logs:
        both = await heard(FakeSource(error=error), FakeSource(ramp(2.0), name="playlist"))
    assert np.array_equal(both[: 2 * SECOND], ramp(2.0))
    assert [(entry["event"], entry["input"]) for entry in logs] == [("input_failed", "question")]


async def test_the_status_tells_how_each_input_is_doing() -> None:
    time = VirtualTime()
    sources = (
        FakeSource(voice(), name="host"),
        FakeSource(error=SourceRejected("no such file"), name="playlist"),
        FakeSource(is_live=True, name="guest"),
    )
    feeds = [Feed(source) for source in sources]
    desk = Desk(feeds)
    running = asyncio.create_task(desk.run())
    await time.pass_until(0.0)
    for _ in range(20):
        desk.take(480)
    found = {status.name: (status.state, status.error) for status in desk.status()}
    assert found == {
        "host": ("playing", ""),
        "playlist": ("failed", "no such file"),
        "guest": ("silent", ""),
    }
    host = desk.status()[0]
    assert host.is_speaking and host.level_dbfs > -40
    running.cancel()


async def test_an_input_that_stalls_leaves_the_other() -> None:
    both = await heard(FakeSource(is_live=True), FakeSource(ramp(2.0), name="playlist"))
    assert np.array_equal(both[: 2 * SECOND], ramp(2.0))


async def test_if_every_input_fails_before_it_gave_sound_the_last_failure_is_raised() -> None:
    feeds = [Feed(FakeSource(error=SourceRejected("no such file"))), Feed(FakeSource(error=SourceRejected("no sound")))]
    with pytest.raises(SourceRejected, match="no sound"):
        await Desk(feeds).run()


class OutspokenSource(FakeSource):
    """A live source with words besides its sound."""

    listener: SourceListener


def outspoken(name: str = "guest") -> OutspokenSource:
    source = OutspokenSource(is_live=True, name=name)
    source.listener = None  # type: ignore[assignment]
    return source


async def test_a_source_that_ends_its_turn_is_not_waited_for() -> None:
    time, source = VirtualTime(), outspoken()
    link = FakeLink(time, QUIET_PACING)
    async with running(source, time=time, settings={"guest": StripSettings(hang_over_s=10)}) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        for tick in range(50):
            source.feed(voice()[480 * tick : 480 * (tick + 1)])
            await time.pass_until(tick * 0.02)
        source.listener.on_speech_ended()
        for tick in range(50, 100):
            source.feed(noise(0.02))
            await time.pass_until(tick * 0.02)
    assert link.n_turns_ended == 1
    assert len(link.messages) == pytest.approx(50 + 32, abs=5), "speech, a tail of 0.64 s, and nothing after it"


async def test_who_is_not_listened_to_is_not_heard() -> None:
    time, source = VirtualTime(), outspoken()
    link = FakeLink(time)
    async with running(source, time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        source.listener.on_listening(False)
        source.feed(voice())
        await time.pass_until(1.0)
        assert not link.sound.any()
        source.listener.on_listening(True)
        source.feed(voice()[:2_400])
        await time.pass_until(2.0)
    assert link.sound.any()


async def test_a_source_may_interrupt_and_what_waits_of_it_is_not_said() -> None:
    source, interrupted = outspoken(), list[Feed]()
    feed = Feed(source, on_interrupt=interrupted.append)
    await feed.take_block(AudioBlock(voice()[:4_800, None], AVATAR_RATE_HZ, 0))
    source.listener.on_interrupt()
    assert interrupted == [feed]
    assert feed.waiting_s == 0
    assert feed.dropped_s == pytest.approx(0.2)


async def test_of_long_blocks_of_a_live_source_only_what_waited_too_long_is_dropped() -> None:
    feed = Feed(FakeSource(is_live=True))
    for start in range(0, 24_000, 8_000):
        await feed.take_block(AudioBlock(voice()[start : start + 8_000, None], AVATAR_RATE_HZ, 0))
        for _ in range(14):
            feed.take(480)
    assert feed.dropped_s == 0
    assert feed.waiting_s == pytest.approx((24_000 - 3 * 14 * 480) / AVATAR_RATE_HZ)


async def test_of_a_live_input_only_speech_is_sent_where_nothing_flows_while_idle() -> None:
    time, source = VirtualTime(), FakeSource(is_live=True)
    link = FakeLink(time, QUIET_PACING)
    sound = np.concatenate((noise(1.0), voice(), noise(2.0)))
    async with running(source, time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        for tick in range(len(sound) // 480):
            source.feed(sound[480 * tick : 480 * (tick + 1)])
            await asyncio.sleep(0)
            await time.pass_until(tick * 0.02)
    assert len(link.sound) / SECOND == pytest.approx(2.0 + 0.2 + 0.5 + 0.64, abs=0.2), "with its lead and its hang-over"
    assert np.array_equal(link.sound[-round(0.64 * SECOND) :], silence(0.64))
    # The first word is whole.
    lead = round(0.05 * SECOND)
    begins = int(np.flatnonzero(np.abs(link.sound) > 200)[0])
    assert begins > lead // 2
    assert link.n_turns_ended == 1


@pytest.mark.parametrize(("is_eager", "most_s"), [(True, 0.05), (False, 0.13)])
async def test_where_the_first_sign_of_a_voice_is_enough_speech_leaves_sooner(is_eager: bool, most_s: float) -> None:
    time, source = VirtualTime(), FakeSource(is_live=True)
    link = FakeLink(time, replace(QUIET_PACING, is_eager=is_eager))
    click = np.concatenate((voice()[:960], noise(2.0)))
    sound = np.concatenate((noise(1.0), voice(), noise(2.0), click))
    async with running(source, time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        for tick in range(len(sound) // 480):
            source.feed(sound[480 * tick : 480 * (tick + 1)])
            await asyncio.sleep(0)
            await time.pass_until(tick * 0.02)
    assert (most_s - 0.1 if not is_eager else 0.0) <= link.sent_at_s[0] - 1.0 <= most_s
    # A click is a turn of its own, which ends.
    assert link.n_turns_ended == (2 if is_eager else 1)


async def live_feed(*, starts_with_s: float, sound: np.ndarray) -> Feed:
    """A live feed whose sound is taken message by message, with so much of it ahead."""
    source = FakeSource(is_live=True)
    feed = Feed(source)
    running = asyncio.create_task(feed.run())
    source.feed(silence(starts_with_s))
    for start in range(0, len(sound), 480):
        source.feed(sound[start : start + 480])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        piece = feed.take(480)
        assert piece is not None
        feed.strip.push(piece)
    running.cancel()
    return feed


async def test_latency_that_no_jitter_needs_is_given_up_in_a_pause() -> None:
    pausing = await live_feed(starts_with_s=0.14, sound=noise(4.0))
    assert pausing.waiting_s == pytest.approx(0.02, abs=0.001)
    assert pausing.dropped_s == pytest.approx(0.12, abs=0.001)
    speaking = await live_feed(starts_with_s=0.14, sound=np.tile(voice()[:24_000], 4))
    assert speaking.waiting_s == pytest.approx(0.14, abs=0.001), "not in the middle of a word"


@pytest.mark.parametrize("drift_ppm", [-300, 300])
async def test_a_clock_that_is_followed_needs_no_pause_and_loses_nothing(drift_ppm: float) -> None:
    now_s, source = 0.0, FakeSource(is_live=True)
    feed = Feed(source, follows_clock=True, now_s=lambda: now_s)
    running = asyncio.create_task(feed.run())
    vowel = 8_000 * np.sin(2 * np.pi * 150 / AVATAR_RATE_HZ * np.arange(480 * 50 * 300))
    n_given = 0
    for tick in range(50 * 240):
        while (came_s := (n_given + 480) / (AVATAR_RATE_HZ * (1 + drift_ppm * 1e-6))) <= tick * 0.02:
            now_s = came_s
            source.feed(vowel[n_given : n_given + 480])
            n_given += 480
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        now_s = tick * 0.02
        feed.take(480)
    running.cancel()
    # Without it 72 ms would have come too much, or too little, and been dropped, or made up.
    assert feed.dropped_s == feed.underruns == 0
    assert feed.waiting_s == pytest.approx(0.07, abs=0.015)
    assert feed.status().drift_ppm == pytest.approx(drift_ppm, abs=20)


async def test_a_message_that_comes_late_is_made_up_and_speech_goes_on() -> None:
    time, source = VirtualTime(), FakeSource(is_live=True)
    link = FakeLink(time)
    late = range(30, 33)
    vowel = 8_000 * np.sin(2 * np.pi * 150 / AVATAR_RATE_HZ * np.arange(SECOND))
    async with running(source, time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        for tick in range(50):
            if tick not in late:
                first = late.start if tick == late.stop else tick
                source.feed(vowel[480 * first : 480 * (tick + 1)])
            await time.pass_until(tick * 0.02)
        assert uplink.underruns == 1
    loud = [np.abs(message).max() > 100 for message in link.messages]
    assert all(loud[late.start - 5 : late.stop + 10])
    assert link.n_turns_ended == 0


async def test_who_speaks_on_in_the_silence_that_ends_a_turn_loses_no_beginning() -> None:
    time, source = VirtualTime(), FakeSource(is_live=True)
    link = FakeLink(time, CLEAN_PACING)
    sound = np.concatenate((voice(), noise(0.7), voice(), noise(3.0)))
    async with running(source, time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        for tick in range(len(sound) // 480):
            source.feed(sound[480 * tick : 480 * (tick + 1)])
            await time.pass_until(tick * 0.02)
    sent = link.sound
    second = voice()[:4_800]
    likeness = np.correlate(sent[48_000:].astype(np.float64), second.astype(np.float64), "valid")
    at = 48_000 + int(np.argmax(likeness))
    assert np.array_equal(sent[at : at + 4_800], second)
    assert len(sent) == pytest.approx(len(sound), abs=2 * 480), "what was sent ahead is made up for"


async def test_a_live_input_begins_with_what_is_said_now() -> None:
    time, source = VirtualTime(), FakeSource(is_live=True)
    link = FakeLink(time)
    async with running(source, time=time) as uplink:
        for start in range(0, 48_000, 480):
            source.feed(ramp(2.0)[start : start + 480])
        await time.pass_until(2.0)
        uplink.media_ready.set()
        uplink.attach(link)
        await time.pass_until(2.5)
    newest = ramp(2.0)[-2 * 480 :]
    assert np.array_equal(link.sound[: len(newest)], newest)
    assert uplink.dropped_s == pytest.approx(1.96)
