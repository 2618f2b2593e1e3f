import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import pytest
from structlog.testing import capture_logs

from bridge.errors import InternalError, SourceError, SourceLost, SourceRejected
from bridge.inputs.runner import LONGEST_RETRY_S, PROVEN_S, RetryingSource
from bridge.media.audio import AudioBlock
from bridge.net.backoff import Backoff

RATE_HZ = 8_000


class Scripted:
    """Gives so many seconds of sound in each attempt, then fails as told; None: ends."""

    name, is_live = "radio", True

    def __init__(self, attempts: Sequence[tuple[float, Exception | None]]) -> None:
        self.attempts = list(attempts)

    async def run(self, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        sound_s, error = self.attempts.pop(0)
        if sound_s:
            await emit(AudioBlock(np.zeros((round(sound_s * RATE_HZ), 1), np.int16), RATE_HZ, 0))
        if error is not None:
            raise error


async def run(attempts: Sequence[tuple[float, Exception | None]]) -> tuple[list[float], list[int]]:
    """The waits between attempts, and the source time of every block; each wait takes as long as it says."""
    waits: list[float] = []
    starts_ns: list[int] = []

    async def sleep(delay_s: float) -> None:
        waits.append(delay_s)

    async def emit(block: AudioBlock) -> None:
        starts_ns.append(block.pts_ns)

    class Middle(random.Random):
        def random(self) -> float:
            return 0.0

    source = RetryingSource(
        Scripted(attempts),
        backoff=Backoff(0.5, LONGEST_RETRY_S, Middle()),
        sleep=sleep,
        now_ns=lambda: round(sum(waits) * 1e9),
    )
    await source.run(emit)
    return waits, starts_ns


LOST = SourceLost("input radio: the connection broke")


async def test_lost_source_is_tried_again_ever_more_rarely_and_said_each_time() -> None:
    with capture_logs() as logs:
        waits, _ = await run([(0, LOST)] * 7 + [(0, None)])
    assert waits == [0.5, 1, 2, 4, 8, 15, 15]
    assert [entry["event"] for entry in logs] == ["input_lost"] * 7
    assert logs[0] == {
        "event": "input_lost",
        "log_level": "warning",
        "input": "radio",
        "error": str(LOST),
        "retry_in_s": 0.5,
    }


async def test_only_sound_that_lasts_is_progress() -> None:
    waits, _ = await run([(0, LOST), (PROVEN_S / 2, LOST), (PROVEN_S, LOST), (0, None)])
    assert waits == [0.5, 1, 0.5]


async def test_source_time_goes_on_over_a_loss() -> None:
    _, starts_ns = await run([(1.0, LOST), (0.1, LOST), (0.1, None)])
    # The first second was given at once, the wait is shorter; the second wait is longer.
    assert starts_ns == [0, 1_000_000_000, 1_500_000_000]


async def test_refusal_is_final_only_before_the_first_sound() -> None:
    refused = SourceRejected("input radio: HTTP 404")
    with pytest.raises(SourceRejected):
        await run([(0, LOST), (0, refused)])
    waits, _ = await run([(0.1, LOST), (0, refused), (0, None)])
    assert len(waits) == 2


@pytest.mark.parametrize("error", [InternalError("bug"), SourceError("what?")])
async def test_what_nobody_can_retry_is_raised(error: Exception) -> None:
    with pytest.raises(type(error)):
        await run([(1.0, error)])


async def test_sound_that_cannot_be_converted_is_refused() -> None:
    async def emit(block: AudioBlock) -> None:
        raise SourceRejected("sound with 9 channels")

    with pytest.raises(SourceRejected):
        await asyncio.wait_for(RetryingSource(Scripted([(1.0, None)])).run(emit), 1)
