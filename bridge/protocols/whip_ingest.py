"""WHIP (RFC 9725) as a server that takes sound sees it, without I/O: offers, and fragments that trickle candidates.

What a publisher sends is hostile: each function gives a value or raises `Refused`, which never repeats what was sent
but the names of codecs.
"""

import re
from dataclasses import dataclass

from bridge.errors import RemoteProtocolError

# What descriptions call the codecs that are taken, in lower case.
CODECS = ("opus", "pcmu", "pcma")
_DIRECTION = re.compile(r"^a=(sendrecv|sendonly|recvonly|inactive)\s*$", re.MULTILINE)
_RTPMAP = re.compile(r"^a=rtpmap:\d+ ([\w.-]+)/", re.MULTILINE)
_MAX_SHOWN = 8


class Refused(RemoteProtocolError):
    """status  of the HTTP answer. 400: malformed. 406: other codecs, or another number of tracks, than are taken. 422:
    well-formed, and of no use."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message, reason="offer")
        self.status = status


def check_offer(sdp: str) -> None:
    """See that an offer is one to send one track of sound in a codec that is taken. Raises Refused.

    Pictures beside it are declined in the answer: RFC 9725 §4.4.3 would rather have the whole offer refused, but many
    publishers cannot leave them out.
    """
    text = sdp.replace("\r\n", "\n")
    head, *sections = re.split(r"^(?=m=)", text, flags=re.MULTILINE)
    if not head.startswith("v=0\n") or not sections or "\0" in text:
        raise Refused(400, "the offer is no session description")
    kinds = [section[2:].split(" ", 1)[0] for section in sections]
    sounds = [section for section in sections if re.match(r"m=audio [1-9]\d*[ /]", section)]
    # RFC 9143 §6: port 0 of a section that is bundled only is no rejection.
    sounds += [s for s in sections if re.match(r"m=audio 0[ /]", s) and "\na=bundle-only" in s]
    if not sounds:
        there_is = "video only" if "video" in kinds else "none"
        raise Refused(422, f"the offer has no sound ({there_is}), and this input takes nothing else")
    if len(sounds) > 1:
        raise Refused(406, f"the offer has {len(sounds)} tracks of sound, and this input takes one")
    (sound,) = sounds
    direction = _DIRECTION.search(sound) or _DIRECTION.search(head)
    if direction and direction[1] in ("recvonly", "inactive"):
        raise Refused(422, f"the offer sends no sound: its section is {direction[1]}")
    offered = _codecs(sound)
    if not set(offered).intersection(CODECS):
        shown = ", ".join(offered[:_MAX_SHOWN])[:80] or "none"
        raise Refused(406, f"the offer has none of the codecs Opus, PCMU and PCMA (it has {shown})")


def _codecs(section: str) -> list[str]:
    """Codec names of a section, in lower case, in its order."""
    return list(dict.fromkeys(name.lower() for name in _RTPMAP.findall(section)))


@dataclass(frozen=True, slots=True)
class Fragment:
    """What a PATCH brings (RFC 8840 §9).

    users       ICE user names that it is about; none: it does not say.
    candidates  candidate attributes, each with the mid of its section, None before the first.
    """

    users: frozenset[str]
    candidates: tuple[tuple[str, str | None], ...]


def read_fragment(body: str) -> Fragment:
    """Raises Refused."""
    users: set[str] = set()
    candidates: list[tuple[str, str | None]] = []
    mid: str | None = None
    for line in body.splitlines():
        name, _, value = line.partition(":")
        match name:
            case "":
                continue
            case "a=ice-ufrag":
                users.add(value.strip())
            case "a=mid":
                mid = value.strip()
            case "a=candidate":
                candidates.append((f"candidate:{value.strip()}", mid))
            case _ if not re.match(r"[a-z]=", line):
                raise Refused(400, "the body is no fragment of a session description")
            case _ if line.startswith("m="):
                mid = None
    return Fragment(frozenset(users), tuple(candidates))


def ice_users(sdp: str) -> frozenset[str]:
    """ICE user names of a description."""
    return frozenset(user.strip() for user in re.findall(r"^a=ice-ufrag:(.*)", sdp, re.MULTILINE))
