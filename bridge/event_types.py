"""What a session tells of to whoever follows it."""

from typing import Literal

# state, on_air, output: changes of what the status shows. speech_started, speech_stopped: what the service heard.
# input_speech: somebody begins to speak at an input. lost: so many events are gone that a follower has not seen.
EventType = Literal[
    "state",
    "on_air",
    "output",
    "input_speech",
    "speech_started",
    "speech_stopped",
    "user_transcript",
    "response_started",
    "avatar_transcript_delta",
    "avatar_transcript",
    "response_done",
    "interrupted",
    "tool_call",
    "tool_result",
    "warning",
    "ended",
    "lost",
]
