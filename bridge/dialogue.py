"""What the avatar and those who speak to it say to each other, as far as the service tells."""

import json
import time
from collections.abc import Awaitable, Callable

import structlog

from bridge.answer import Answer
from bridge.captions import Captions
from bridge.config import AvatarConfig
from bridge.desk import Desk
from bridge.events import EventLog
from bridge.feed import Feed
from bridge.history import History
from bridge.hush import Hush
from bridge.media.access_unit import AccessUnit
from bridge.media.clock import NS_PER_S
from bridge.net.url_policy import UrlPolicy
from bridge.ops.metrics import SessionMetrics
from bridge.ops.webhooks import Webhook
from bridge.ports import AvatarEvent, AvatarLink, ToolCall
from bridge.redact import hide, mask
from bridge.reply import Reply
from bridge.tool_calls import Result, ToolCalls
from bridge.transcript import Transcript
from bridge.uplink import Uplink

log = structlog.get_logger()


class Dialogue:
    """Follows the events of the avatar that is on air: answers, history, tool calls, interruptions."""

    def __init__(
        self,
        config: AvatarConfig,
        uplink: Uplink,
        metrics: SessionMetrics,
        events: EventLog,
        policy: UrlPolicy | None = None,
        transcript: Transcript | None = None,
    ) -> None:
        """`policy`: judges where webhooks of tools lead; None: they came from the operator's file."""
        self._transcript = transcript or Transcript("", Desk(()), time.monotonic_ns())
        self._events = events
        self.history = History(config.history_file)
        self.answer = Answer()
        self.captions = Captions()
        self._hush = Hush(lambda after_s: self._on_silence(metrics, after_s))
        self._reply = Reply(lambda after_s: self._on_reply(metrics, after_s))
        self._is_conversation = config.role == "conversation"
        self._uplink = uplink
        self._webhooks = {tool.name: Webhook(tool.webhook, policy=policy) for tool in config.tools if tool.webhook}
        self.tool_calls = ToolCalls(
            {tool.name: tool.default for tool in config.tools if tool.default is not None},
            config.tool_default,
            config.tool_deadline_s,
            on_result=lambda call, result: self._on_tool_result(metrics, call, result),
            ask_elsewhere={name: _asking(webhook, config.tool_deadline_s) for name, webhook in self._webhooks.items()},
        )

    def on_event(self, event: AvatarEvent) -> None:
        self.captions.on_event(event)
        self._transcript.on_event(event)
        match event.kind:
            case "tool_call" | "unknown" | "malformed" | "other":
                pass  # a call comes by `on_tool_call`
            case kind:
                self._events.note(kind, text=mask(event.text))
        match event.kind:
            case "speech_started" if self._is_conversation:
                self._reply.cancel()
                # What waits to be sent is the speech that was heard; what it interrupts is the answer.
                if not self.answer.is_over(time.monotonic_ns()):
                    self._hush.begin(time.monotonic_ns())
                self._cut()
            case "speech_started":
                self.interrupt()
            case "speech_stopped" if self._is_conversation:
                self.answer.expect()
                if (silent_s := self._uplink.silent_s) is not None:
                    self._reply.begin(time.monotonic_ns() - round(silent_s * NS_PER_S))
            case "user_transcript":
                self.history.add("user", event.text)
            case "response_started":
                self.answer.start(time.monotonic_ns())
            case "avatar_transcript":
                self.answer.reads(event.text)
                self.history.add("assistant", event.text)
            case "response_done":
                self.answer.lasts(event.sound_s)
                self.answer.done()

    def on_speech(self, feed: Feed) -> None:
        """Somebody begins to speak at an input: who may, interrupts the answer."""
        self._events.note("input_speech", input=feed.name)
        if self._is_conversation and feed.barges_in and not self.answer.is_over(time.monotonic_ns()):
            log.info("avatar_interrupted", input=feed.name, voice_s=feed.strip.voice.ONSET_S)
            self.interrupt(feed)

    def interrupt(self, speaker: Feed | None = None) -> None:
        """The avatar is to stop speaking: what waits to be said is dropped, but the speaker's own words, and the
        service told.
        """
        self._events.note("interrupted", input=speaker.name if speaker else None)
        self._uplink.interrupt(speaker)
        self._cut()
        self._hush.begin(time.monotonic_ns())

    def on_sound(self, unit: AccessUnit) -> None:
        """The avatar's sound has arrived."""
        self._hush.on_sound(unit)
        self._reply.on_sound(unit)

    def on_tool_call(self, call: ToolCall, link: AvatarLink) -> None:
        self._events.note("tool_call", **_named(call), arguments=hide(call.arguments))
        self.tool_calls.ask(call, link)

    async def avatar_left(self) -> None:
        """Whatever was asked or begun has nobody to go on with."""
        self._reply.cancel()
        self._cut()
        await self.tool_calls.cancel()

    async def close(self) -> None:
        """Nothing is asked any more: connections to the webhooks of tools are closed."""
        await self.tool_calls.cancel()
        for webhook in self._webhooks.values():
            await webhook.close()

    def _cut(self) -> None:
        self.answer.cut()
        self.captions.cut()
        self._transcript.cut()

    def _on_tool_result(self, metrics: SessionMetrics, call: ToolCall, result: Result) -> None:
        self._events.note("tool_result", **_named(call), result=result)
        metrics.tool_calls_total(result=result).inc()

    def _on_reply(self, metrics: SessionMetrics, after_s: float) -> None:
        log.info("avatar_replied", after_s=round(after_s, 3))
        metrics.response_latency_seconds().observe(after_s)

    def _on_silence(self, metrics: SessionMetrics, after_s: float) -> None:
        log.info("avatar_silenced", after_s=round(after_s, 3))
        metrics.interrupt_to_silence_seconds().observe(after_s)


def _named(call: ToolCall) -> dict[str, str]:
    """As others are told of it: a service may repeat what it was told."""
    return {"call_id": hide(call.call_id), "name": hide(call.name)}


def _asking(webhook: Webhook, deadline_s: float) -> Callable[[ToolCall], Awaitable[str]]:
    """Asks a tool's webhook, as often as the deadline of calls allows; its whole answer is the tool's result."""

    async def ask(call: ToolCall) -> str:
        told = hide(call.arguments)
        try:
            arguments: object = json.loads(told)
        except ValueError:
            arguments = told  # models err
        message = {"type": "tool_call", **_named(call), "arguments": arguments}
        answer = await webhook.deliver(hide(call.call_id), message, deadline_s)
        return answer.decode(errors="replace")

    return ask
