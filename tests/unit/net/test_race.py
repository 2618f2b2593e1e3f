import asyncio

import pytest

from bridge.net.race import race


async def give(value: str) -> str:
    return value


async def fail() -> str:
    raise ValueError("lost")


class Patient:
    """Waits for ever, and remembers that it was cancelled."""

    def __init__(self) -> None:
        self.was_cancelled = False

    async def wait(self) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        return "never"


async def test_the_first_to_end_decides_and_the_others_are_cancelled() -> None:
    patient = Patient()
    assert await race(patient.wait(), give("done")) == "done"
    assert patient.was_cancelled


async def test_of_those_that_end_together_an_error_counts_more_than_a_result() -> None:
    with pytest.raises(ValueError, match="lost"):
        await race(give("done"), fail())


async def test_without_an_error_the_one_named_first_counts() -> None:
    assert await race(give("one"), give("two")) == "one"


async def test_who_is_cancelled_cancels_all() -> None:
    patient = Patient()
    racing = asyncio.create_task(race(patient.wait()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    racing.cancel()
    await asyncio.wait((racing,))
    assert racing.cancelled() and patient.was_cancelled
