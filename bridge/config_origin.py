"""Where the parts of a session's configuration come from: the operator's file, or an API call."""

from dataclasses import dataclass

from bridge.config import SessionConfig


@dataclass(frozen=True, slots=True)
class StrangeParts:
    """The parts of a session that API calls have written: wherever they lead, the URL policy judges.

    avatar    its tools' webhooks too.  inputs, outputs: by name.  A slate that calls have written leads nowhere.
    """

    avatar: bool = False
    inputs: frozenset[str] = frozenset()
    outputs: frozenset[str] = frozenset()
    webhooks: bool = False


# What the operator's file defines.
NONE_STRANGE = StrangeParts()


@dataclass(frozen=True, slots=True)
class Definition:
    """What makes a session."""

    config: SessionConfig
    strange: StrangeParts = NONE_STRANGE
