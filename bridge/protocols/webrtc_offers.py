"""Offers of WebRTC clients to endpoints of ours (RFC 9725), and the fragments that trickle candidates, without I/O.

What a client sends is hostile: each function gives a value or raises `Refused`, which never repeats what was sent but
the names of codecs.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from bridge.errors import RemoteProtocolError

_DIRECTION = re.compile(r"^a=(sendrecv|sendonly|recvonly|inactive)\s*$", re.MULTILINE)
_RTPMAP = re.compile(r"^a=rtpmap:\d+ ([\w.-]+)/", re.MULTILINE)
_MAX_SHOWN = 8


class Refused(RemoteProtocolError):
    """status  of the HTTP answer. 400: malformed. 406: other codecs, or another number of tracks, than there are. 422:
    well-formed, and of no use."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message, reason="offer")
        self.status = status


@dataclass(frozen=True, slots=True)
class OfferedSection:
    """A section of an offer that is in use. codecs: names in lower case, each once, in its order."""

    kind: str
    direction: str
    text: str

    @property
    def codecs(self) -> list[str]:
        return list(dict.fromkeys(name.lower() for name in _RTPMAP.findall(self.text)))


def read_sections(sdp: str) -> list[OfferedSection]:
    """All sections but those that the offer itself rejects. Raises Refused for what is no session description."""
    text = sdp.replace("\r\n", "\n")
    head, *sections = re.split(r"^(?=m=)", text, flags=re.MULTILINE)
    if not head.startswith("v=0\n") or not sections or "\0" in text:
        raise Refused(400, "the offer is no session description")
    default = _direction(head) or "sendrecv"  # RFC 8866 §6.7
    # RFC 9143 §6: port 0 of a section that is bundled only is no rejection.
    in_use = [s for s in sections if re.match(r"m=\w+ [1-9]\d*[ /]", s) or "\na=bundle-only" in s]
    return [OfferedSection(s[2:].split(" ", 1)[0], _direction(s) or default, s) for s in in_use]


def _direction(text: str) -> str:
    found = _DIRECTION.search(text)
    return found[1] if found else ""


def shown(codecs: Iterable[str]) -> str:
    """Codec names for people."""
    return ", ".join(list(codecs)[:_MAX_SHOWN])[:80] or "none"


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
