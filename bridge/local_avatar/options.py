"""What the local avatar service can be told: how it looks, and how it is to misbehave."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bridge.errors import ConfigError
from bridge.redact import Secret

STEPS = ("success", "offer", "created", "updated")


@dataclass(frozen=True, slots=True)
class _FaultKind:
    """What stands behind a fault's colon: `default_s` seconds, one of `choices`, or nothing."""

    meaning: str
    default_s: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def usage(self) -> str:
        return ":" + "|".join(self.choices) if self.choices else "[:SECONDS]" if self.default_s is not None else ""


FAULTS: Mapping[str, _FaultKind] = {
    "ws-drop": _FaultKind("the WebSocket's TCP connection is reset after so many seconds", default_s=5.0),
    "media-stall": _FaultKind("no picture and no sound after so many seconds of media", default_s=5.0),
    "ignore-pli": _FaultKind("no keyframe is made when one is asked for"),
    "no-h264": _FaultKind("the offer has no H.264"),
    "close-at": _FaultKind("closes instead of taking this step of the hand-shake", choices=STEPS),
    "mute-at": _FaultKind("says nothing from this step of the hand-shake on", choices=STEPS),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to misbehave: `after_s` for those that take seconds, `step` for those that take one, else neither."""

    name: str
    after_s: float = 0.0
    step: str = ""

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """Read NAME[:VALUE] as in `FAULTS`. Raises ConfigError that lists what there is."""
        name, colon, value = text.partition(":")
        kind = FAULTS.get(name)
        if kind is None:
            known = ", ".join(name + kind.usage for name, kind in FAULTS.items())
            raise ConfigError(f"--fault {text}: there is no such fault, only {known}")
        if kind.choices:
            if value in kind.choices:
                return cls(name, step=value)
        elif kind.default_s is None:
            if not colon:
                return cls(name)
        elif not colon:
            return cls(name, after_s=kind.default_s)
        elif value.replace(".", "", 1).isdecimal() and value.isascii():
            return cls(name, after_s=float(value))
        raise ConfigError(f"--fault {text}: it is written {name}{kind.usage}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAvatarOptions:
    """The local avatar service.

    listen_port    0: any free one.
    license        the only one accepted; None: any that is not empty.
    size_px        width and height of the picture.
    profile        of H.264, as the pictures have it and the offer says.
    timecode       prints a machine-readable frame counter with the encode-complete time into the picture.
    flash          a white flash with a beep of 1 kHz at known media times.
    """

    listen_host: str = "127.0.0.1"
    listen_port: int = 0
    license: Secret | None = None
    size_px: tuple[int, int] = (720, 1280)
    fps: int = 25
    profile: Literal["baseline", "main", "high"] = "baseline"
    timecode: bool = False
    flash: bool = False
    faults: Sequence[Fault] = ()

    def fault(self, name: str) -> Fault | None:
        """The fault of this name, if it was asked for."""
        return next((fault for fault in self.faults if fault.name == name), None)
