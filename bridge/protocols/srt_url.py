"""SRT addresses: `srt://HOST:PORT?mode=caller&latency=120&streamid=…&pbkeylen=16`, as SRT's own programs write them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from bridge.errors import ConfigError

# SRT's own default, which two round trips of 60 ms fit into; a receiver may want more.
DEFAULT_LATENCY_MS = 120
# What the sender keeps for it is forgotten: longer than this is no live broadcast.
LONGEST_LATENCY_MS = 10_000
# https://github.com/Haivision/srt/blob/master/docs/API/API-socket-options.md: SRTO_STREAMID, SRTO_PASSPHRASE.
LONGEST_STREAM_ID = 512
SHORTEST_PASSPHRASE, LONGEST_PASSPHRASE = 10, 79
MODES = ("caller", "listener")
KEY_BYTES = ("16", "24", "32")
_PARAMETERS = ("mode", "latency", "streamid", "passphrase", "pbkeylen")


@dataclass(frozen=True, slots=True, kw_only=True)
class SrtAddress:
    """Where to publish to, and how; what is secret of it shows nowhere.

    mode        caller: we connect to `host`.  listener: we wait there for one that connects.
    latency_ms  how long lost packets may be asked for; the larger one of both ends counts.
    secrets     what no URL should show, by FFmpeg's names: streamid, passphrase, pbkeylen.
    """

    host: str
    port: int
    mode: str
    latency_ms: int
    secrets: Mapping[str, str] = field(repr=False)

    def url(self, host: str) -> str:
        """Where it is, without what is secret; `host` may be an address of that host."""
        return f"srt://{f'[{host}]' if ':' in host else host}:{self.port}"


def is_listener(url: str) -> bool:
    """Whether a URL that can be parsed waits for a caller."""
    return ("mode", "listener") in parse_qsl(urlsplit(url).query)


def parse_url(url: str, passphrase: str | None = None) -> SrtAddress:
    """Raises ConfigError, which repeats no secret."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError("has a malformed host or port") from None
    if parts.fragment or url.endswith("#"):
        raise ConfigError("has a bare #; in a stream id write it as %23")
    if not host or not port or parts.path.strip("/") or parts.username is not None:
        raise ConfigError("must be srt://HOST:PORT, with parameters behind a ?")
    values: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _PARAMETERS:
            raise ConfigError(f"has a parameter that is none of {', '.join(_PARAMETERS)}")
        if name in values:
            raise ConfigError(f"has {name} twice")
        values[name] = value
    if passphrase is not None and "passphrase" in values:
        raise ConfigError("has a passphrase already; leave one of them out")
    mode = _one_of("mode", values.pop("mode", MODES[0]), MODES)
    if mode == "listener" and "streamid" in values:
        raise ConfigError("has a streamid, which only a caller sends")
    latency = values.pop("latency", str(DEFAULT_LATENCY_MS))
    if not re.fullmatch(r"\d{1,5}", latency) or int(latency) > LONGEST_LATENCY_MS:
        raise ConfigError(f"latency must be 0 to {LONGEST_LATENCY_MS} milliseconds")
    secrets = values if passphrase is None else {**values, "passphrase": passphrase}
    _check_secrets(secrets)
    return SrtAddress(host=host, port=port, mode=mode, latency_ms=int(latency), secrets=secrets)


def _check_secrets(secrets: Mapping[str, str]) -> None:
    if "pbkeylen" in secrets:
        _one_of("pbkeylen", secrets["pbkeylen"], KEY_BYTES)
        if "passphrase" not in secrets:
            raise ConfigError("has a pbkeylen, and no passphrase to make a key of")
    passphrase, stream_id = secrets.get("passphrase"), secrets.get("streamid")
    if passphrase is not None and not SHORTEST_PASSPHRASE <= len(passphrase.encode()) <= LONGEST_PASSPHRASE:
        raise ConfigError(f"the passphrase must have {SHORTEST_PASSPHRASE} to {LONGEST_PASSPHRASE} bytes")
    if stream_id is not None and not 0 < len(stream_id.encode()) <= LONGEST_STREAM_ID:
        raise ConfigError(f"streamid must have 1 to {LONGEST_STREAM_ID} bytes")
    if not all(value.isprintable() for value in secrets.values()):
        raise ConfigError("streamid and passphrase must not hold control characters")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ConfigError(f"{name} must be {', '.join(choices[:-1])} or {choices[-1]}")
    return value
