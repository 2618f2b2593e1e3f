"""WHIP (RFC 9725) without I/O: what a publisher says to a server, and what it makes of the answers.

Headers come as pairs of name and value, names in any case. What a server sends is hostile: each function gives a value,
or raises the error that says who must act; no error repeats a URL or a credential.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from bridge.errors import ConfigError, OutputError, OutputLost, OutputRejected, RemoteProtocolError

SDP_TYPE = "application/sdp"
FRAGMENT_TYPE = "application/trickle-ice-sdpfrag"  # RFC 8840 §9
SCHEMES = ("whip+https", "whip+http")

# Descriptions of ten tracks with thirty codecs each stay below 32 KiB.
MAX_SDP_BYTES = 128 * 1024
MAX_REDIRECTS = 5
# A server is believed that it needs some minutes; more is a mistake, or a way to silence us.
LONGEST_RETRY_AFTER_S = 300.0
MAX_URL_CHARACTERS = 4096
# A service lists its TURN server under a few addresses and transports.
MAX_ICE_SERVERS = 16

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to publish.

    url            http(s) URL without user info.
    authorization  value of the header, which goes to the origin of `url` only; empty: none.
    """

    url: str = field(repr=False)
    authorization: str = field(repr=False)


def parse_url(url: str, token: str | None = None) -> Endpoint:
    """Read whip+http(s)://[USER:PASSWORD@]HOST[:PORT]/PATH. Raises ConfigError, which does not repeat it."""
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        raise ConfigError("must be whip+https://HOST/PATH or whip+http://HOST/PATH")
    try:
        parts = urlsplit(f"{scheme.removeprefix('whip+')}://{rest}")
        is_complete = bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ConfigError("has a malformed host or port") from None
    if not is_complete or not _is_plain(url):
        raise ConfigError("names no host, or holds blanks or other characters that do not belong into a URL")
    user_info, at, host = parts.netloc.rpartition("@")
    if at and token is not None:
        raise ConfigError("a token and a user name in the URL exclude each other")
    authorization = f"Bearer {token}" if token is not None else ""
    if at:
        user, _, password = user_info.partition(":")
        pair = f"{unquote(user)}:{unquote(password)}".encode()
        authorization = f"Basic {base64.b64encode(pair).decode()}"  # RFC 7617 §2
    if not (authorization.isascii() and authorization.isprintable()):
        raise ConfigError("the token holds characters that an HTTP header does not take")
    return Endpoint(urlunsplit((parts.scheme, host, parts.path or "/", parts.query, "")), authorization)


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of an http(s) URL (RFC 6454 §4)."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.scheme, (parts.hostname or "").lower(), port


# ---------------------------------------------------------------------------------------------- what a server answers


@dataclass(frozen=True, slots=True)
class LinkedServer:
    """A STUN or TURN server that a response links to (RFC 9725 §4.6)."""

    url: str
    username: str = ""
    credential: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Resource:
    """The session that a server has made for us.

    url          where to DELETE it, and to PATCH candidates to.
    etag         for If-Match of a PATCH; empty: the server takes none (RFC 9725 §4.3.1).
    ice_servers  that the server offers for this session.
    """

    url: str = field(repr=False)
    etag: str
    ice_servers: tuple[LinkedServer, ...]


def header(headers: Headers, name: str) -> str:
    """The first value of a header, without blanks around it; empty: there is none."""
    return next((value.strip() for key, value in headers if key.lower() == name), "")


def is_redirect(status: int) -> bool:
    return status in (301, 302, 303, 307, 308)


def redirected(url: str, status: int, headers: Headers) -> str:
    """Where the same request goes next. Raises OutputRejected, RemoteProtocolError.

    Only 307 and 308 keep method and body (RFC 9725 §4.5, RFC 9110 §15.4).
    """
    if status not in (307, 308):
        raise OutputRejected(
            f"the server redirects with {status}, which WHIP does not know: configure the URL that it redirects to"
        )
    return _resolved(url, header(headers, "location"), f"a redirect with {status}")


def resource(url: str, headers: Headers) -> Resource:
    """The session that a response to POST at `url`, the URL after redirects, has made. Raises RemoteProtocolError."""
    location = _resolved(url, header(headers, "location"), "the answer to the offer")
    etag = header(headers, "etag")
    # RFC 9725 §4.3.1 wants a strong one; RFC 9110 §8.8.3 says what it may hold.
    is_strong = re.fullmatch(r'"[\x21\x23-\x7e]*"', etag)
    return Resource(location, etag if is_strong else "", ice_servers(headers))


def _resolved(url: str, location: str, what: str) -> str:
    if not location:
        raise RemoteProtocolError(f"{what} has no Location")
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        is_complete = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_complete = False
    if not is_complete or not _is_plain(target) or len(target) > MAX_URL_CHARACTERS:
        raise RemoteProtocolError(f"{what} has a Location that is no URL for HTTP")
    if parts.scheme == "http" and urlsplit(url).scheme == "https":
        raise RemoteProtocolError(f"{what} leads from https to http")
    # User info in it would replace our credentials by the server's choice.
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))


def _is_plain(url: str) -> bool:
    return url.isprintable() and " " not in url


def check_created(status: int, headers: Headers) -> None:
    """Raises RemoteProtocolError unless a successful answer to the offer is 201 with a session description."""
    if status != 201:
        raise RemoteProtocolError(f"the server answers the offer with {status}, where WHIP wants 201")
    content_type = header(headers, "content-type").partition(";")[0].strip().lower()
    if content_type != SDP_TYPE:
        shown = content_type if re.fullmatch(r"[\w.+-]+/[\w.+-]+", content_type) else "none"
        raise RemoteProtocolError(f"the server answers the offer with content type {shown}, not {SDP_TYPE}")


# What each status of an answer to the offer means, where it is not just a passing failure: for people.
_REJECTED: Mapping[int, str] = {
    400: "the server finds the offer malformed",
    401: "the server wants another token",
    402: "the server wants to be paid",
    403: "the token is not allowed to publish here",
    405: "this URL takes no offers: it is no WHIP endpoint",
    406: "the server takes none of the codecs",
    411: "the server does not take the request",
    413: "the server finds the offer too large",
    415: "the server does not take application/sdp: it is no WHIP endpoint",
    422: "the server can do nothing with the offer",
    501: "the server takes no offers: it is no WHIP endpoint",
    505: "the server does not speak HTTP/1.1",
}
_LOST: Mapping[int, str] = {
    404: "there is nothing to publish to at this URL",
    408: "the server waited too long for the offer",
    409: "somebody publishes here already",
    410: "what was at this URL is gone",
    421: "the server does not serve this name",
    423: "somebody publishes here already",
    425: "the server wants the offer again",
    429: "the server finds us too frequent",
    503: "the server is full or under maintenance",
}
_AUTHORITY = frozenset({401, 403, 404})
# Refusals that pass, or say nothing about who else publishes.
_PASSING = frozenset({404, 408, 410, 421, 425, 429, 500, 502, 504})


def refusal(status: int, headers: Headers, words: str, offered: str, now_s: float, *, lost_token: bool) -> OutputError:
    """What a refused offer means: OutputRejected, where repeating it is useless, else OutputLost.

    words       what the server says about it, fit to be shown.  offered: what we offered, for people.
    now_s       Unix time.
    lost_token  a redirect led to another origin, which does not get our token.
    """
    meaning = _REJECTED.get(status) or _LOST.get(status) or "the server refuses the offer"
    message = f"HTTP {status}: {meaning}"
    if status in (400, 406, 415, 422):
        message += f"; offered were {offered}"
    if lost_token and status in _AUTHORITY:
        message += "; it redirected to another origin, which did not get the token: configure the URL it redirects to"
    if words:
        message += f": {words}"
    if status in _REJECTED or (400 <= status < 500 and status not in _LOST):
        return OutputRejected(message)
    return OutputLost(message, retry_after_s=retry_after_s(headers, now_s))


def means_no_room(status: int) -> bool:
    """Whether a refusal of a second session, like the first in all but its time, says that one is all there may be.

    Servers have no one way to say so: 409 and 423 mean it, 403 and 401 are what an authority makes of it, 503 of a full
    house, and more are seen.
    """
    return status not in _PASSING


def retry_after_s(headers: Headers, now_s: float) -> float:
    """How long a server asks to wait (RFC 9110 §10.2.3), 0 to `LONGEST_RETRY_AFTER_S`; 0 where it does not say."""
    value = header(headers, "retry-after")
    if re.fullmatch(r"[0-9]{1,9}", value):
        return min(float(value), LONGEST_RETRY_AFTER_S)
    try:
        until = parsedate_to_datetime(value)
        # By the server's own clock, where it shows it.
        shown = header(headers, "date")
        now = parsedate_to_datetime(shown).replace(tzinfo=UTC).timestamp() if shown else now_s
        return min(max(until.replace(tzinfo=UTC).timestamp() - now, 0.0), LONGEST_RETRY_AFTER_S)
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0


# Possessive throughout, so that text which almost fits takes no longer than text which does.
_LINK_TARGET = re.compile(r"[\s,]*+<([^<>]*+)>")
_LINK_PARAMETER = re.compile(r"""\s*+;\s*+([\w!#$%&'*+.^`|~-]++)(?:\s*+=\s*+("(?:[^"\\]|\\.)*+"|[^\s",;]*+))?""")


def ice_servers(headers: Headers) -> tuple[LinkedServer, ...]:
    """ICE servers of the Link headers (RFC 8288 §3, RFC 9725 §4.6); what is malformed or incomplete is left out."""
    found: list[LinkedServer] = []
    for key, value in headers:
        position = 0
        while key.lower() == "link" and (target := _LINK_TARGET.match(value, position)):
            parameters: dict[str, str] = {}
            position = target.end()
            while parameter := _LINK_PARAMETER.match(value, position):
                position = parameter.end()
                parameters.setdefault(parameter[1].lower(), _unquoted(parameter[2] or ""))
            server = LinkedServer(target[1].strip(), parameters.get("username", ""), parameters.get("credential", ""))
            if "ice-server" in parameters.get("rel", "").lower().split() and _is_usable(server, parameters):
                found.append(server)
    return tuple(found[:MAX_ICE_SERVERS])


def _is_usable(server: LinkedServer, parameters: Mapping[str, str]) -> bool:
    if not re.fullmatch(r"(?:stun|turn)s?:[^\s/]+", server.url):
        return False
    is_password = parameters.get("credential-type", "password") == "password"
    return is_password and (not server.url.startswith("turn") or bool(server.username and server.credential))


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text
