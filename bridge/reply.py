"""How long an avatar takes to answer."""

from collections.abc import Callable

from bridge.ear import Ear
from bridge.media.access_unit import AccessUnit
from bridge.media.clock import NS_PER_S

# A tool may be asked first (its deadline is 10 s, usually); what sounds later answers something else.
_GIVE_UP_NS = 30 * NS_PER_S


class Reply:
    """Listens to the avatar's sound as it arrives, from the end of a turn until it is heard.

    on_reply gets the seconds from the end of the speech to the arrival of the first packet that sounds. An avatar that
    still sounded when the turn was over is not counted.
    """

    def __init__(self, on_reply: Callable[[float], None]) -> None:
        self._on_reply = on_reply
        self._ear = Ear(_GIVE_UP_NS)
        self._was_silent = False

    def begin(self, spoken_until_ns: int) -> None:
        """A turn is over, whose speech ended at `spoken_until_ns`, monotonic."""
        self._ear.open(spoken_until_ns)
        self._was_silent = False

    def cancel(self) -> None:
        """There will be no answer to that: somebody speaks on, or the avatar is gone."""
        self._ear.close()

    def on_sound(self, unit: AccessUnit) -> None:
        """A packet of the avatar's sound has arrived."""
        is_heard = self._ear.hears(unit)
        if is_heard is None:
            return
        if not is_heard:
            self._was_silent = True
            return
        self._ear.close()
        if self._was_silent:
            self._on_reply((unit.arrival_ns - self._ear.opened_ns) / NS_PER_S)
