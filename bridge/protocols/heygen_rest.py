"""How sessions with HeyGen's avatars are begun and ended over HTTP: bodies, answers, refusals.

`heygen` is api.heygen.com, /v1/streaming.*; `liveavatar` its successor, api.liveavatar.com, /v1/sessions/*. Source:
docs.heygen.com, "New Session", "Create Session Token", "Keep Alive"; docs.liveavatar.com, "Start Session", "Keep
Session Alive"; for what they leave open HeyGen-Official/StreamingAvatarSDK, pipecat-ai/pipecat (services/heygen) and
livekit/agents (plugins/liveavatar).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bridge.errors import RemoteProtocolError
from bridge.protocols.navtalk_fields import Body, object_fields

Quality = Literal["low", "medium", "high", "very_high"]  # the last one is LiveAvatar's alone

NEW, START, STOP = "/v1/streaming.new", "/v1/streaming.start", "/v1/streaming.stop"
KEEP_ALIVE, INTERRUPT = "/v1/streaming.keep_alive", "/v1/streaming.interrupt"
LIVE_TOKEN, LIVE_START, LIVE_STOP = "/v1/sessions/token", "/v1/sessions/start", "/v1/sessions/stop"
LIVE_KEEP_ALIVE = "/v1/sessions/keep-alive"
KEY_HEADER = "X-Api-Key"
# A month: what is longer is no limit.
_LONGEST_S = 31 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class OwnRoom:
    """A LiveKit room of the operator's, as the service is told of it: where, which, and what opens it to the avatar."""

    url: str
    room: str
    token: str


def new_body(avatar_id: str, quality: Quality, extra: Mapping[str, Any]) -> dict[str, Any]:
    """HeyGen's request for a session: version 2 is a LiveKit room; the default coding of pictures would be VP8."""
    ours = {"avatar_id": avatar_id, "quality": quality, "version": "v2", "video_encoding": "H264"}
    return ours | dict(extra)


def token_body(
    avatar_id: str, quality: Quality, extra: Mapping[str, Any], *, is_sandbox: bool, room: OwnRoom | None
) -> dict[str, Any]:
    """LiveAvatar's request for a session's token. LITE: the speech is ours."""
    ours: dict[str, Any] = {
        "mode": "LITE",
        "avatar_id": avatar_id,
        "is_sandbox": is_sandbox,
        "video_settings": {"encoding": "H264", "quality": quality},
    }
    if room is not None:
        ours["livekit_config"] = {
            "livekit_url": room.url,
            "livekit_room": room.room,
            "livekit_client_token": room.token,
        }
    return ours | dict(extra)


@dataclass(frozen=True, slots=True)
class Opened:
    """What a service says of a session; what it does not say is empty.

    room_url, room_token  of the LiveKit room, for who watches.  socket_url: of the WebSocket, to be used as it is.
    token                 opens the session to further requests.  limit_s: how long it may last; 0: it is not said.
    avatar                its identity in a room of the operator's; nothing that the service says.
    """

    session_id: str
    room_url: str = ""
    room_token: str = ""
    socket_url: str = ""
    token: str = ""
    limit_s: float = 0.0
    avatar: str = ""


def parse_opened(text: str) -> Opened:
    """Read the answer to a request for a session, or for its token, of either service. Raises RemoteProtocolError."""
    body = Body("the answer", object_fields(text) or {})
    session_id = body.text("session_id")
    if not session_id:
        raise RemoteProtocolError("the answer holds no session_id")
    return Opened(
        session_id,
        room_url=body.text("livekit_url", "url"),
        room_token=body.text("livekit_client_token", "access_token"),
        # An older page spells it without its p.
        socket_url=body.text("ws_url", "realtime_endpoint", "realtime_endoint"),
        token=body.text("session_token"),
        limit_s=body.find(_seconds, "max_session_duration", "session_duration_limit") or 0.0,
    )


def _seconds(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value <= _LONGEST_S else None
