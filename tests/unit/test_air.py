"""Which of an input's sound viewers hear when: a question before its answer, and nothing that the operator forbids."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import numpy as np
import pytest
from numpy.typing import NDArray

from bridge.air import Air
from bridge.config import InputConfig
from bridge.desk import Desk, open_feed
from bridge.feed import Feed
from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import AVATAR_RATE_HZ, NS_PER_MS, NS_PER_S, ns_to_ticks
from bridge.uplink import Uplink
from tests.unit.upward import FakeLink, FakeSource, VirtualTime

RATE_HZ = 48_000
ORIGIN_S = 1_000.0  # of the session, on the clock
LAG_MS = 30  # of the avatar's media behind it


def tone(duration_s: float, amplitude: float = 8_000) -> NDArray[np.float64]:
    return amplitude * np.sin(2 * np.pi * 1_000 * np.arange(round(duration_s * AVATAR_RATE_HZ)) / AVATAR_RATE_HZ)


class Broadcast:
    """A session's inputs, and what viewers hear of them beside a silent avatar."""

    def __init__(self, inputs: dict[str, tuple[FakeSource, dict[str, object]]]) -> None:
        self.time = VirtualTime()
        self.time.now_s = ORIGIN_S
        self.is_silenced = False
        configs = {name: InputConfig.model_validate({"url": "tone:"} | keys) for name, (_, keys) in inputs.items()}
        self.feeds = [open_feed(source, configs[name], lambda feed: None) for name, (source, _) in inputs.items()]
        on_air = [feed for feed in self.feeds if configs[feed.name].on_air]
        heard = [feed for feed in self.feeds if configs[feed.name].to_avatar]
        origin_ns = round(ORIGIN_S * NS_PER_S)
        self.talks: list[bool] = []
        self.air = Air(
            on_air,
            configs,
            origin_ns,
            lambda: self.is_silenced,
            self.talks.append,
            now_ns=self.time.now_ns,
            sleep=self.time.sleep,
        )
        self.desk = Desk(heard, for_viewers=[feed for feed in self.feeds if feed not in heard])
        self.uplink = Uplink(self.desk, now_ns=self.time.now_ns, sleep=self.time.sleep)
        self.link = FakeLink(self.time)
        self.heard: list[NDArray[np.float32]] = []
        self._n_units = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(each) for each in (self.uplink.run(), self.air.run())]
        self.uplink.media_ready.set()
        self.uplink.attach(self.link)
        yield
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def go_on_until(self, session_s: float) -> None:
        """Packets of the avatar come every 20 ms, each 30 ms after its time; the mix follows as soon as it may."""
        while self._n_units * 0.02 < session_s:
            pts_ns = self._n_units * 20 * NS_PER_MS
            await self.time.pass_until(ORIGIN_S + pts_ns / NS_PER_S + LAG_MS / 1000)
            self.air.follow(AccessUnit(Codec.OPUS, b"\xfc", pts_ns, 20 * NS_PER_MS, arrival_ns=self.time.now_ns()))
            self._n_units += 1
            self.air.before_round()
            n_ready = ns_to_ticks(self.air.ready_until_ns, RATE_HZ) // 960
            while len(self.heard) < n_ready:
                starts_ns = len(self.heard) * 20 * NS_PER_MS
                self.heard.append(self.air.mix(starts_ns, np.zeros((2, 960), np.float32)).samples)

    @property
    def sound(self) -> NDArray[np.float32]:
        return np.concatenate(self.heard, axis=1)[0, self.air.look_ahead_samples :]

    def sounds_from_s(self) -> float:
        return float(np.flatnonzero(np.abs(self.sound) > 0.05)[0] / RATE_HZ)


async def test_a_live_question_is_heard_when_it_came_and_no_later_than_its_answer() -> None:
    guest = FakeSource(name="guest", is_live=True)
    broadcast = Broadcast({"guest": (guest, {"on_air": True})})
    async with broadcast.running():
        await broadcast.go_on_until(1.0)
        at_s = broadcast.time.now_s - ORIGIN_S - LAG_MS / 1000
        guest.feed(tone(0.02))
        await broadcast.go_on_until(1.5)
    # Its end was heard when it came.
    assert broadcast.sounds_from_s() == pytest.approx(at_s - 0.02, abs=0.003)


async def test_a_file_is_heard_as_it_is_taken_for_the_avatar() -> None:
    question = FakeSource(np.concatenate((np.zeros(AVATAR_RATE_HZ), tone(0.5))), name="question")
    broadcast = Broadcast({"question": (question, {"on_air": True})})
    async with broadcast.running():
        await broadcast.go_on_until(3.0)
    first = next(index for index, message in enumerate(broadcast.link.messages) if np.abs(message).max() > 1_000)
    offset = int(np.flatnonzero(np.abs(broadcast.link.messages[first]) > 1_000)[0]) / AVATAR_RATE_HZ
    said_s = broadcast.link.sent_at_s[first] + offset - ORIGIN_S - LAG_MS / 1000
    assert broadcast.sounds_from_s() == pytest.approx(said_s, abs=0.003)
    heard_s = np.count_nonzero(np.abs(broadcast.sound) > 0.01) / RATE_HZ
    assert heard_s == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("delay_ms", [0, 250, 1_500])
async def test_a_delay_is_kept_to(delay_ms: int) -> None:
    guest = FakeSource(name="guest", is_live=True)
    broadcast = Broadcast({"guest": (guest, {"on_air": True, "air_delay_ms": delay_ms})})
    async with broadcast.running():
        await broadcast.go_on_until(1.0)
        guest.feed(tone(0.02))
        await broadcast.go_on_until(3.0)
    assert broadcast.sounds_from_s() == pytest.approx(0.97 + delay_ms / 1000, abs=0.025)


async def test_music_for_viewers_alone_plays_on_and_the_avatar_does_not_hear_it() -> None:
    music = FakeSource(tone(5.0), name="music")
    broadcast = Broadcast(
        {
            "guest": (FakeSource(name="guest", is_live=True), {}),
            "music": (music, {"on_air": True, "to_avatar": False, "gain_db": -6}),
        }
    )
    async with broadcast.running():
        await broadcast.go_on_until(3.0)
    assert not any(message.any() for message in broadcast.link.messages)
    part = broadcast.sound[RATE_HZ : 2 * RATE_HZ]
    assert np.sqrt(2 * np.mean(part.astype(np.float64) ** 2)) == pytest.approx(8_000 / 32_768 / 2, rel=0.02)
    assert np.abs(np.diff(part)).max() < 0.125 * 2 * np.pi * 1_000 / RATE_HZ * 1.02, "without a joint"
    statuses = {status.name: status for status in broadcast.desk.status()}
    assert statuses["music"].is_on_air and not statuses["guest"].is_on_air
    assert statuses["music"].level_dbfs == pytest.approx(-21.3, abs=0.5)


async def test_what_the_operator_mutes_is_not_heard() -> None:
    music = FakeSource(tone(5.0), name="music")
    broadcast = Broadcast({"music": (music, {"on_air": True, "to_avatar": False})})
    async with broadcast.running():
        await broadcast.go_on_until(1.0)
        broadcast.is_silenced = True
        n_before = len(broadcast.heard)
        await broadcast.go_on_until(2.0)
        broadcast.is_silenced = False
        await broadcast.go_on_until(3.0)
    assert not broadcast.sound[(n_before + 2) * 960 : (n_before + 40) * 960].any()
    assert np.abs(broadcast.sound[-RATE_HZ // 2 :]).max() > 0.2


async def test_what_waits_while_nobody_takes_it_is_bounded_and_counted() -> None:
    guest = FakeSource(name="guest", is_live=True)
    broadcast = Broadcast({"guest": (guest, {"on_air": True})})
    async with broadcast.running():
        for _ in range(250):
            guest.feed(tone(0.02))
            await broadcast.time.pass_until(broadcast.time.now_s + 0.02)
        broadcast.air.before_round()
    assert broadcast.feeds[0].status().air_lost_s == pytest.approx(3.0, abs=0.05)


async def test_what_is_interrupted_is_not_heard_by_viewers_either() -> None:
    question = FakeSource(tone(4.0), name="question")
    broadcast = Broadcast({"question": (question, {"on_air": True})})
    async with broadcast.running():
        await broadcast.go_on_until(1.0)
        broadcast.uplink.interrupt()
        await broadcast.go_on_until(5.5)
    energy = np.sum(broadcast.sound.astype(np.float64) ** 2) / RATE_HZ
    said = np.concatenate(broadcast.link.messages) / 32_768
    assert energy == pytest.approx(np.sum(said**2) / AVATAR_RATE_HZ, rel=0.01)
    assert broadcast.feeds[0].dropped_s > 0.9


async def test_who_speaks_to_viewers_alone_is_told_of_from_the_first_word_to_the_last() -> None:
    host = FakeSource(name="host", is_live=True)
    broadcast = Broadcast({"host": (host, {"on_air": True, "to_avatar": False})})
    async with broadcast.running():
        await broadcast.go_on_until(0.5)
        assert broadcast.talks == []
        broadcast.feeds[0].strip.voice.begin()
        await broadcast.go_on_until(0.6)
        assert broadcast.talks == [True]
        await broadcast.go_on_until(3.0)
    assert broadcast.talks == [True, False]


@pytest.mark.parametrize(("rate_hz", "is_refused"), [(44_100, False), (11_025, False), (47_952, False), (44_101, True)])
async def test_a_rate_whose_filter_would_hold_up_all_sound_is_not_put_on_air(rate_hz: int, is_refused: bool) -> None:
    feed = Feed(FakeSource(tone(0.1), rate_hz=rate_hz), follows_clock=True)
    feed.on_air = lambda block, ahead_ns: None
    await feed.run()
    assert bool(feed.error) == is_refused != bool(feed.has_begun)
    if is_refused:
        assert str(feed.error) == (
            "input question: sound at 44101 Hz cannot be put on air: use a multiple of 50 or 75 Hz"
        )
