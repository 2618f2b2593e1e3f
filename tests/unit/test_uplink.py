import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import numpy as np
import pytest
from structlog.testing import capture_logs

from bridge.desk import Desk
from bridge.errors import SourceRejected
from bridge.feed import BUFFERED_S, Feed
from bridge.media.audio import AudioBlock
from bridge.media.clock import AVATAR_RATE_HZ
from bridge.uplink import Uplink
from tests.unit.upward import MESSAGE_S, QUIET_PACING, FakeLink, FakeSource, VirtualTime, ramp, running, silence

LOUD = 10_000


async def test_speech_arrives_whole_and_in_order_and_is_followed_by_silence() -> None:
    time, spoken = VirtualTime(), ramp(2.0)
    link = FakeLink(time)
    async with running(FakeSource(spoken), time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        await time.pass_until(4.0)
    assert np.array_equal(link.sound[: len(spoken)], spoken)
    assert not link.sound[len(spoken) :].any()
    assert uplink.spoken_s == pytest.approx(2.0, abs=MESSAGE_S)
    assert uplink.underruns == 0


async def test_messages_keep_to_a_schedule_that_does_not_drift() -> None:
    time = VirtualTime()
    link = FakeLink(time)
    async with running(FakeSource(ramp(60)), time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        await time.pass_until(30.0)
    assert {len(message) for message in link.messages} == {1_536}
    assert link.sent_at_s == pytest.approx([i * MESSAGE_S for i in range(len(link.messages))], abs=1e-6)
    assert len(link.messages) == 469


async def test_a_service_that_wants_to_be_ahead_gets_a_files_speech_before_it_is_due() -> None:
    time, spoken = VirtualTime(), ramp(4.0)
    link = FakeLink(time, pacing=replace(QUIET_PACING, ahead_s=1.0))
    async with running(FakeSource(spoken), time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        await time.pass_until(0.0)
        assert len(link.sound) / AVATAR_RATE_HZ == pytest.approx(1.0, abs=MESSAGE_S)
        await time.pass_until(2.0)
        assert len(link.sound) / AVATAR_RATE_HZ == pytest.approx(3.0, abs=2 * MESSAGE_S)
        # It is not finished, nor is it a pause, before what was sent has been said.
        await time.pass_until(3.9)
        assert len(link.sound) > len(spoken) and not uplink.finished.is_set() and not uplink.is_pausing
        await time.pass_until(5.0)
        assert uplink.finished.is_set() and uplink.is_pausing
    assert np.array_equal(link.sound[: len(spoken)], spoken)


async def test_a_service_that_takes_another_rate_is_sent_that_in_messages_as_long() -> None:
    time = VirtualTime()
    tone = np.rint(LOUD * np.sin(2 * np.pi * 1_000 / AVATAR_RATE_HZ * np.arange(AVATAR_RATE_HZ)))
    link = FakeLink(time, pacing=replace(QUIET_PACING, rate_hz=16_000))
    async with running(FakeSource(tone), time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        await time.pass_until(3.0)
    assert {len(message) for message in link.messages[1:]} == {1_024}
    expected = LOUD * np.sin(2 * np.pi * 1_000 / 16_000 * np.arange(16_000))
    assert np.abs(link.sound[:16_000] - expected)[500:-500].max() < 16
    assert not link.sound[16_100:].any()
    assert uplink.spoken_s == pytest.approx(1.0, abs=MESSAGE_S)


async def test_who_is_to_take_over_does_so_when_what_was_sent_ahead_has_been_said() -> None:
    time = VirtualTime()
    link, successor = (FakeLink(time, pacing=replace(QUIET_PACING, ahead_s=1.0)) for _ in range(2))
    async with running(FakeSource(ramp(2.0), silence(0.5), ramp(2.0)), time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        await time.pass_until(0.5)
        assert not uplink.is_pausing
        uplink.seek_pause()
        while not uplink.is_pausing:
            await time.pass_until(time.now_s + MESSAGE_S)
        # What it was sent by then, with its tail, has been said.
        assert len(link.sound) / AVATAR_RATE_HZ - MESSAGE_S <= time.now_s < 4.0
        uplink.attach(successor)
        await time.pass_until(8.0)
    said = np.concatenate((link.sound, successor.sound))
    assert np.array_equal(said[np.flatnonzero(said)], np.tile(ramp(2.0)[np.flatnonzero(ramp(2.0))], 2))


async def test_live_source_is_sent_in_messages_of_the_live_size() -> None:
    time, source = VirtualTime(), FakeSource(is_live=True)
    link = FakeLink(time)
    async with running(source, time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        for tick in range(1, 11):
            source.feed(ramp(0.02))
            await time.pass_until(tick * 0.02)
    assert {len(message) for message in link.messages} == {480}
    assert sum(link.is_speech) >= 9


async def test_after_a_short_stall_overdue_messages_follow_at_once() -> None:
    time = VirtualTime()
    link = FakeLink(time)
    async with running(FakeSource(ramp(10)), time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        await time.pass_until(0.5)
        link.stall_s = 0.15
        await time.pass_until(2.0)
    assert len(link.messages) == 1 + int(2.0 / MESSAGE_S)


async def test_after_a_long_stall_the_schedule_starts_anew_instead_of_flooding() -> None:
    time = VirtualTime()
    link = FakeLink(time)
    async with running(FakeSource(ramp(10)), time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        await time.pass_until(0.5)
        link.stall_s = 1.0
        await time.pass_until(3.0)
    gaps = np.diff(link.sent_at_s)
    assert sum(gaps < MESSAGE_S / 2) <= 1
    assert len(link.messages) == pytest.approx(2.0 / MESSAGE_S, abs=2)


async def test_speech_waits_for_the_first_picture_while_silence_flows() -> None:
    time = VirtualTime()
    link = FakeLink(time)
    async with running(FakeSource(ramp(10)), time=time) as uplink:
        uplink.attach(link)
        await time.pass_until(2.0)
        assert link.messages and not any(link.is_speech)
        uplink.media_ready.set()
        await time.pass_until(2.1)
    assert link.is_speech[-1]


async def test_speech_goes_with_one_warning_when_no_picture_comes_for_5_s() -> None:
    time = VirtualTime()
    link = FakeLink(time)
    async with running(FakeSource(ramp(10)), time=time) as uplink:
        with capture_logs() as logs:
            uplink.attach(link)
            await time.pass_until(7.0)
    first = link.is_speech.index(True)
    assert link.sent_at_s[first] == pytest.approx(5.0, abs=MESSAGE_S)
    assert link.sent_at_s[first] >= 5.0
    assert [entry["event"] for entry in logs] == ["speech_without_media"]


async def test_warning_of_speech_without_picture_comes_once_per_avatar() -> None:
    time = VirtualTime()
    async with running(FakeSource(ramp(60)), time=time) as uplink:
        with capture_logs() as logs:
            for start_s in (0.0, 10.0):
                uplink.attach(FakeLink(time))
                await time.pass_until(start_s + 9.0)
                uplink.detach()
                await time.pass_until(start_s + 10.0)
    assert [entry["event"] for entry in logs] == ["speech_without_media"] * 2


async def test_what_the_filter_holds_at_the_end_of_a_file_is_spoken_too() -> None:
    time = VirtualTime()
    # At 48 kHz the filter holds 75 samples of the output, here those beyond three whole messages.
    spoken = np.full(2 * (3 * 1_536 + 50), LOUD)
    link = FakeLink(time)
    async with running(FakeSource(spoken, rate_hz=48_000), time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        await time.pass_until(1.0)
    assert sum(link.is_speech) == 4
    assert np.flatnonzero(np.abs(link.sound) > LOUD / 4).max() == pytest.approx(len(spoken) / 2, abs=5)


async def test_speech_waits_for_the_picture_of_the_next_avatar_too() -> None:
    time = VirtualTime()
    first, second = FakeLink(time), FakeLink(time)
    async with running(FakeSource(ramp(10)), time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(first)
        await time.pass_until(1.0)
        uplink.detach()
        uplink.attach(second)
        await time.pass_until(3.0)
    assert all(first.is_speech)
    assert second.messages and not any(second.is_speech)


async def test_service_without_idle_audio_gets_nothing_before_speech_may_go() -> None:
    time = VirtualTime()
    link = FakeLink(time, QUIET_PACING)
    async with running(FakeSource(ramp(10)), time=time) as uplink:
        uplink.attach(link)
        await time.pass_until(2.0)
        assert not link.messages
        uplink.media_ready.set()
        await time.pass_until(3.0)
    assert len(link.messages) > 10 and all(link.is_speech)


async def test_service_without_idle_audio_gets_a_tail_of_silence_and_then_nothing() -> None:
    time, spoken = VirtualTime(), ramp(1.0)
    link = FakeLink(time, QUIET_PACING)
    async with running(FakeSource(spoken), time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        await time.pass_until(10.0)
        assert uplink.finished.is_set()
    n_speech = sum(link.is_speech)
    assert n_speech == -(-len(spoken) // 1_536)
    assert len(link.messages) - n_speech == 0.64 / MESSAGE_S


async def test_finished_is_told_after_the_tail_and_silence_flows_on() -> None:
    time = VirtualTime()
    link = FakeLink(time)
    async with running(FakeSource(ramp(1.0)), time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        await time.pass_until(1.5)
        assert not uplink.finished.is_set()
        await time.pass_until(1.8)
        assert uplink.finished.is_set()
        n_messages = len(link.messages)
        await time.pass_until(3.0)
    assert len(link.messages) > n_messages


async def test_file_waits_while_no_avatar_is_there_and_nothing_is_lost() -> None:
    time, spoken = VirtualTime(), ramp(5.0)
    source, first, second = FakeSource(spoken), FakeLink(time), FakeLink(time)
    async with running(source, time=time) as uplink:
        await time.pass_until(3.0)
        assert source.emitted <= BUFFERED_S * AVATAR_RATE_HZ
        uplink.media_ready.set()
        uplink.attach(first)
        await time.pass_until(5.0)
        uplink.detach()
        await time.pass_until(8.0)
        assert len(first.sound) < 2.1 * AVATAR_RATE_HZ
        uplink.media_ready.set()
        uplink.attach(second)
        await time.pass_until(14.0)
    heard = np.concatenate((first.sound, second.sound))
    assert np.array_equal(heard[: len(spoken)], spoken)


async def test_message_that_a_dying_link_refused_goes_to_the_next_one() -> None:
    time, spoken = VirtualTime(), ramp(3.0)
    dying, healthy = FakeLink(time, lives_for=10), FakeLink(time)
    async with running(FakeSource(spoken), time=time) as uplink:
        with capture_logs() as logs:
            uplink.media_ready.set()
            uplink.attach(dying)
            await time.pass_until(2.0)
        assert [entry["event"] for entry in logs] == ["uplink_lost"]
        uplink.media_ready.set()
        uplink.attach(healthy)
        await time.pass_until(6.0)
    heard = np.concatenate((dying.sound, healthy.sound))
    assert np.array_equal(heard[: len(spoken)], spoken)


async def test_live_block_longer_than_the_bound_is_kept_whole() -> None:
    time, source = VirtualTime(), FakeSource(is_live=True)
    link = FakeLink(time)
    async with running(source, time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        source.feed(ramp(0.5))
        await time.pass_until(1.0)
    assert uplink.dropped_s == 0
    assert sum(link.is_speech) == 25 + 3, "and 60 ms to fade out"


async def test_underrun_is_counted_once_and_filled_with_silence() -> None:
    time, source = VirtualTime(), FakeSource(is_live=True)
    link = FakeLink(time)
    async with running(source, time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        source.feed(ramp(0.1))
        await time.pass_until(0.5)
        assert uplink.underruns == 1
        assert uplink.level_dbfs == -100
        source.feed(ramp(0.1))
        await time.pass_until(0.55)
        assert uplink.level_dbfs > -20
    assert len(link.messages) >= 27


async def test_end_of_a_file_is_no_underrun() -> None:
    time = VirtualTime()
    async with running(FakeSource(ramp(1.0)), time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(FakeLink(time))
        await time.pass_until(3.0)
        assert uplink.underruns == 0


async def drain(uplink: Uplink, deadline_s: float) -> asyncio.Task[None]:
    task = asyncio.create_task(uplink.finish_utterance(deadline_s))
    await asyncio.sleep(0)
    return task


async def test_drain_speaks_on_to_the_next_pause_and_sends_the_tail() -> None:
    time = VirtualTime()
    link = FakeLink(time)
    source = FakeSource(ramp(2.0), silence(0.6), ramp(5.0))
    async with running(source, time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        await time.pass_until(1.0)
        done = await drain(uplink, 20.0)
        await time.pass_until(2.2)
        assert not done.done()
        await time.pass_until(4.0)
        assert done.done()
    assert np.array_equal(link.sound[: 2 * AVATAR_RATE_HZ], ramp(2.0))
    assert not link.sound[2 * AVATAR_RATE_HZ :].any()


async def test_drain_in_a_pause_ends_after_the_tail() -> None:
    time = VirtualTime()
    link = FakeLink(time)
    async with running(FakeSource(ramp(1.0), silence(3.0), ramp(5.0)), time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        await time.pass_until(2.0)
        done = await drain(uplink, 20.0)
        await time.pass_until(2.0 + 0.64 + 2 * MESSAGE_S)
        assert done.done()
        await time.pass_until(6.0)
    assert not link.sound[AVATAR_RATE_HZ:].any()


async def test_drain_cuts_endless_speech_in_time_for_the_tail() -> None:
    time = VirtualTime()
    link = FakeLink(time)
    async with running(FakeSource(ramp(30.0)), time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        await time.pass_until(1.0)
        with capture_logs() as logs:
            done = await drain(uplink, 3.0)
            await time.pass_until(4.2)
        assert done.done()
    assert [entry["event"] for entry in logs] == ["utterance_cut"]
    assert sum(link.is_speech) * MESSAGE_S == pytest.approx(1.0 + 3.0 - 0.64, abs=2 * MESSAGE_S)
    assert not any(link.is_speech[-10:])


async def test_drain_without_an_avatar_ends_at_once() -> None:
    time = VirtualTime()
    async with running(FakeSource(ramp(3.0)), time=time) as uplink:
        await uplink.finish_utterance(5.0)
        assert uplink.finished.is_set()


async def test_drain_ends_when_the_avatar_goes_away() -> None:
    time = VirtualTime()
    async with running(FakeSource(ramp(30.0)), time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(FakeLink(time))
        await time.pass_until(1.0)
        done = await drain(uplink, 20.0)
        uplink.detach()
        await asyncio.wait_for(done, 5)


async def test_drain_before_speech_was_allowed_says_nothing() -> None:
    time = VirtualTime()
    link = FakeLink(time)
    async with running(FakeSource(ramp(30.0)), time=time) as uplink:
        uplink.attach(link)
        await time.pass_until(1.0)
        done = await drain(uplink, 20.0)
        await time.pass_until(8.0)
        assert done.done()
    assert not any(link.is_speech)


async def test_failure_of_the_source_is_raised_as_it_is() -> None:
    time = VirtualTime()
    source = FakeSource(error=SourceRejected("no such file"))
    uplink = Uplink(Desk([Feed(source)]), now_ns=time.now_ns, sleep=time.sleep)
    with pytest.raises(SourceRejected, match="no such file"):
        await uplink.run()


async def test_source_that_fails_later_becomes_silence() -> None:
    time = VirtualTime()
    link = FakeLink(time)
    with capture_logs() as logs:
        async with running(FakeSource(ramp(1.0), error=SourceRejected("broken")), time=time) as uplink:
            uplink.media_ready.set()
            uplink.attach(link)
            await time.pass_until(3.0)
    assert [(entry["event"], entry["error"]) for entry in logs] == [("input_failed", "broken")]
    assert sum(link.is_speech) * MESSAGE_S == pytest.approx(1.0, abs=MESSAGE_S)
    assert not any(link.is_speech[-10:])


async def test_format_that_cannot_be_converted_names_the_input() -> None:
    class Telegraph(FakeSource):
        async def run(self, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
            await emit(AudioBlock(np.zeros((10, 1), np.int16), 4_000, 0))

    time = VirtualTime()
    uplink = Uplink(Desk([Feed(Telegraph())]), now_ns=time.now_ns, sleep=time.sleep)
    with pytest.raises(SourceRejected, match="input question: sound at 4000 Hz"):
        await uplink.run()


async def test_an_interruption_drops_what_waits_and_tells_the_service_once() -> None:
    time, spoken = VirtualTime(), ramp(3.0)
    link = FakeLink(time)
    async with running(FakeSource(spoken), time=time) as uplink:
        uplink.media_ready.set()
        uplink.attach(link)
        await time.pass_until(0.5)
        n_before = len(link.messages)
        uplink.interrupt()
        await time.pass_until(4.0)
    assert len(link.interrupted_at_s) == 1
    assert uplink.dropped_s == pytest.approx(BUFFERED_S, abs=0.2)
    after = np.concatenate(link.messages[n_before:])
    # What the source had not delivered yet is said; nothing of it is lost or doubled.
    rest = after[: np.flatnonzero(after)[-1] + 1]
    assert np.array_equal(rest, spoken[-len(rest) :])


async def test_an_interruption_without_a_link_is_not_told_to_the_next_one() -> None:
    time = VirtualTime()
    link = FakeLink(time)
    async with running(FakeSource(ramp(3.0)), time=time) as uplink:
        uplink.interrupt()
        uplink.media_ready.set()
        uplink.attach(link)
        await time.pass_until(1.0)
    assert link.messages and not link.interrupted_at_s
