"""Access tokens of LiveKit: JWTs that are signed with an API secret, and say who may do what in which room.

Source: livekit/protocol, auth/grants.go and auth/accesstoken.go.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt

_ALGORITHM = "HS256"
# Clocks of servers differ; LiveKit's own library allows for a minute.
LEEWAY_S = 60


class BadToken(ValueError):
    """A token that opens nothing; the message says why, and holds nothing of it."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token says.

    kind        what the participant is: standard, agent, ingress, …
    may_publish media; data may be sent by every token of ours.
    expires_s   Unix time; 0: never.
    """

    identity: str
    room: str
    kind: str = "standard"
    may_publish: bool = True
    attributes: Mapping[str, str] = field(default_factory=dict)
    expires_s: int = 0


def mint(grant: Grant, api_key: str, api_secret: str, now_s: float) -> str:
    """A token that holds until `grant.expires_s`."""
    claims: dict[str, Any] = {
        "iss": api_key,
        "sub": grant.identity,
        "nbf": int(now_s) - LEEWAY_S,
        "exp": grant.expires_s,
        "kind": grant.kind,
        "attributes": dict(grant.attributes),
        "video": {
            "roomJoin": True,
            "room": grant.room,
            "canPublish": grant.may_publish,
            "canPublishData": True,
            "canSubscribe": True,
        },
    }
    return jwt.encode(claims, api_secret, _ALGORITHM)


def read(token: str) -> Grant:
    """What a token says, whoever signed it. Raises BadToken."""
    try:
        return _grant(jwt.decode(token, options={"verify_signature": False}))
    except jwt.InvalidTokenError:
        raise BadToken("it is no JWT") from None


def verify(token: str, api_key: str, api_secret: str, now_s: float) -> Grant:
    """What a token says that was signed with this secret. Raises BadToken."""
    try:
        # Times are judged below, by the time that was given.
        claims = jwt.decode(
            token, api_secret, [_ALGORITHM], options={"verify_exp": False, "verify_nbf": False, "verify_iat": False}
        )
    except jwt.InvalidSignatureError:
        raise BadToken("it was signed with another secret") from None
    except jwt.InvalidTokenError:
        raise BadToken("it is no JWT") from None
    if claims.get("iss") != api_key:
        raise BadToken("it was issued for another API key")
    grant = _grant(claims)
    if grant.expires_s and grant.expires_s <= now_s:
        raise BadToken("it has expired")
    if not claims.get("video", {}).get("roomJoin"):
        raise BadToken("it does not allow to join a room")
    return grant


def _grant(claims: Mapping[str, Any]) -> Grant:
    video, expires_s = claims.get("video", {}), claims.get("exp", 0)
    attributes = claims.get("attributes") or {}
    # Python reads Infinity, NaN and integers of any size out of JSON, which no server's int64 holds.
    is_time = isinstance(expires_s, int | float) and 0 <= expires_s < 2**63
    if not isinstance(video, dict) or not is_time or not isinstance(attributes, dict):
        raise BadToken("its claims are of a wrong kind")
    return Grant(
        str(claims.get("sub", "")),
        str(video.get("room", "")),
        str(claims.get("kind") or "standard"),
        video.get("canPublish") is not False,
        {str(name): str(value) for name, value in attributes.items()},
        int(expires_s),
    )
