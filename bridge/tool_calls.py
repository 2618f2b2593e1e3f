"""Tool calls of the avatar's model, and who answers them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Literal

import structlog

from bridge.errors import BridgeError, ProviderError
from bridge.ports import AvatarLink, ToolCall

# A model that asks for more at a time is in a loop.
MAX_WAITING = 16

Result = Literal["answered", "default", "unsent"]

log = structlog.get_logger()


class ToolCalls:
    """Calls that wait: each gets the answer that somebody gives, else the default once its deadline has passed.

    ask_elsewhere  who else is asked, by the name of the tool. Raises BridgeError where there is no answer to be had.
    on_result  is told how each call ended; unsent: the avatar was gone.
    """

    def __init__(
        self,
        defaults: Mapping[str, str],
        default: str,
        deadline_s: float,
        on_result: Callable[[ToolCall, Result], None],
        ask_elsewhere: Mapping[str, Callable[[ToolCall], Awaitable[str]]] = MappingProxyType({}),
    ) -> None:
        """`defaults`: by the name of the tool, where it has one of its own."""
        self._defaults = defaults
        self._default = default
        self._deadline_s = deadline_s
        self._on_result = on_result
        self._ask_elsewhere = ask_elsewhere
        self._waiting: dict[str, asyncio.Future[str]] = {}
        self._tasks: set[asyncio.Task[Result]] = set()

    def ask(self, call: ToolCall, link: AvatarLink) -> None:
        """The avatar behind `link` wants an answer. Beyond `MAX_WAITING` calls it gets the default at once."""
        if call.call_id in self._waiting:
            log.debug("tool_call_repeated", tool=call.name)
            return
        deadline_s = self._deadline_s
        if len(self._waiting) >= MAX_WAITING:
            log.warning("tool_calls_overflow", tool=call.name, waiting=len(self._waiting))
            deadline_s = 0.0
        answer = self._waiting[call.call_id] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._serve(call, link, answer, deadline_s), name=f"tool {call.name}")
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._settle(call, task))

    def answer(self, call_id: str, output: str) -> bool:
        """Answer a call. False: it does not wait, or no longer."""
        answer = self._waiting.get(call_id)
        if answer is None or answer.done():
            return False
        answer.set_result(output)
        return True

    async def cancel(self) -> None:
        """The avatar is gone, and with it whoever asked."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _serve(self, call: ToolCall, link: AvatarLink, answer: asyncio.Future[str], deadline_s: float) -> Result:
        if deadline_s:
            asking = asyncio.create_task(self._ask(call), name=f"ask for {call.name}")
            try:
                await asyncio.wait((answer,), timeout=deadline_s)
            finally:
                asking.cancel()
        was_answered = answer.done()
        if not was_answered:
            log.warning("tool_call_unanswered", tool=call.name, waited_s=deadline_s)
            answer.set_result(self._defaults.get(call.name, self._default))
        try:
            await link.answer_tool(call.call_id, answer.result())
        except ProviderError as error:
            log.warning("tool_answer_lost", tool=call.name, error=str(error))
            return "unsent"
        return "answered" if was_answered else "default"

    async def _ask(self, call: ToolCall) -> None:
        ask = self._ask_elsewhere.get(call.name)
        if ask is None:
            return
        try:
            self.answer(call.call_id, await ask(call))
        except BridgeError as error:
            log.warning("tool_webhook_failed", tool=call.name, error=str(error))

    def _settle(self, call: ToolCall, task: asyncio.Task[Result]) -> None:
        # Here and not in the task: one that is cancelled before its first step never comes to its end.
        self._tasks.discard(task)
        del self._waiting[call.call_id]
        self._on_result(call, "unsent" if task.cancelled() else task.result())
