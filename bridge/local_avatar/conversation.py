"""What the avatar does with what it hears, reads and sees: it has no model, and is honest about it."""

import asyncio
import json
import re
import secrets
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal

from bridge.local_avatar.performer import Performer
from bridge.local_avatar.pictures import describe_picture
from bridge.local_avatar.speech import MAX_CHARACTERS, speak_text
from bridge.local_avatar.tools import Tool, fill_arguments, name_tool, register_tools
from bridge.local_avatar.turns import SilenceGate, TurnDetector, TurnEnded, TurnStarted
from bridge.protocols import navtalk

Role = Literal["conversation", "speak"]

# What somebody takes to see that it is his turn; between people it is 0.2 s (Stivers et al., PNAS 2009).
THOUGHT_S = 0.3
MAX_HISTORY = 100
# Tools that were called and never answered: clients that go on without them are no reason to keep more.
MAX_CALLS = 16
_DELTA_CHARACTERS = 12
_COUNTED = ("turns", "texts", "pictures", "history_items", "tools", "tool_calls", "tool_outputs", "answers", "clears")


class Conversation:
    """Answers one client, in the order of the documents, while the performer shows it.

    In the role conversation a spoken turn is answered by repeating it; in the role speak sound is said at once, as it
    is. Both say what they read, call a tool that a text names, and describe the picture they are shown. Whoever takes
    a turn interrupts the answer before. Answers live in `tasks`.

    counts  of what was heard, read and done, for the log.
    """

    def __init__(
        self,
        name: str,
        role: Role,
        performer: Performer,
        tasks: asyncio.TaskGroup,
        send: Callable[[navtalk.Event], Awaitable[None]],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.counts = Counter(dict.fromkeys(_COUNTED, 0))
        self._name, self._role = name, role
        self._performer, self._tasks, self._send, self._sleep = performer, tasks, send, sleep
        self._turns, self._gate = TurnDetector(), SilenceGate()
        self._tools: dict[str, Tool] = {}
        self._said: deque[str] = deque(maxlen=MAX_HISTORY)
        self._unanswered = ""  # the last item of the history, as long as nothing came after it
        self._picture = ""
        self._calls: dict[str, str] = {}  # names of the tools that owe a result, by call
        self._results: deque[str] = deque(maxlen=MAX_CALLS)
        self._answering: asyncio.Task[None] | None = None

    async def take(self, request: navtalk.Request) -> None:
        """Take what a client sends besides signalling; answers follow later."""
        match request:
            case navtalk.AudioAppend(pcm16) if self._role == "speak":
                if self._gate.passes(pcm16):
                    self._performer.speak(pcm16)
            case navtalk.AudioAppend(pcm16):
                for event in self._turns.push(pcm16):
                    await self._take_turn(event)
            case navtalk.AudioClear():
                self.counts["clears"] += 1
                self._interrupt()
            case navtalk.TextInput(text):
                self.counts["texts"] += 1
                self._remember("")
                self._answer(self._reply(text[:MAX_CHARACTERS]))
            case navtalk.ImageInput(data_url, wants_answer):
                self.counts["pictures"] += 1
                self._picture = data_url
                if wants_answer:
                    self._answer(self._say(""))
            case navtalk.InputConfig(tools=tools) | navtalk.ToolList(tools) if tools is not None:
                self._tools = register_tools(tools)
                self.counts["tools"] = len(self._tools)
            case navtalk.HistoryItem(text):
                self.counts["history_items"] += 1
                self._remember(text[:MAX_CHARACTERS])
            case navtalk.FunctionCallOutput(call_id, output):
                self._take_output(call_id, output[:MAX_CHARACTERS])
            case navtalk.ResponseCreate():
                self._answer(self._respond())

    async def _take_turn(self, event: TurnStarted | TurnEnded) -> None:
        if isinstance(event, TurnStarted):
            # Somebody who speaks while the avatar answers is interrupting it.
            self._interrupt()
            self._performer.attend("listening")
            await self._send(navtalk.SpeechStarted())
            return
        self.counts["turns"] += 1
        self._remember("")
        heard = f"speech, {event.duration_s:.1f} s"
        await self._send(navtalk.SpeechStopped())
        await self._send(navtalk.UserTranscript(f"({heard})"))
        self._answer(self._repeat(f"(repeats {heard})", event.pcm16))

    def _remember(self, text: str) -> None:
        """Something new is said, and what was said before is history for good."""
        if self._unanswered:
            self._said.append(self._unanswered)
        self._unanswered = text

    def _take_output(self, call_id: str, output: str) -> None:
        if self._calls.pop(call_id, None) is not None:
            self.counts["tool_outputs"] += 1
            self._results.append(output)

    # ------------------------------------------------------------------------------------------ answers

    def _answer(self, answer: Coroutine[Any, Any, None]) -> None:
        self._interrupt()
        self._performer.attend("thinking")
        self._answering = self._tasks.create_task(answer, name="avatar-answer")

    def _interrupt(self) -> None:
        if self._answering is not None:
            self._answering.cancel()
        self._performer.stop_speaking()
        self._performer.attend("idle")

    async def _repeat(self, words: str, pcm16: bytes) -> None:
        await self._sleep(THOUGHT_S)
        await self._say(words, pcm16)

    async def _reply(self, text: str) -> None:
        tool = name_tool(text, self._tools)
        if tool is not None:
            self._said.append(text)
            await self._call(tool, text)
        elif re.search(r"\bwhat did i say\b", text, re.IGNORECASE):
            await self._say(f"You said: {self._said[-1]}" if self._said else "You have not said anything yet.")
        else:
            self._said.append(text)
            await self._say(text)

    async def _respond(self) -> None:
        if self._results:
            words = " ".join(self._results)
            self._results.clear()
        elif self._unanswered:
            text, self._unanswered = self._unanswered, ""
            await self._reply(text)
            return
        elif self._calls:
            words = f"I am still waiting for {', '.join(self._calls.values())}."
        else:
            words = f"Hello, I am {self._name}."
        await self._say(words)

    async def _call(self, name: str, text: str) -> None:
        """Call a tool; the answer waits, thinking, for its output and the request to go on."""
        call_id = f"call_{secrets.token_hex(8)}"
        self._calls[call_id] = name
        if len(self._calls) > MAX_CALLS:
            del self._calls[next(iter(self._calls))]
        self.counts["tool_calls"] += 1
        arguments = json.dumps(fill_arguments(self._tools[name], text), ensure_ascii=False)
        for start in range(0, len(arguments), _DELTA_CHARACTERS):
            await self._send(navtalk.FunctionCallDelta(call_id, arguments[start : start + _DELTA_CHARACTERS]))
        await self._send(navtalk.FunctionCall(call_id, name, arguments))

    async def _say(self, words: str, pcm16: bytes = b"") -> None:
        """Say words, whose sound there may be already, and what is seen on a picture that has not been spoken of."""
        words = words.strip()
        sound = pcm16 or (await speak_text(words) if words else b"")
        picture, self._picture = self._picture, ""
        if picture:
            try:
                seen = await asyncio.to_thread(describe_picture, picture)
            except ValueError as error:
                await self._send(navtalk.Failed(str(error)))
            else:
                words, sound = f"{words} {seen}".strip(), sound + await speak_text(seen)
        self._performer.attend("idle")
        if not words:
            return
        self._performer.speak(sound)
        self.counts["answers"] += 1
        response_id = f"response-{self.counts['answers']}"
        for word in re.findall(r"\s*\S+", words):
            await self._send(navtalk.AvatarTranscriptDelta(word, response_id))
        await self._send(navtalk.AvatarTranscript(words, response_id))
        for start in range(0, len(sound), 2 * navtalk.BUFFERED_SAMPLES):
            await self._send(navtalk.AvatarAudio(sound[start : start + 2 * navtalk.BUFFERED_SAMPLES]))
        await self._send(navtalk.AvatarAudioDone())
