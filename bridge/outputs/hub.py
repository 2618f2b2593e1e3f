"""Fan-out of one session's access units to its outputs, which are islands."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from bridge.media.access_unit import AccessUnit, Codec
from bridge.outputs.audio import OpusToAac
from bridge.outputs.runner import OutputRunner

log = structlog.get_logger()


class Hub:
    """Gives every output the pictures, and the sound in the codec its container takes.

    Opus goes through untouched; for all outputs that want AAC at one bit rate there is one transcoder, and none when
    nobody wants it. An output that fails, refuses or stalls touches no other: each has a queue and a runner of its
    own, `put` never waits, and a bug in one ends the session only once the others are done. A bug in a transcoder
    finishes the outputs that it feeds.
    """

    def __init__(self, runners: Sequence[OutputRunner]) -> None:
        self.runners = tuple(runners)
        bit_rates = sorted({runner.audio_bitrate for runner in runners if runner.audio_codec is Codec.AAC})
        self._sounds = {bit_rate: OpusToAac(self._put_aac(bit_rate), bit_rate) for bit_rate in bit_rates}

    @property
    def keyframe_s(self) -> float | None:
        """The smallest distance of keyframes that any output declares; None: no output cares."""
        return min((runner.keyframe_s for runner in self.runners if runner.keyframe_s is not None), default=None)

    @property
    def audio_concealed_s(self) -> float:
        """Sound that AAC outputs got as silence, because it was lost, broken or never sent."""
        return max((sound.concealed_s for sound in self._sounds.values()), default=0.0)

    def put(self, unit: AccessUnit) -> None:
        """Offer a unit to every output; never waits."""
        for sound in self._sounds.values():
            sound.put(unit)
        for runner in self.runners:
            if unit.codec.kind == "video" or unit.codec is runner.audio_codec:
                runner.queue.put(unit)

    def finish(self) -> None:
        """Let the outputs publish what waits and close; `run` then returns."""
        for sound in self._sounds.values():
            sound.finish()
        for runner in self.runners:
            if runner.audio_codec is not Codec.AAC:
                runner.finish()

    async def run(self) -> None:
        """Run until every output has ended: published all, refused for good, or failed by a bug, which is raised."""
        bugs: list[Exception] = []
        async with asyncio.TaskGroup() as tasks:
            sounds = [
                tasks.create_task(_isolate(self._transcode(bit_rate, sound), bugs, transcoder=f"aac {bit_rate}"))
                for bit_rate, sound in self._sounds.items()
            ]
            outputs = [
                tasks.create_task(_isolate(runner.run(), bugs, output=runner.name), name=runner.name)
                for runner in self.runners
            ]
            await asyncio.gather(*outputs)
            for task in sounds:
                task.cancel()
        if bugs:
            raise ExceptionGroup("a bug ended an output", bugs)

    async def _transcode(self, bit_rate: int, sound: OpusToAac) -> None:
        try:
            await sound.run()
        finally:
            for runner in self._aac_runners(bit_rate):
                runner.finish()

    def _aac_runners(self, bit_rate: int) -> list[OutputRunner]:
        return [r for r in self.runners if r.audio_codec is Codec.AAC and r.audio_bitrate == bit_rate]

    def _put_aac(self, bit_rate: int) -> Callable[[AccessUnit], None]:
        def put(unit: AccessUnit) -> None:
            for runner in self._aac_runners(bit_rate):
                runner.queue.put(unit)

        return put


async def _isolate(running: Coroutine[Any, Any, None], bugs: list[Exception], **what: str) -> None:
    try:
        await running
    except Exception as bug:
        # Whatever is wrong with one of them, the others stay on air: the bug is kept for the end.
        log.exception("output_failed", **what)
        bugs.append(bug)
