"""The URLs of inputs: what each kind may say."""

from pathlib import PurePath

from bridge.errors import ConfigError
from bridge.protocols import pcm_url, rtmp_address

# Sound that has an end, so that it can be looped, and begun elsewhere than at its beginning.
FINITE_SCHEMES = ("file", "http", "https", "clip")
# What hears the machine itself, and whoever writes on it.
MACHINE_SCHEMES = ("pcm", "alsa", "pulse")
# With a host in them.
NETWORK_SCHEMES = ("http", "https", "rtsp", "rtmp")
# What waits for somebody who sends.
LISTENING_SCHEMES = ("whip", "ws")
# Live sources at the pace of a clock that is not ours. What comes over a WebSocket is paced by ours.
CLOCKED_SCHEMES = ("rtsp", "rtmp", "sdp", "whip", *MACHINE_SCHEMES)
SCHEMES = (*FINITE_SCHEMES, "rtsp", "rtmp", "sdp", *LISTENING_SCHEMES, *MACHINE_SCHEMES, "tone", "silence")

_DEFAULT_TONE_HZ = 440.0


def check_url(url: str) -> None:
    """Raises ConfigError, which does not repeat the URL, for what no input can be."""
    scheme, _, rest = url.partition(":")
    match scheme:
        case "file" | "sdp":
            if not rest:
                raise ConfigError("names no file")
        case "rtmp":
            rtmp_address.parse_url(url)
        case "alsa" | "pulse":
            pcm_url.parse_device(url)
        case "http" | "https" | "rtsp":
            if not rest.startswith("//"):
                raise ConfigError(f"must be {scheme}://HOST/PATH")
        case "pcm":
            pcm_url.parse_url(url)
        case "clip":
            if rest:
                raise ConfigError("clip: has nothing behind it; what is to be rendered stands in `rendering`")
        case "whip":
            if rest:
                raise ConfigError("whip: has nothing behind it; publishers are told where the API takes them")
        case "ws":
            pcm_url.parse_listening_url(url)
        case "tone" | "silence":
            tone_hz(url)
        case _:
            known = ", ".join(f"{known}:" for known in SCHEMES)
            raise ConfigError(f"{scheme}: is no input of this version; there is {known}")


def local_path(url: str) -> str | None:
    """The path that a URL names on this machine, taken literally (% has no meaning in it); None: it names none."""
    scheme, _, rest = url.partition(":")
    match scheme:
        case "file":
            # RFC 8089: PATH, /PATH or ///PATH.
            return rest.removeprefix("//") if rest.startswith("///") else rest
        case "sdp":
            return rest
        case "pcm":
            return pcm_url.parse_url(url).path
    return None


def placed(url: str, directory: PurePath) -> str:
    """The same URL, its path absolute if it has one and that was relative to `directory`."""
    path = local_path(url)
    if path is None:
        return url
    scheme, _, rest = url.partition(":")
    _, question_mark, query = rest.partition("?") if scheme == "pcm" else ("", "", "")
    return f"{scheme}:{directory / path}{question_mark}{query}"


def tone_hz(url: str) -> float | None:
    """Of `tone:`, 440 Hz, or `tone:HZ`, 20 to 20000; None: `silence:`. Raises ConfigError."""
    scheme, _, rest = url.partition(":")
    if scheme == "silence":
        if rest:
            raise ConfigError("silence: has nothing behind it")
        return None
    if not rest:
        return _DEFAULT_TONE_HZ
    if not rest.isascii() or not rest.isdigit() or not 20 <= int(rest) <= 20_000:
        raise ConfigError("tone: takes a frequency from 20 to 20000 Hz, as in tone:1000")
    return float(rest)
