"""How long an avatar goes on sounding after it was told to stop."""

from collections.abc import Callable

from bridge.ear import Ear
from bridge.media.access_unit import AccessUnit
from bridge.media.clock import NS_PER_MS, NS_PER_S
from bridge.media.opus import packet_duration_ns

# Inside a word sound stops for up to 150 ms (closure of p, t, k), between words for 200: longer silence was asked for.
_SILENCE_NS = 250 * NS_PER_MS
# Whoever still speaks by then was not interrupted, or answers already.
_GIVE_UP_NS = 5 * NS_PER_S


class Hush:
    """Listens to the avatar's sound as it arrives, from each interruption until it is silent.

    on_silence gets the seconds from `begin` to the arrival of the first silent packet. An avatar that did not sound is
    not counted.
    """

    def __init__(self, on_silence: Callable[[float], None]) -> None:
        self._on_silence = on_silence
        self._ear = Ear(_GIVE_UP_NS)
        self._was_heard = False
        self._silent_since_ns = 0
        self._silence_ns = 0

    def begin(self, now_ns: int) -> None:
        """The avatar was told to stop; `now_ns` is monotonic."""
        if not self._ear.is_open:
            self._ear.open(now_ns)
            self._was_heard, self._silence_ns = False, 0

    def on_sound(self, unit: AccessUnit) -> None:
        """A packet of the avatar's sound has arrived."""
        is_heard = self._ear.hears(unit)
        if is_heard is None:
            return
        if is_heard:
            self._was_heard, self._silence_ns = True, 0
            return
        if not self._silence_ns:
            self._silent_since_ns = unit.arrival_ns
        self._silence_ns += packet_duration_ns(unit.payload)
        if self._silence_ns >= _SILENCE_NS:
            self._ear.close()
            if self._was_heard:
                self._on_silence((self._silent_since_ns - self._ear.opened_ns) / NS_PER_S)
