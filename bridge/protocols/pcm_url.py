"""Where raw sound comes from, and how it is laid out, as a URL says it."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import parse_qsl

from bridge.errors import ConfigError

Encoding = Literal["s16le", "s24le", "s32le", "f32le"]

_SAMPLE_BYTES: Mapping[Encoding, int] = {"s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4}
# What the resampler takes (`dsp.resample`); a source that promises anything else is mistyped.
_RATES_HZ = range(8_000, 192_001)
_CHANNELS = range(1, 9)
_DEFAULT: Mapping[str, str] = {"rate": "16000", "channels": "1", "format": "s16le"}


@dataclass(frozen=True, slots=True)
class PcmFormat:
    """How samples are laid out: interleaved, little-endian.

    rate_hz     8000 to 192000.
    n_channels  1 to 8, in WAVE order.
    """

    rate_hz: int = 16_000
    n_channels: int = 1
    encoding: Encoding = "s16le"

    @property
    def frame_bytes(self) -> int:
        """Of one sample of each channel."""
        return self.n_channels * _SAMPLE_BYTES[self.encoding]


@dataclass(frozen=True, slots=True)
class PcmUrl:
    """`pcm:-` or `pcm:PATH`, with the format in its query.

    path     None: standard input.
    is_live  whoever writes keeps the pace of a clock, such as a sound card.
    """

    path: str | None
    format: PcmFormat
    is_live: bool


@dataclass(frozen=True, slots=True)
class DeviceUrl:
    """`alsa:NAME` or `pulse:NAME`, with rate and channels in its query.

    name  as `arecord -L` or `pactl list short sources` shows it; empty: the system's own choice.
    """

    scheme: str
    name: str
    format: PcmFormat

    def __str__(self) -> str:
        return f"{self.scheme}:{self.name}"


def parse_device(url: str) -> DeviceUrl:
    """(alsa|pulse):[NAME][?rate=…&channels=…]. Raises ConfigError."""
    scheme, _, rest = url.partition(":")
    name, _, query = rest.partition("?")
    if not name.isprintable():
        raise ConfigError("the device's name holds control characters")
    words = read_query(query, {"rate": "48000", "channels": "1"})
    return DeviceUrl(scheme, name, format_of({**words, "format": "s16le"}))


def parse_url(url: str) -> PcmUrl:
    """pcm:(-|PATH)[?rate=…&channels=…&format=…&live=yes|no]. Raises ConfigError."""
    path, _, query = url.partition(":")[2].partition("?")
    if not path:
        raise ConfigError("pcm: needs - for standard input, or the path of a FIFO or a file")
    words = read_query(query, {**_DEFAULT, "live": "no"})
    if words["live"] not in ("yes", "no"):
        raise ConfigError(f"live={words['live']}: yes or no")
    return PcmUrl(None if path == "-" else path, format_of(words), words["live"] == "yes")


def parse_listening_url(url: str) -> PcmFormat | None:
    """ws:[?rate=…&channels=…&format=…]. None: whoever connects says what it sends. Raises ConfigError."""
    path, _, query = url.partition(":")[2].partition("?")
    if path:
        raise ConfigError("ws: has no address behind it; whoever sends connects to the API")
    return format_of(read_query(query, _DEFAULT)) if query else None


def read_query(query: str, default: Mapping[str, str]) -> dict[str, str]:
    """The values of a query, for the keys of `default`. Raises ConfigError for any other key."""
    words = dict(default)
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in default:
            near = difflib.get_close_matches(key, default, 1) or [*default]
            raise ConfigError(f"?{key}= is not known here; did you mean {'=, '.join(near)}=?")
        words[key] = value
    return words


def format_of(words: Mapping[str, str]) -> PcmFormat:
    """What `rate`, `channels` and `format` say. Raises ConfigError."""
    encoding = next((known for known in get_args(Encoding) if known == words["format"]), None)
    if encoding is None:
        raise ConfigError(f"format={words['format']} is none of {', '.join(get_args(Encoding))}")
    return PcmFormat(_number("rate", words, _RATES_HZ), _number("channels", words, _CHANNELS), encoding)


def _number(key: str, words: Mapping[str, str], valid: range) -> int:
    text = words[key]
    if not text.isascii() or not text.isdigit() or int(text) not in valid:
        raise ConfigError(f"{key}={text} is no number from {valid[0]} to {valid[-1]}")
    return int(text)
