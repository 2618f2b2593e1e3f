import asyncio

import pytest

from bridge.errors import BridgeError, ProviderUnavailable
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
        self.calls = ToolCalls(defaults, "nobody knows", deadline_s, self.end)

    def end(self, call: ToolCall, result: str) -> None:
        self.results.append(result)

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


async def test_a_webhook_is_asked_and_what_it_says_is_the_answer() -> None:
    asked: list[ToolCall] = []

    async def ask(call: ToolCall) -> str:
        asked.append(call)
        return "rain, says the webhook"

    desk, link = Desk(), FakeLink()
    desk.calls = ToolCalls({}, "nobody knows", 60.0, desk.end, {"weather": ask})
    desk.calls.ask(CALL, link)
    desk.calls.ask(ToolCall("call_2", "time", "{}"), link)
    await desk.settled(1)
    assert (asked, link.answers) == ([CALL], [("call_1", "rain, says the webhook")])
    await desk.calls.cancel()


async def test_a_webhook_that_fails_or_hangs_leaves_the_default() -> None:
    async def fail(call: ToolCall) -> str:
        raise BridgeError("HTTP 500")

    async def hang(call: ToolCall) -> str:
        await asyncio.Event().wait()
        raise AssertionError

    for ask in (fail, hang):
        desk, link = Desk(), FakeLink()
        desk.calls = ToolCalls({}, "nobody knows", 0.01, desk.end, {"weather": ask})
        desk.calls.ask(CALL, link)
        await desk.settled(1)
        assert link.answers == [("call_1", "nobody knows")]


async def test_a_flood_of_calls_is_answered_at_once() -> None:
    desk, link, asked = Desk(), FakeLink(), list[str]()

    async def ask(call: ToolCall) -> str:
        asked.append(call.call_id)
        await asyncio.Event().wait()
        raise AssertionError

    desk.calls = ToolCalls({}, "nobody knows", 60.0, desk.end, {"weather": ask})
    for index in range(MAX_WAITING + 3):
        desk.calls.ask(ToolCall(f"call_{index}", "weather", "{}"), link)
    await desk.settled(3)
    assert desk.results == ["default"] * 3
    assert len(asked) == MAX_WAITING, "nobody else is asked about what is answered already"
    await desk.calls.cancel()
