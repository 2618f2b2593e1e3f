"""Secrets: one type whose text is masked, and one function that makes a URL fit for a log."""

import re
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

MASK = "***"
# Query parameters that are no secret and help to tell URLs apart; everything else in a query is masked.
_HARMLESS_QUERY = frozenset({"name", "avatarId", "model", "audioBack", "rate", "channels", "format"})
# Schemes whose last path segment is the credential: RTMP stream keys, WHIP and WHEP resource URLs.
_SECRET_PATH_SCHEMES = frozenset({"rtmp", "rtmps", "whip+http", "whip+https", "whep+http", "whep+https"})


class Secret:
    """A value that is used, never shown: `repr` and `str` are masked, `reveal()` gives it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)


def redact_url(url: str) -> str:
    """Mask what grants access in a URL: user info, unknown query values, an RTMP key, a WHIP path."""
    # User info ends at the last @ before the path: a key pasted there may itself hold an @.
    match = re.match(r"([a-zA-Z][\w+.-]*)://(.*)", url, re.DOTALL)
    if not match:
        return url
    scheme = match[1].lower()
    authority, slash, rest = match[2].partition("/")
    if "@" in authority:
        authority = MASK + "@" + authority.rpartition("@")[2]
    parts = urlsplit(f"{scheme}://{authority}{slash}{rest}")
    path = parts.path
    if scheme in _SECRET_PATH_SCHEMES:
        head, _, last = path.rstrip("/").rpartition("/")
        # rtmp://host/app names only an application; the key is what follows it.
        if last and (scheme.startswith("whip") or scheme.startswith("whep") or head.strip("/")):
            path = f"{head}/{MASK}"
    query = urlencode(
        [(k, v if k in _HARMLESS_QUERY else MASK) for k, v in parse_qsl(parts.query, keep_blank_values=True)],
        quote_via=quote,
        safe="*",
    )
    return urlunsplit((parts.scheme, parts.netloc, path, query, MASK if parts.fragment else ""))
