"""The way up among fakes: time that a test moves, sources that give what they are told, a link that remembers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import numpy as np

from bridge.desk import Desk
from bridge.dsp.strip import StripSettings
from bridge.errors import ProviderUnavailable
from bridge.feed import Feed
from bridge.media.audio import AudioBlock
from bridge.media.clock import AVATAR_RATE_HZ, NS_PER_S
from bridge.ports import UplinkPacing
from bridge.uplink import Uplink

PACING = UplinkPacing(live_samples=480, buffered_samples=1_536, idle_audio="silence", tail_s=0.64)
QUIET_PACING = UplinkPacing(live_samples=480, buffered_samples=1_536, idle_audio="none", tail_s=0.64)
CLEAN_PACING = replace(PACING, needs_clean_tail=True)
MESSAGE_S = 1_536 / AVATAR_RATE_HZ


class VirtualTime:
    """A clock that moves only in `pass_until`, from sleeper to sleeper."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def now_ns(self) -> int:
        return round(self.now_s * NS_PER_S)

    async def sleep(self, duration_s: float) -> None:
        awake = asyncio.Event()
        self._sleepers.append((self.now_s + duration_s, awake))
        await awake.wait()

    async def pass_until(self, limit_s: float) -> None:
        while True:
            # Whoever can run does so before time passes: a source refills, a link answers.
            for _ in range(8):
                await asyncio.sleep(0)
            self._sleepers.sort(key=lambda sleeper: sleeper[0])
            if not self._sleepers or self._sleepers[0][0] > limit_s:
                break
            until_s, awake = self._sleepers.pop(0)
            self.now_s = max(self.now_s, until_s)
            awake.set()
        self.now_s = max(self.now_s, limit_s)


class FakeSource:
    """Delivers what it was given; `feed` adds to a live one."""

    def __init__(
        self,
        *samples: np.ndarray,
        name: str = "question",
        is_live: bool = False,
        error: Exception | None = None,
        rate_hz: int = AVATAR_RATE_HZ,
    ) -> None:
        self.name = name
        self._rate_hz = rate_hz
        self.is_live = is_live
        self.emitted = 0
        self._samples = samples
        self._error = error
        self._fed: asyncio.Queue[np.ndarray | None] = asyncio.Queue()

    def feed(self, samples: np.ndarray) -> None:
        self._fed.put_nowait(samples)

    async def run(self, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        for samples in self._samples:
            for start in range(0, len(samples), 2_400):
                await self._emit(emit, samples[start : start + 2_400])
        if self._error:
            raise self._error
        while self.is_live:
            samples = await self._fed.get()
            await self._emit(emit, samples)

    async def _emit(self, emit: Callable[[AudioBlock], Awaitable[None]], samples: np.ndarray) -> None:
        await emit(AudioBlock(samples.astype(np.int16)[:, None], self._rate_hz, 0))
        self.emitted += len(samples)


class FakeLink:
    """Remembers what it was sent, and when; fails after `lives_for` messages."""

    def __init__(self, time: VirtualTime, pacing: UplinkPacing = PACING, lives_for: int | None = None) -> None:
        self.pacing = pacing
        self.messages: list[np.ndarray] = []
        self.sent_at_s: list[float] = []
        self._time = time
        self._lives_for = lives_for
        self.stall_s = 0.0
        self.interrupted_at_s: list[float] = []
        self.n_turns_ended = 0

    async def end_turn(self) -> None:
        self.n_turns_ended += 1

    async def interrupt(self) -> None:
        self.interrupted_at_s.append(self._time.now_s)

    async def send_audio(self, pcm16: bytes) -> None:
        if self._lives_for is not None and len(self.messages) >= self._lives_for:
            raise ProviderUnavailable("the avatar service closed the session")
        if self.stall_s:
            stall_s, self.stall_s = self.stall_s, 0.0
            self._time.now_s += stall_s
        self.messages.append(np.frombuffer(pcm16, "<i2"))
        self.sent_at_s.append(self._time.now_s)

    @property
    def sound(self) -> np.ndarray:
        return np.concatenate(self.messages) if self.messages else np.empty(0, np.int16)

    @property
    def is_speech(self) -> list[bool]:
        return [bool(message.any()) for message in self.messages]


def ramp(duration_s: float) -> np.ndarray:
    """Loud, and no sample like its neighbours: what is lost, doubled or out of order shows."""
    return np.arange(round(duration_s * AVATAR_RATE_HZ)) % 20_000 + 5_000


def silence(duration_s: float) -> np.ndarray:
    return np.zeros(round(duration_s * AVATAR_RATE_HZ))


@asynccontextmanager
async def running(
    *sources: FakeSource, time: VirtualTime, settings: dict[str, StripSettings] | None = None
) -> AsyncIterator[Uplink]:
    """An uplink of these inputs, until the end; settings by the name of the input."""
    settings = settings or {}
    desk = Desk([Feed(source, settings.get(source.name)) for source in sources])
    uplink = Uplink(desk, now_ns=time.now_ns, sleep=time.sleep)
    task = asyncio.create_task(uplink.run())
    await time.pass_until(0)
    yield uplink
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
