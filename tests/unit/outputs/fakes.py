"""Outputs that do what a test says, a clock that a test moves, and a backoff without chance."""

import asyncio
import heapq
import itertools
import random
from collections.abc import Awaitable, Callable

from bridge.media.access_unit import AccessUnit, Codec
from bridge.media.clock import NS_PER_MS
from bridge.media.live_queue import LiveQueue
from bridge.net.backoff import Backoff
from bridge.outputs.choice import PictureWants
from bridge.outputs.compliance import Compliance
from bridge.outputs.runner import FIRST_RETRY_S, LONGEST_RETRY_S, OutputRunner
from bridge.outputs.status import OutputStatus
from bridge.ports import OutputListener, OutputProgress


def picture(pts_ms: int, *, keyframe: bool = False) -> AccessUnit:
    return AccessUnit(
        Codec.H264, b"\0\0\0\1\x65", pts_ms * NS_PER_MS, is_keyframe=keyframe, codec_config=b"avcC" if keyframe else b""
    )


def opus(pts_ms: int) -> AccessUnit:
    return AccessUnit(Codec.OPUS, b"\xfc\xff\xfe", pts_ms * NS_PER_MS, 20 * NS_PER_MS)


def aac(pts_ms: int) -> AccessUnit:
    return AccessUnit(Codec.AAC, b"\x21", pts_ms * NS_PER_MS, 21 * NS_PER_MS, codec_config=b"\x11\x90")


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


class FakeTime:
    """`sleep` ends when the test lets time pass."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    async def sleep(self, delay_s: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now_s + delay_s, next(self._order), woken))
        await woken

    async def pass_s(self, duration_s: float) -> None:
        end_s = self.now_s + duration_s
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end_s:
            self.now_s, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)
                await settle()
        self.now_s = end_s


Behaviour = Callable[["FakeOutput", LiveQueue, OutputListener], Awaitable[None]]


class FakeOutput:
    """Does what `behaviour` says; notes what it wrote and how it was ended."""

    def __init__(self, behaviour: Behaviour, audio_codec: Codec = Codec.OPUS, keyframe_s: float | None = 2.0) -> None:
        self.audio_codec = audio_codec
        self.keyframe_s = keyframe_s
        self.behaviour = behaviour
        self.written: list[AccessUnit] = []
        self.bytes_total = 0
        self.backlog_bytes = 0
        self.was_cancelled = False

    async def run(self, units: LiveQueue, listener: OutputListener) -> None:
        try:
            await self.behaviour(self, units, listener)
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise

    def progress(self) -> OutputProgress:
        return OutputProgress(self.bytes_total, self.backlog_bytes)


async def publish(output: FakeOutput, units: LiveQueue, listener: OutputListener) -> None:
    """A healthy far end."""
    listener.on_published()
    while (unit := await units.get()) is not None:
        output.written.append(unit)
        output.bytes_total += len(unit.payload)
        listener.on_written(unit)


async def wedge(output: FakeOutput, units: LiveQueue, listener: OutputListener) -> None:
    """A far end that accepts the stream and then reads nothing."""
    listener.on_published()
    await asyncio.Event().wait()


def fail(error: Exception, *, after: int | None = None) -> Behaviour:
    """A far end that refuses the connection, or with `after` accepts it and ends after so many units."""

    async def behaviour(output: FakeOutput, units: LiveQueue, listener: OutputListener) -> None:
        if after is not None:
            listener.on_published()
            for _ in range(after):
                unit = await units.get()
                assert unit is not None
                output.written.append(unit)
                output.bytes_total += len(unit.payload)
        raise error

    return behaviour


class _NoJitter(random.Random):
    def random(self) -> float:
        return 0.0


class Rig:
    """A runner with attempts that behave as listed, the last one for ever, on fake time."""

    def __init__(
        self,
        *behaviours: Behaviour,
        name: str = "twitch",
        audio_codec: Codec = Codec.OPUS,
        keyframe_s: float | None = 2.0,
        audio_bitrate: int = 128_000,
        autostart: bool = True,
        compliance: Compliance | None = None,
        wants: PictureWants | None = None,
    ) -> None:
        self.time = FakeTime()
        self.outputs: list[FakeOutput] = []
        self.changes: list[OutputStatus] = []
        self.written: list[AccessUnit] = []
        self.keyframe_requests = 0
        self.queue = LiveQueue(2.0)

        def open_output() -> FakeOutput:
            behaviour = behaviours[min(len(self.outputs), len(behaviours) - 1)]
            self.outputs.append(FakeOutput(behaviour, audio_codec, keyframe_s))
            return self.outputs[-1]

        def request_keyframe() -> None:
            self.keyframe_requests += 1

        self.runner = OutputRunner(
            name,
            open_output,
            self.queue,
            protocol="fake",
            wants=wants,
            audio_bitrate=audio_bitrate,
            autostart=autostart,
            compliance=compliance,
            request_keyframe=request_keyframe,
            on_change=self.changes.append,
            on_written=self.written.append,
            backoff=Backoff(FIRST_RETRY_S, LONGEST_RETRY_S, _NoJitter()),
            sleep=self.time.sleep,
            now_s=lambda: self.time.now_s,
        )

    @property
    def states(self) -> list[str]:
        states = [status.state.value for status in self.changes]
        return [state for before, state in itertools.pairwise(["", *states]) if state != before]

    async def pass_s(self, duration_s: float, *, media: bool = True) -> None:
        """Let time pass, second by second, with a keyframe in each."""
        for _ in range(round(duration_s)):
            if media:
                self.queue.put(picture(round(self.time.now_s * 1000), keyframe=True))
                self.queue.put(picture(round(self.time.now_s * 1000) + 40))
            await self.time.pass_s(1.0)
