"""Every way in which the local avatar service can be made to misbehave, by name.

Faults are written NAME[:VALUE], on the command line for all sessions and as `fault=` in the URL for one, and combine.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import structlog

log = structlog.get_logger()

Unit = Literal["seconds", "percent", "ppm"]

# What the service sends of itself when a client connects, in this order.
STEPS = ("success", "offer", "created", "updated")

# A day; a share of the packets; clocks of computers err by tens of ppm, and 1 % can be heard.
_RANGES: Mapping[Unit, tuple[float, float]] = {
    "seconds": (0, 86_400),
    "percent": (0, 100),
    "ppm": (-10_000, 10_000),
}
# What clients wait for an upgrade: 10 to 30 s. A fault that accepts late is to outlast them.
OPEN_TIMEOUT_S = 60.0
_NUMBER = re.compile(r"-?(\d{1,9}(\.\d{0,9})?|\.\d{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class FaultKind:
    """What stands behind a fault's colon: a number of a unit, one of `choices`, or nothing."""

    meaning: str
    unit: Unit | None = None
    default: float = 0.0
    choices: tuple[str, ...] = ()
    most: float | None = None  # where the unit allows more

    @property
    def usage(self) -> str:
        return ":" + "|".join(self.choices) if self.choices else f"[:{self.unit.upper()}]" if self.unit else ""


def _after(default_s: float, meaning: str) -> FaultKind:
    return FaultKind(meaning, "seconds", default_s)


# Seconds count from the first media connection for what happens to media, else from the session's beginning.
FAULTS: Mapping[str, FaultKind] = {
    # signalling
    "no-offer": FaultKind("no offer; one of the client's is answered"),
    "late-offer": _after(3, "the offer comes so long after the rest of the greeting"),
    "duplicate-offers": _after(2, "a second media connection is offered, and the first closed once that one is up"),
    "renegotiate": _after(2, "a further offer on the same media connection"),
    "media-close": _after(3, "the media connection is closed, the WebSocket stays"),
    "media-lost": _after(3, "the media connection carries nothing any more, nobody says so; another one would"),
    "trickle-only": FaultKind("candidates follow the offer, none stands in it"),
    "early-candidates": FaultKind("candidates come before the offer, none stands in it"),
    # media
    "no-reports": FaultKind("no RTCP sender reports"),
    "late-reports": _after(3, "the first RTCP sender report comes so late"),
    "vp8-only": FaultKind("pictures are VP8, and nothing else is offered"),
    "size-change": _after(3, "pictures change from upright to wide, or back"),
    "sps-change": _after(3, "pictures change their H.264 profile"),
    "loss": FaultKind("RTP packets are lost, also sent again", "percent", 2),
    "reorder": FaultKind("RTP packets are overtaken", "percent", 2),
    "video-delay": FaultKind("pictures travel so much longer than sound", "seconds", 0.08, most=10),
    "timestamp-reset": _after(3, "RTP timestamps jump, on each track by another distance"),
    "ssrc-change": _after(3, "both tracks begin anew with SSRC, timestamp and sequence number"),
    "clock-drift": FaultKind("the clock of media is too fast, or with a minus too slow", "ppm", 100),
    "media-stall": _after(5, "no picture and no sound any more"),
    "ignore-pli": FaultKind("no keyframe is made when one is asked for"),
    # the conversation
    "barge-in": _after(3, "the service hears somebody speak, also in the role speak"),
    # rooms
    "late-avatar": _after(3, "the avatar joins the room so late"),
    "avatar-leaves": _after(3, "the avatar leaves the room, and joins it again two seconds later"),
    "republish": _after(3, "the avatar publishes its tracks anew"),
    "repeat-data": FaultKind("data packets come again, behind later ones"),
    # ends: at once, or so far into the session
    "bad-licence": _after(0, "the licence is refused"),
    "balance": _after(0, "the balance is used up"),
    "points": _after(0, 'no event, the WebSocket closes with code 1000 and the reason "Insufficient points"'),
    "gpu-full": _after(0, "no GPU is free"),
    "connection-limit": _after(0, "too many connections"),
    "backend-error": _after(0, "the service behind the service has failed"),
    "session-limit": _after(60, "the session ends, as the service says at its beginning"),
    # spellings and frames
    "bad-json": FaultKind("text frames that are no JSON, or no message"),
    "unknown-events": FaultKind("events that no document names"),
    "binary-frames": FaultKind("binary frames"),
    "malformed-events": FaultKind("events without what they are for"),
    "nesting": FaultKind("where the values of events stand", choices=("wrapped", "flat", "double", "raw")),
    "spelling": FaultKind("how events and their values are named", choices=("camel", "snake", "bare", "upper")),
    "text-deltas": FaultKind("the older interface: words of an answer are mere text, not an object"),
    "binary-sound": FaultKind("the older interface: an answer's sound comes in binary frames"),
    "alias": FaultKind("whose other names events and values have", choices=("openai", "apps", "terse")),
    "sdp-string": FaultKind("the offer's SDP is a string, not an object"),
    "ice-servers": FaultKind("how ICE servers are written", choices=("none", "string", "list", "snake")),
    # video generation
    "rest-status": FaultKind("every request is refused with a page of HTML", choices=("401", "402", "429", "503")),
    "clip-status": FaultKind("a clip that is being rendered has a status that no document names"),
    "clip-fails": FaultKind("no clip can be rendered"),
    "clip-breaks": FaultKind("downloads of clips break off, twice"),
    # the WebSocket
    "slow-accept": FaultKind("the WebSocket's upgrade is answered so late", "seconds", 3, most=OPEN_TIMEOUT_S - 5),
    "close-at": FaultKind("closes instead of taking this step of the greeting", choices=STEPS),
    "mute-at": FaultKind("says nothing from this step of the greeting on", choices=STEPS),
    "ws-drop": _after(5, "the WebSocket's TCP connection is reset"),
    "ws-close": _after(5, "the WebSocket is closed with code 1011"),
    "signal-close": _after(5, "the older interface: the WebSocket of signalling is closed, the other one stays"),
}


class NoSuchFault(ValueError):
    """`describe_faults` tells which there are."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to misbehave: `value` in its kind's unit, `choice` for those that take one, else neither."""

    name: str
    value: float = 0.0
    choice: str = ""

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """Read NAME[:VALUE] as in `FAULTS`.

        Raises NoSuchFault, and ValueError for a value that does not fit.
        """
        name, colon, value = text.partition(":")
        kind = FAULTS.get(name)
        if kind is None:
            raise NoSuchFault(f"{text[:80]}: there is no such fault")
        if kind.choices:
            if value in kind.choices:
                return cls(name, choice=value)
        elif not colon:
            return cls(name, kind.default)
        elif kind.unit and _NUMBER.fullmatch(value):
            least, most = _RANGES[kind.unit]
            most = most if kind.most is None else kind.most
            if least <= float(value) <= most:
                return cls(name, float(value))
            raise ValueError(f"{name}:{value}: {kind.unit} lie between {least:g} and {most:g}")
        raise ValueError(f"{text[:80]}: it is written {name}{kind.usage}")


class Faults:
    """The faults of one session. Of several with one name the last counts."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._by_name = {fault.name: fault for fault in faults}
        self._struck: set[str] = set()

    def and_also(self, texts: Iterable[str]) -> "Faults":
        """These and others as they are written. Raises ValueError as `Fault.parse` does."""
        return Faults([*self._by_name.values(), *map(Fault.parse, texts)])

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def value(self, name: str, default: float = 0.0) -> float:
        """The fault's number, or the default without the fault."""
        return self._by_name[name].value if name in self._by_name else default

    def choice(self, name: str, default: str = "") -> str:
        """The fault's choice, or the default without the fault."""
        return self._by_name[name].choice if name in self._by_name else default

    def strikes(self, name: str) -> bool:
        """Whether the fault was asked for, asked where it takes effect: the first time is logged."""
        fault = self._by_name.get(name)
        if fault is not None and name not in self._struck:
            self._struck.add(name)
            log.info("avatar_fault", fault=name, value=fault.choice or fault.value)
        return fault is not None

    async def commit(self, actions: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        """Do what stands behind each fault that was asked for, when its seconds from now are over.

        Those of one time follow each other as they were asked for.
        """
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for name in sorted(filter(actions.__contains__, self._by_name), key=self.value):
            await asyncio.sleep(began_s + self.value(name) - loop.time())
            self.strikes(name)
            await actions[name]()


def describe_faults() -> str:
    """One line for each fault: how it is written, and what it does."""
    return "\n".join(f"  {name + kind.usage:<42}{_describe(kind)}" for name, kind in FAULTS.items())


def _describe(kind: FaultKind) -> str:
    if kind.unit == "seconds" and not kind.default:
        return f"{kind.meaning} (at once, or so far into the session)"
    return kind.meaning + (f" ({kind.default:g} {kind.unit})" if kind.unit else "")
