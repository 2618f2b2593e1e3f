"""Secrets: one type that is used and never shown, one function that makes a URL fit for a log, one mask for text.

Three lines of defence, each enough on its own where it applies: values are `Secret` and show a mask; URLs go through
`redact_url`; and every log line goes through `mask`, which knows the value of each `Secret` made
and finds URLs in text.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, Self
from urllib.parse import quote, quote_plus, unquote

MASK = "***"

# Query parameters that are no secret and help to tell URLs apart; everything else in a query is masked.
HARMLESS_QUERY = frozenset(
    {"name", "avatarId", "model", "audioBack", "rate", "channels", "format", "live", "mode", "latency", "pbkeylen"}
)
# Schemes whose last path segment is the credential: RTMP stream keys, WHIP and WHEP resource URLs.
_KEY_IN_PATH = frozenset({"rtmp", "rtmps"})
_WHOLE_PATH_SECRET = frozenset({"whip+http", "whip+https", "whep+http", "whep+https"})

# Below this a value is no secret worth the name, and masking it would eat innocent text ("live", "8080").
_SHORTEST_MASKED = 6
# A service hands out a few with each session, in up to three forms each; they are of no use long before 80 sessions
# have gone by.
_MOST_PASSING = 256

_AUTHORITY = re.compile(r"(\*\*\*@)?(\[[0-9a-fA-F:.%\w]+\]|[\w.*-]*)(:\d*)?")
# A colon at its end belongs to the sentence.
_URL_IN_TEXT = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"<>]*[^\s'\"<>:]")


class Secret:
    """A value that is used, never shown: `reveal()` gives it; `repr`, `str` and serialization give `shown`.

    `shown` is a mask, or what tells secrets apart without being one: a redacted URL, the path the value was read from.
    `is_passing` says that a service made it for one session: `mask` may forget it, once there are hundreds newer.

    hosts  who alone may receive it, as `net.url_policy.parse_target` spells hosts; None: whoever it is configured for.
    """

    __slots__ = ("_shown", "_value", "hosts")

    hosts: frozenset[str] | None

    def __init__(self, value: str, shown: str = MASK, *, is_passing: bool = False) -> None:
        self._value = value
        self._shown = shown
        self.hosts = None
        remember(value, is_passing=is_passing)

    @classmethod
    def url(cls, url: str) -> Self:
        """A URL that shows itself redacted; the parts that are masked are remembered for `mask`."""
        redacted, hidden = _split_url(url)
        for part in hidden:
            for piece in (part, *part.split("/")):
                remember(piece)
        # Not through __init__: the whole URL is no secret, and hiding it would hide the host too.
        secret = cls.__new__(cls)
        secret._value, secret._shown, secret.hosts = url, redacted, None
        return secret

    def only_for(self, hosts: Iterable[str]) -> Self:
        """The same secret, which is for these hosts alone."""
        secret = type(self).__new__(type(self))
        secret._value, secret._shown, secret.hosts = self._value, self._shown, frozenset(hosts)
        return secret

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return self._shown

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(self._shown, spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is not pickled: pass it to another process by file or pipe")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.is_instance_schema(cls, serialization=core_schema.to_string_ser_schema())

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, str]:
        return {"type": "string"}


def redact_url(url: str) -> str:
    """Mask what grants access in a URL: user info, unknown query values, an RTMP key, a WHIP path, the fragment."""
    return _split_url(url)[0]


def remember(value: str, *, is_passing: bool = False) -> None:
    """Let `mask` hide this value, as it is and as it stands in a URL, in JSON and in Python's quotes.

    For good, or while it is among the newest.
    """
    global _pattern
    if len(value) < _SHORTEST_MASKED or value == MASK:
        return
    for form in _forms(value) - _kept:
        if form not in _passing:
            _pattern = None
        if is_passing:
            _passing[form] = None
            _passing.move_to_end(form)
        else:
            _passing.pop(form, None)
            _kept.add(form)
    while len(_passing) > _MOST_PASSING:
        _passing.popitem(last=False)


def _forms(value: str) -> set[str]:
    in_urls = {quote(value, safe=""), quote(value), quote_plus(value)}
    in_quotes = {json.dumps(value), json.dumps(value, ensure_ascii=False), repr(value)}
    return {value} | in_urls | {form[1:-1] for form in in_quotes}


def mask(text: str) -> str:
    """Hide every remembered secret in `text`, and redact every URL in it."""
    text = hide(text)
    if "://" in text:
        text = _URL_IN_TEXT.sub(lambda match: redact_url(match[0]), text)
    return text


def hide(text: str) -> str:
    """Hide every remembered secret in `text`; URLs that hold none stay whole, for whoever is to use them."""
    global _pattern
    if _kept or _passing:
        if _pattern is None:
            # The longest first: a secret may begin with another one.
            known = sorted((*_kept, *_passing), key=len, reverse=True)
            _pattern = re.compile("|".join(re.escape(form) for form in known))
        text = _pattern.sub(MASK, text)
    return text


_kept: set[str] = set()  # what the operator configured
_passing: OrderedDict[str, None] = OrderedDict()  # the oldest first
_pattern: re.Pattern[str] | None = None


def _split_url(url: str) -> tuple[str, list[str]]:
    """The redacted URL, and what was taken out of it."""
    scheme, separator, rest = url.partition(":")
    if not separator or not re.fullmatch(r"[a-zA-Z][a-zA-Z0-9+.-]*", scheme):
        return url, []
    hidden: list[str] = []

    def hide(value: str) -> str:
        if not value or value == MASK:
            return value
        hidden.extend({value, unquote(value)})
        return MASK

    scheme = scheme.lower()
    rest, hash_sign, fragment = rest.partition("#")
    rest, question_mark, query = rest.partition("?")
    shown_fields = []
    for field in query.split("&") if query else ():
        name, equals, value = field.partition("=")
        # A field without a name to judge by is a token itself.
        shown_fields.append(f"{name}={value if name in HARMLESS_QUERY else hide(value)}" if equals else hide(field))
    if rest.startswith("//"):
        authority, slash, path = rest[2:].partition("/")
        if "@" in authority:
            user_info, _, host = authority.rpartition("@")
            for part in user_info.split(":"):
                hide(part)
            authority = f"{MASK}@{host}"
        if not _AUTHORITY.fullmatch(authority):
            # A password with a bare slash, or no URL at all: where the secret ends is anybody's guess.
            return f"{scheme}://{hide(rest[2:])}", [*hidden, query, fragment]
        rest = f"//{authority}{slash}{_hide_in_path(scheme, path, hide)}"
    shown = f"{scheme}:{rest}{question_mark}{'&'.join(shown_fields)}"
    return shown + (hash_sign and hash_sign + hide(fragment)), hidden


def _hide_in_path(scheme: str, path: str, hide: Callable[[str], str]) -> str:
    if scheme in _WHOLE_PATH_SECRET:
        return hide(path) if path.strip("/") else path
    if scheme in _KEY_IN_PATH:
        # rtmp://host/app names only an application; all that follows is the key, slashes and @ in it too.
        app, slash, key = path.partition("/")
        return app + slash + (hide(key) if key.strip("/") else key)
    return path
