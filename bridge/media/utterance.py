"""Words that were said, and when they sounded."""

from dataclasses import dataclass, replace
from typing import Literal, Self

# As of one event: a service's message may have a megabyte, and no turn of a conversation comes near this.
MAX_CHARACTERS = 8_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """What one side of a conversation has said in one go, as far as it has sounded.

    speaker   host: whoever speaks to the avatar.  name: what people call the speaker.
    begins_ns, ends_ns  session time of its sound.
    is_cut    it was broken off, and what was not said is left out, by an estimate.
    """

    speaker: Literal["host", "avatar"]
    name: str
    text: str
    begins_ns: int
    ends_ns: int
    is_cut: bool = False

    def within(self, begins_ns: int, ends_ns: int | None) -> Self | None:
        """The same with times that count from `begins_ns`, as far as it lies in that time; None: it does not."""
        begins = max(self.begins_ns, begins_ns)
        ends = self.ends_ns if ends_ns is None else min(self.ends_ns, ends_ns)
        return replace(self, begins_ns=begins - begins_ns, ends_ns=ends - begins_ns) if begins < ends else None
