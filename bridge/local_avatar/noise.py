"""Frames that mean nothing, or not what they say: a client is to pass over them."""

import itertools
import json
from collections.abc import Mapping

from bridge.local_avatar.faults import Faults
from bridge.protocols import navtalk

Frame = str | bytes

_FRAMES: Mapping[str, tuple[Frame, ...]] = {
    "bad-json": (
        "[object Object]",
        "",
        '{"type": "realtime.session.upd',
        "null",
        '["type"]',
        '{"type": 7}',
        "{" * 2000,
    ),
    "unknown-events": (
        '{"type": "realtime.rate_limits.updated", "data": {"rate_limits": []}}',
        '{"type": "unknow"}',
        '{"type": "webrtc.signaling.bye", "data": {"sdp": null}}',
        '{"type": ""}',
    ),
    "binary-frames": (b"", bytes(1920), b'{"type": "conversation.connected.close"}', b"\xff\xfe\x00"),
    # No event here may be taken for a step of the hand-shake, nor for an end.
    "malformed-events": tuple(
        json.dumps({"type": type_name, "data": data})
        for type_name, data in (
            (navtalk.Offer.TYPE, {}),
            (navtalk.AvatarAudio.TYPE, {"delta": "not base64!"}),
            (navtalk.Candidate.TYPE, {"candidate": 7}),
            (navtalk.UserTranscript.TYPE, {"content": {"text": 1}}),
            (navtalk.FunctionCall.TYPE, None),
            (navtalk.Offer.TYPE, {"sdp": {"type": "offer", "sdp": 1}}),
            (navtalk.AvatarTranscriptDelta.TYPE, []),
        )
    ),
}


class Noise:
    """The frames that the faults of a session ask for, kind beside kind, each in turn and for ever."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._kinds = {name: itertools.cycle(frames) for name, frames in _FRAMES.items() if name in faults}

    @property
    def is_silent(self) -> bool:
        return not self._kinds

    def next_frames(self) -> list[Frame]:
        """One of each kind."""
        return [next(kind) for name, kind in self._kinds.items() if self._faults.strikes(name)]
