"""PCM over a WebSocket, without I/O: what its messages say.

Binary messages hold whole frames of samples. Text messages are JSON objects: `open` says how samples are laid out
(rate, channels, format; and the token, where it is wanted), `start` and `end` that somebody begins to speak and has
ended, `interrupt` that the avatar is to stop, `listening` whether it is to hear what comes.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bridge.errors import ConfigError, RemoteProtocolError
from bridge.protocols.pcm import samples_of
from bridge.protocols.pcm_url import PcmFormat, format_of

# One second of the richest format there is, and more than two of 48 kHz stereo; ten would still be no help to anybody.
MAX_MESSAGE_BYTES = 1 << 18

Word = Literal["start", "end", "interrupt"]

# RFC 6455 §7.4.1 and the IANA registry.
UNSUPPORTED, MALFORMED, POLICY, TRY_LATER = 1003, 1007, 1008, 1013


class Refused(RemoteProtocolError):
    """code  that the connection is closed with."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message, reason="message")
        self.code = code


@dataclass(frozen=True, slots=True)
class Opened:
    """The samples of this connection are laid out like this."""

    format: PcmFormat

    def reply(self) -> str:
        """What the sender is told."""
        told = {"rate": self.format.rate_hz, "channels": self.format.n_channels, "format": self.format.encoding}
        return json.dumps({"type": "opened", **told})


@dataclass(frozen=True, slots=True)
class Sound:
    """samples  shape (n, n_channels); float32 is finite and in range."""

    samples: NDArray[np.int16] | NDArray[np.float32]
    rate_hz: int


@dataclass(frozen=True, slots=True)
class Listening:
    on: bool


Message = Opened | Sound | Listening | Word


class PcmReader:
    """Reads one connection's messages. format: what the configuration says of all, None: the first one says it."""

    def __init__(self, format: PcmFormat | None) -> None:
        self._configured = format
        self._format = format
        self._has_begun = False

    def read(self, message: str | bytes) -> Message:
        """Raises Refused."""
        if isinstance(message, bytes):
            self._has_begun = True
            return self._sound(message)
        said = parse(message)
        match said.get("type"):
            case "open":
                return self._open(said)
            case "start":
                return "start"
            case "end":
                return "end"
            case "interrupt":
                return "interrupt"
            case "listening":
                if not isinstance(on := said.get("on"), bool):
                    raise Refused(MALFORMED, "listening needs on, true or false")
                return Listening(on)
        raise Refused(UNSUPPORTED, "type is none of open, start, end, interrupt and listening")

    def _open(self, said: dict[str, Any]) -> Opened:
        if self._has_begun:
            raise Refused(POLICY, "open comes before all sound, and once")
        self._has_begun = True
        given = {key: str(said[key]) for key in ("rate", "channels", "format") if key in said}
        if given or self._configured is None:
            try:
                self._format = format_of({"rate": "16000", "channels": "1", "format": "s16le"} | given)
            except ConfigError as error:
                raise Refused(UNSUPPORTED, str(error)[:100]) from None
        assert self._format is not None
        if self._configured not in (None, self._format):
            raise Refused(UNSUPPORTED, f"this input takes {Opened(self._configured).reply()}")
        return Opened(self._format)

    def _sound(self, data: bytes) -> Sound:
        if self._format is None:
            raise Refused(POLICY, 'samples before {"type": "open", "rate": …, "channels": …, "format": …}')
        if len(data) % self._format.frame_bytes:
            frame = f"{self._format.frame_bytes} bytes"
            raise Refused(MALFORMED, f"a message of {len(data)} bytes holds no whole number of frames of {frame}")
        samples = samples_of(data, self._format)
        if samples.dtype == np.float32:
            samples = np.clip(np.nan_to_num(samples, nan=0.0), -1, 1)
        return Sound(samples, self._format.rate_hz)


def parse(message: str) -> dict[str, Any]:
    """The object of a text message. Raises Refused."""
    try:
        said = json.loads(message)
    except (ValueError, RecursionError):
        raise Refused(MALFORMED, "a text message is no JSON") from None
    if not isinstance(said, dict):
        raise Refused(MALFORMED, "a text message is no JSON object")
    return said
