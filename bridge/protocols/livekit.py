"""LiveKit's signalling, version 0 (two peer connections): addresses, frames, candidates, and why a server says goodbye.

Frames are protobufs of LiveKit's own package, one `SignalRequest` or `SignalResponse` each, and both ends of the bridge
use those as they are. Source: livekit/protocol, livekit_rtc.proto; livekit/livekit, pkg/service/rtcservice.go.
"""

import json
from typing import TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from google.protobuf.message import DecodeError, Message
from livekit.protocol import models, rtc

from bridge.errors import RemoteProtocolError

# From 4 on senders of tracks that have ended are used again, from 8 on what is published already stands in the first
# offer, from 13 on a goodbye says what to do; 17 would put trailers behind RTP payloads (pkg/rtc/types).
PROTOCOL_VERSION = 15
JOIN_PATH = "/rtc"
# What a server that says nothing of it does (pkg/rtc/room.go): asked every 5 s, and given up after 15 s.
PING_INTERVAL_S, PING_TIMEOUT_S = 5, 15

MessageT = TypeVar("MessageT", bound=Message)
Reason = models.DisconnectReason
Action = rtc.LeaveRequest.Action


def join_url(url: str) -> str:
    """The WebSocket's address of a server that is given as ws, wss, http or https. The token goes in a header.

    Nothing is subscribed to by itself: whoever joins chooses one participant's tracks. Pictures are never paused for
    want of bandwidth, and not before sizes are reported.
    """
    parts = urlsplit(url)
    scheme = {"https": "wss", "http": "ws"}.get(parts.scheme, parts.scheme)
    ours = {
        "auto_subscribe": "0",
        "adaptive_stream": "0",
        "subscriber_allow_pause": "0",
        "protocol": str(PROTOCOL_VERSION),
        "sdk": "python",
    }
    theirs = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in ours]
    path = parts.path.rstrip("/") + JOIN_PATH
    return urlunsplit((scheme, parts.netloc, path, urlencode([*theirs, *ours.items()]), ""))


def parse(kind: type[MessageT], frame: str | bytes) -> MessageT:
    """Read one binary frame. Raises RemoteProtocolError for what is none; unknown messages come out empty."""
    if isinstance(frame, str):
        raise RemoteProtocolError("a text frame, where LiveKit's signalling is binary", reason="protocol")
    try:
        return kind.FromString(frame)
    except DecodeError:
        raise RemoteProtocolError(f"{len(frame)} bytes that are no {kind.__name__}", reason="protocol") from None


def answer_to(offer: rtc.SessionDescription, sdp: str) -> rtc.SignalRequest:
    """Offers may overtake answers, so an answer says which one it is to."""
    return rtc.SignalRequest(answer=rtc.SessionDescription(type="answer", sdp=sdp, id=offer.id))


def trickle(candidate: str, mid: str, index: int, target: rtc.SignalTarget) -> rtc.TrickleRequest:
    """One ICE candidate, as W3C's RTCIceCandidateInit in JSON."""
    init = json.dumps({"candidate": candidate, "sdpMid": mid, "sdpMLineIndex": index})
    return rtc.TrickleRequest(candidateInit=init, target=target)


def read_candidate(message: rtc.TrickleRequest) -> tuple[str, str | None, int | None]:
    """Candidate, mid and index of its section; an empty candidate marks their end. Raises RemoteProtocolError."""
    try:
        init = json.loads(message.candidateInit or "{}")
    except (ValueError, RecursionError):
        init = None
    if not isinstance(init, dict):
        raise RemoteProtocolError("an ICE candidate that is no JSON object", reason="protocol")
    candidate, mid, index = init.get("candidate") or "", init.get("sdpMid"), init.get("sdpMLineIndex")
    if not (isinstance(candidate, str) and isinstance(mid, str | None) and isinstance(index, int | None)):
        raise RemoteProtocolError("an ICE candidate with values of a wrong kind", reason="protocol")
    return candidate, mid, index


def pings(now_ms: int, round_trip_ms: int) -> list[rtc.SignalRequest]:
    """Both kinds of ping: servers of different ages answer one of them."""
    return [
        rtc.SignalRequest(ping=now_ms),
        rtc.SignalRequest(ping_req=rtc.Ping(timestamp=now_ms, rtt=round_trip_ms)),
    ]


def ping_times(join: rtc.JoinResponse) -> tuple[int, int]:
    """How often the server wants to be asked, and after how long of silence it is given up, in seconds."""
    interval_s = join.ping_interval if join.ping_interval > 0 else PING_INTERVAL_S
    timeout_s = join.ping_timeout if join.ping_timeout > 0 else PING_TIMEOUT_S
    return interval_s, timeout_s


def farewell() -> rtc.SignalRequest:
    """What a client says that leaves for good."""
    return rtc.SignalRequest(leave=rtc.LeaveRequest(reason=Reason.CLIENT_INITIATED, action=Action.DISCONNECT))


def reason_name(reason: int) -> str:
    """A goodbye's reason in lower case, such as `room_deleted`; numbers of newer servers stay numbers."""
    return Reason.Name(reason).lower() if reason in Reason.values() else str(reason)


def may_return(leave: rtc.LeaveRequest) -> bool:
    """Whether another connection makes sense: the server says so, or ends for a reason that passes."""
    return leave.can_reconnect or leave.action != Action.DISCONNECT or leave.reason not in _FINAL


# Somebody decides about these: our identity is used twice, or we were shown the door.
_FINAL = {Reason.DUPLICATE_IDENTITY, Reason.PARTICIPANT_REMOVED}
