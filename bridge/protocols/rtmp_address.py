"""Where to publish by RTMP: URLs, and the references by which a server sends its publisher elsewhere."""

from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

from bridge.errors import ConfigError

# A URL with a token or two; a command of the server's has room for far more.
_MAX_REFERENCE_CHARACTERS = 2_048


@dataclass(frozen=True, slots=True)
class RtmpAddress:
    """Where to publish. The stream name is the stream key: it stays out of `repr`."""

    host: str
    port: int
    is_tls: bool
    app: str
    tc_url: str = field(repr=False)
    stream_name: str = field(repr=False)


def parse_url(url: str, stream_key: str | None = None) -> RtmpAddress:
    """Split rtmp[s]://host[:port]/app[/key][?query]. Raises ConfigError, which does not repeat the URL.

    With a stream_key the whole path is the application, and a query belongs to it, as OBS has it; without one the
    last path segment is the key, and a query belongs to that.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError("the RTMP URL has a malformed host or port") from None
    if parts.scheme not in ("rtmp", "rtmps"):
        raise ConfigError("an RTMP URL starts with rtmp:// or rtmps://")
    if not parts.hostname:
        raise ConfigError("the RTMP URL names no host")
    if "@" in parts.netloc:
        raise ConfigError("the RTMP URL holds user info, which RTMP has no field for; put it into the stream key")
    query = f"?{parts.query}" if parts.query else ""
    if stream_key is not None:
        app, stream_name = parts.path.strip("/") + query, stream_key
    else:
        app, _, stream_name = parts.path.strip("/").rpartition("/")
        stream_name += query
    if not app.partition("?")[0] or not stream_name.partition("?")[0]:
        raise ConfigError("the RTMP URL needs an application and a stream key: rtmp://host/app/key")
    is_tls = parts.scheme == "rtmps"
    return RtmpAddress(
        host=parts.hostname,
        port=port or (443 if is_tls else 1935),
        is_tls=is_tls,
        app=app,
        tc_url=f"{parts.scheme}://{parts.netloc}/{app}",
        stream_name=stream_name,
    )


def resolve(address: RtmpAddress, reference: str) -> RtmpAddress:
    """Where a server sends us by a tcUrl (RFC 3986 §4.1: absolute, or relative to the one it has); empty: there again.

    Raises ConfigError, which does not repeat the reference.
    """
    if not reference:
        return address
    if len(reference) > _MAX_REFERENCE_CHARACTERS:
        raise ConfigError(f"the tcUrl has {len(reference)} characters; at most {_MAX_REFERENCE_CHARACTERS} are taken")
    try:
        if not urlsplit(reference).scheme:
            # urllib resolves references for the schemes that it knows, and RTMP is none of them.
            scheme, _, rest = address.tc_url.partition(":")
            reference = scheme + urljoin(f"http:{rest}", reference).removeprefix("http")
    except ValueError:
        raise ConfigError("the tcUrl has a malformed host or port") from None
    return parse_url(reference, address.stream_name)
