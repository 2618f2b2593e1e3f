import asyncio

import pytest

from bridge.errors import ProviderUnavailable
from bridge.ports import ToolCall
from bridge.tool_calls import MAX_WAITING, ToolCalls

CALL = ToolCall("call_1", "weather", '{"city": "Oslo"}')


class FakeLink:
    def __init__(self, is_gone: bool = False) -> None:
        self.answers: list[tuple[str, str]] = []
        self._is_gone = is_gone

    async def answer_tool(self, call_id: str, output: str) -> None:
        if self._is_gone:
            raise ProviderUnavailable("gone")
        self.answers.append((call_id, output))


class Desk:
    """Tool calls, and how each of them ended."""

    def __init__(self, deadline_s: float = 60.0, **defaults: str) -> None:
        self.results: list[str] = []
        self.calls = ToolCalls(defaults, "nobody knows", deadline_s, self.results.append)

    async def settled(self, n_results: int) -> None:
        async with asyncio.timeout(5.0):
            while len(self.results) < n_results:  # noqa: ASYNC110  results announce themselves to nobody else
                await asyncio.sleep(0.001)


async def test_an_answer_goes_to_whoever_asked() -> None:
    desk, link = Desk(), FakeLink()
    desk.calls.ask(CALL, link)
    assert desk.calls.answer("call_1", "rain")
    await desk.settled(1)
    assert link.answers == [("call_1", "rain")]
    assert desk.results == ["answered"]


@pytest.mark.parametrize(
    ("defaults", "answer"), [({}, "nobody knows"), ({"weather": "probably rain"}, "probably rain")]
)
async def test_what_nobody_answers_in_time_gets_the_default(defaults: dict[str, str], answer: str) -> None:
    desk, link = Desk(deadline_s=0.001, **defaults), FakeLink()
    desk.calls.ask(CALL, link)
    await desk.settled(1)
    assert link.answers == [("call_1", answer)]
    assert desk.results == ["default"]
    assert not desk.calls.answer("call_1", "too late")


async def test_only_the_first_answer_counts() -> None:
    desk, link = Desk(), FakeLink()
    desk.calls.ask(CALL, link)
    assert desk.calls.answer("call_1", "rain")
    assert not desk.calls.answer("call_1", "sun")
    assert not desk.calls.answer("call_2", "of what?")
    await desk.settled(1)
    assert link.answers == [("call_1", "rain")]


async def test_a_call_that_is_repeated_is_answered_once() -> None:
    desk, link = Desk(), FakeLink()
    desk.calls.ask(CALL, link)
    desk.calls.ask(CALL, link)
    desk.calls.answer("call_1", "rain")
    await desk.settled(1)
    assert link.answers == [("call_1", "rain")]


async def test_a_call_of_an_avatar_that_is_gone_is_counted_as_unsent() -> None:
    desk = Desk()
    desk.calls.ask(CALL, FakeLink(is_gone=True))
    desk.calls.answer("call_1", "rain")
    await desk.settled(1)
    desk.calls.ask(CALL, FakeLink())
    await asyncio.sleep(0)
    await desk.calls.cancel()
    assert desk.results == ["unsent", "unsent"]


async def test_a_call_whose_avatar_goes_at_once_waits_no_longer() -> None:
    desk, link = Desk(), FakeLink()
    desk.calls.ask(CALL, FakeLink())
    await desk.calls.cancel()
    assert desk.results == ["unsent"]
    desk.calls.ask(CALL, link)
    assert desk.calls.answer("call_1", "rain")
    await desk.settled(2)
    assert link.answers == [("call_1", "rain")]


async def test_a_flood_of_calls_is_answered_at_once() -> None:
    desk, link = Desk(), FakeLink()
    for index in range(MAX_WAITING + 3):
        desk.calls.ask(ToolCall(f"call_{index}", "weather", "{}"), link)
    await desk.settled(3)
    assert desk.results == ["default"] * 3
    await desk.calls.cancel()
