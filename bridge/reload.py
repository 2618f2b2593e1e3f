"""What differs between two configurations, in terms of what has to be done about it."""

from collections.abc import Mapping
from dataclasses import dataclass

from bridge.config import Config, OutputConfig, SessionConfig


@dataclass(frozen=True, slots=True)
class OutputChanges:
    """Of one session, of which nothing else has changed."""

    removed: frozenset[str]
    put: Mapping[str, OutputConfig]


@dataclass(frozen=True, slots=True)
class Changes:
    """What makes a daemon of the old configuration one of the new.

    ended, begun  sessions that are gone, or new.
    restarted     sessions that begin anew, and for which keys.
    outputs       of sessions that go on: outputs alone differ.
    pending       keys that only a restart of the daemon can apply.
    """

    ended: frozenset[str]
    begun: frozenset[str]
    restarted: Mapping[str, tuple[str, ...]]
    outputs: Mapping[str, OutputChanges]
    pending: tuple[str, ...]

    @property
    def are_none(self) -> bool:
        return not (self.ended or self.begun or self.restarted or self.outputs or self.pending)


# What is read each time that it is needed, and therefore is new at once.
_READ_ANEW = {"sessions", "drain_s", "max_sessions"}

Sessions = Mapping[str, SessionConfig]


def after_reload(running: Sessions, before: Sessions, after: Sessions) -> dict[str, SessionConfig]:
    """The sessions that run once the file, which said `before`, says `after`.

    What it says anew of a session counts, and takes the place of what API calls have made of it; of what it says as
    before nothing does.
    """
    new = {name: session for name, session in after.items() if before.get(name) != session}
    gone = before.keys() - after.keys()
    return {name: session for name, session in running.items() if name not in gone} | new


def changes(old: Config, new: Config) -> Changes:
    common = old.sessions.keys() & new.sessions.keys()
    # Sessions were opened with these; what outputs of theirs need of them is fixed as well.
    keys = {name: _differing(old.sessions[name], new.sessions[name]) for name in sorted(common)}
    return Changes(
        ended=frozenset(old.sessions.keys() - common),
        begun=frozenset(new.sessions.keys() - common),
        restarted={name: differing for name, differing in keys.items() if set(differing) - {"outputs"}},
        outputs={
            name: _output_changes(old.sessions[name], new.sessions[name])
            for name, differing in keys.items()
            if differing == ("outputs",)
        },
        pending=tuple(key for key in _differing(old, new) if key not in _READ_ANEW),
    )


def _output_changes(old: SessionConfig, new: SessionConfig) -> OutputChanges:
    return OutputChanges(
        removed=frozenset(old.outputs.keys() - new.outputs.keys()),
        put={name: output for name, output in new.outputs.items() if old.outputs.get(name) != output},
    )


def _differing(old: Config | SessionConfig, new: Config | SessionConfig) -> tuple[str, ...]:
    return tuple(key for key in type(old).model_fields if getattr(old, key) != getattr(new, key))
