"""What the avatar and those who speak to it say to each other, as far as the service tells."""

import time

import structlog

from bridge.answer import Answer
from bridge.config import AvatarConfig
from bridge.feed import Feed
from bridge.history import History
from bridge.hush import Hush
from bridge.media.access_unit import AccessUnit
from bridge.ops.metrics import SessionMetrics
from bridge.ports import AvatarEvent, AvatarLink, ToolCall
from bridge.tool_calls import ToolCalls
from bridge.uplink import Uplink

log = structlog.get_logger()


class Dialogue:
    """Follows the events of the avatar that is on air: answers, history, tool calls, interruptions."""

    def __init__(self, config: AvatarConfig, uplink: Uplink, metrics: SessionMetrics) -> None:
        self.history = History(config.history_file)
        self.answer = Answer()
        self._hush = Hush(lambda after_s: self._on_silence(metrics, after_s))
        self._is_conversation = config.role == "conversation"
        self._uplink = uplink
        self.tool_calls = ToolCalls(
            {tool.name: tool.default for tool in config.tools if tool.default is not None},
            config.tool_default,
            config.tool_deadline_s,
            on_result=lambda result: metrics.tool_calls_total(result=result).inc(),
        )

    def on_event(self, event: AvatarEvent) -> None:
        match event.kind:
            case "speech_started" if self._is_conversation:
                # What waits to be sent is the speech that was heard; what it interrupts is the answer.
                self.answer.cut()
            case "speech_started":
                self.interrupt()
            case "speech_stopped" if self._is_conversation:
                self.answer.expect()
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
        if self._is_conversation and feed.barges_in and not self.answer.is_over(time.monotonic_ns()):
            log.info("avatar_interrupted", input=feed.name, voice_s=feed.strip.voice.ONSET_S)
            self.interrupt(feed)

    def interrupt(self, speaker: Feed | None = None) -> None:
        """The avatar is to stop speaking: what waits to be said is dropped, but the speaker's own words, and the
        service told.
        """
        self._uplink.interrupt(speaker)
        self.answer.cut()
        self._hush.begin(time.monotonic_ns())

    def on_sound(self, unit: AccessUnit) -> None:
        """The avatar's sound has arrived."""
        self._hush.on_sound(unit)

    def on_tool_call(self, call: ToolCall, link: AvatarLink) -> None:
        self.tool_calls.ask(call, link)

    async def avatar_left(self) -> None:
        """Whatever was asked or begun has nobody to go on with."""
        self.answer.cut()
        await self.tool_calls.cancel()

    def _on_silence(self, metrics: SessionMetrics, after_s: float) -> None:
        log.info("avatar_silenced", after_s=round(after_s, 3))
        metrics.interrupt_to_silence_seconds().observe(after_s)
